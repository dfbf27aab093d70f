"""Whom a conditioned network is told that a batch shows: its references, or what the degraded faces say themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from basicsr.archs import CodeFormer, FaceEmbedder, IDCodeFormer
from basicsr.archs.confidence import InputIdentity
from basicsr.models.base_model import BaseModel, Batch
from basicsr.utils.options import OptionError


class IdentitySource:
    """Embeddings for `IDCodeFormer`, from a batch's references, where it has any.

    Batches without references are restored blind, or, with `train:identity_input`, told what a frozen recogniser sees
    in their low-quality faces, as far as it can be trusted there. Options: `weights` (the recogniser: a file, pack or
    name) and `calibration` (a file of scripts/calibrate_confidence.py).

    Args:
        model: the stage.
        network: that is to be told.

    Raises:
        OptionError: a network that does not ask, or expects other embeddings; a key that is missing.
        CheckpointError: see `FaceEmbedder` and `InputIdentity`.
    """

    OPTIONS: Mapping[str, Any] = {'weights': str, 'calibration': str}

    def __init__(self, model: BaseModel, network: CodeFormer) -> None:
        self.network = network
        self.of_input: InputIdentity | None = None
        section = model.train_opt.get('identity_input')
        if not section:
            return
        if not isinstance(network, IDCodeFormer):
            raise OptionError('train:identity_input needs a network that is conditioned on identity (IDCodeFormer)')
        for key in self.OPTIONS:
            if not section.get(key):
                raise OptionError(f"train:identity_input: '{key}' is missing")
        embedder = FaceEmbedder(section['weights'])
        self._check_dim(embedder.dim, 'train:identity_input:weights')
        self.of_input = InputIdentity(embedder, section['calibration']).to(model.device)

    def __call__(self, batch: Batch, faces: str) -> dict[str, Tensor | None]:
        """What `IDCodeFormer.identify` is to be told of the degraded faces `batch[faces]`; nothing for other networks.

        Raises:
            OptionError: references of another recogniser than the network expects.
        """
        if not isinstance(self.network, IDCodeFormer):
            return {}
        identity, mask = batch.get('identity'), batch.get('identity_mask')
        if identity is not None:
            self._check_dim(identity.shape[-1], 'datasets:train:embeddings')
        elif self.of_input is not None:
            identity, confidence = self.of_input(batch[faces])
            mask = confidence[:, None]
        return {'identity': identity, 'mask': mask}

    def _check_dim(self, dim: int, key: str) -> None:
        expected = getattr(self.network, 'identity_dim', dim)
        if dim != expected:
            raise OptionError(
                f'network_g:identity_dim is {expected}, but embeddings of {dim} numbers come from {key}; set '
                f'network_g:identity_dim: {dim}'
            )
