"""Faces whose encoding is kept, so that another w costs the decoder only, not encoder and Transformer."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from basicsr.archs import CodeFormer, CodeFormerPlusPlus, IDCodeFormer
from basicsr.archs.codeformer_arch import Search
from basicsr.archs.identity import Identity
from basicsr.inference.face_restorer import FaceRestorer

MOST_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class EncodedFace:
    """Output of encoder and Transformer for one face.

    Attributes:
        codes: most likely codes (1,emb_dim,s,s).
        lq_feat: features of the encoder (1,emb_dim,s,s).
        seen: its features for the fusion, by side.
        identity: whom it shows, for a network that takes that.
    """

    codes: Tensor
    lq_feat: Tensor
    seen: Mapping[int, Tensor]
    identity: Identity | None = None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(part.nbytes for part in (self.codes, self.lq_feat, *self.seen.values()))

    def decode(self, network: CodeFormer, w: float, adain: bool) -> Tensor:
        """Decode the face (1,3,S,S) at a fidelity weight, 0 to 1."""
        return network.render(self.codes, self.lq_feat, self.seen if w > 0 else {}, w, adain, self.identity)


def encode(
    network: CodeFormer, face: Tensor, w: float, adain: bool, search: Search | None = None, **cond: Any
) -> EncodedFace:
    """Encode a face and predict its codes.

    Args:
        network: on the device of the face.
        face: (1,3,S,S) in [-1, 1].
        w: at which a search for codes renders, 0 to 1.
        adain: likewise.
        search: see `CodeFormer.forward`.
        cond: `identity`, `mask` and `id_scale`, as `IDCodeFormer.forward` takes them.
    """
    identity = network.identify(1, **cond) if isinstance(network, IDCodeFormer) else None
    lq_feat, seen = network.encode(face, network.connect_list)
    logits = network.predict_logits(lq_feat, identity)
    if search is not None:
        fused = seen if w > 0 else {}

        def render(tried: Tensor) -> Tensor:
            codes = network.lookup_codes_ste(tried).to(lq_feat.dtype)
            return network.render(codes, lq_feat, fused, w, adain, identity)

        logits = search(logits, render)
    return EncodedFace(network.lookup_codes(logits), lq_feat, seen, identity)


class CachingRestorer(FaceRestorer):
    """A `FaceRestorer` that encodes a face once, and decodes it for each w.

    Faces are restored one at a time, which differs from batches by rounding. Where codes are searched for a person,
    that is done once, at the w of the first restoration.

    Args:
        model, device, precision, weights_dir, color_fix, texture: as in `FaceRestorer`.
        most_bytes: memory for what is kept; what was not used for longest is dropped.
    """

    def __init__(
        self,
        model: str | os.PathLike = 'auto',
        device: str = 'auto',
        precision: str = 'fp32',
        weights_dir: str | os.PathLike | None = None,
        color_fix: bool | None = None,
        texture: float | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        super().__init__(model, device, precision, 1, weights_dir, color_fix, texture)
        self.most_bytes = most_bytes
        self._kept: OrderedDict[bytes, EncodedFace] = OrderedDict()
        self._lock = threading.Lock()

    @torch.inference_mode(False)  # a search needs gradients, whatever the caller's mode
    @torch.no_grad()
    def _run(self, batch: Tensor, w: float, adain: bool, **cond: Any) -> list[np.ndarray]:
        network = self.network
        codeformer = cast(CodeFormer, network.prior if isinstance(network, CodeFormerPlusPlus) else network)
        key = _key(batch, cond)
        with self._lock:
            encoded = self._kept.pop(key, None)
        if encoded is None:
            encoded = encode(codeformer, self._moved(batch), w, adain, **cond)
        self._keep(key, encoded)
        output = encoded.decode(codeformer, w, adain)
        texture = self.settings.get('texture', 0)
        if texture and isinstance(network, CodeFormerPlusPlus):
            generated = encoded.decode(codeformer, network.w_generated, adain)
            output = network.tgrn(output, network.texture_source(output, generated), texture)
        return self._pictures(output)

    def _keep(self, key: bytes, encoded: EncodedFace) -> None:
        """Keep what was made last; drop what was not used for longest where it is too much."""
        with self._lock:
            self._kept[key] = encoded
            while sum(face.nbytes for face in self._kept.values()) > self.most_bytes and len(self._kept) > 1:
                self._kept.popitem(last=False)


def _key(face: Tensor, cond: Mapping[str, Any]) -> bytes:
    """Tell encodings apart: by the pixels, and by all that is known of the person."""
    digest = hashlib.sha256(face.numpy().tobytes())
    search = cond.get('search')
    parts = [cond.get('identity'), cond.get('mask'), None if search is None else search.targets]
    for part in parts:
        digest.update(b'-' if part is None else part.float().cpu().numpy().tobytes())
    digest.update(repr((cond.get('id_scale'), None if search is None else search.steps)).encode())
    return digest.digest()
