"""Identity for a conditioned network in training: of references, or of the degraded faces themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basicsr.archs import CodeFormer, IDCodeFormer
from basicsr.models.base_model import BaseModel, Batch
from basicsr.recognition.confidence import InputIdentity
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.options import OptionError


class IdentitySource:
    """Embeddings for `IDCodeFormer`, from a batch's references, where it has any.

    References are embeddings, or photographs, which a frozen recognizer embeds here (`train:identity_reference`).
    Batches without references are restored blind, or, with `train:identity_input`, told what it sees in their
    low-quality faces, as far as it can be trusted there. Options: `weights` (the recognizer: a file, pack or name), and
    for the input `calibration` (a file of id-codeformer recognizer calibrate).

    Args:
        model: the stage.
        network: that is to be told.

    Raises:
        OptionError: a network that does not ask, or expects other embeddings; a key that is missing.
        CheckpointError: see `FaceEmbedder` and `InputIdentity`.
    """

    INPUT_OPTIONS: Mapping[str, Any] = {'weights': str, 'calibration': str}
    REFERENCE_OPTIONS: Mapping[str, Any] = {'weights': str}

    def __init__(self, model: BaseModel, network: CodeFormer) -> None:
        self.network = network
        self.of_input: InputIdentity | None = None
        self.of_reference: FaceEmbedder | None = None
        section = self._section(model, 'identity_input', self.INPUT_OPTIONS)
        if section:
            embedder = self._embedder(section, 'identity_input')
            self.of_input = InputIdentity(embedder, section['calibration']).to(model.device)
        section = self._section(model, 'identity_reference', self.REFERENCE_OPTIONS)
        if section:
            self.of_reference = self._embedder(section, 'identity_reference').to(model.device)

    def _section(self, model: BaseModel, name: str, options: Mapping[str, Any]) -> Mapping[str, Any] | None:
        section = model.train_opt.get(name)
        if not section:
            return None
        if not isinstance(self.network, IDCodeFormer):
            raise OptionError(f'train:{name} needs a network that is conditioned on identity (IDCodeFormer)')
        for key in options:
            if not section.get(key):
                raise OptionError(f"train:{name}: '{key}' is missing")
        return section

    def _embedder(self, section: Mapping[str, Any], name: str) -> FaceEmbedder:
        embedder = FaceEmbedder(section['weights'])
        self._check_dim(embedder.dim, f'train:{name}:weights')
        named = getattr(self.network, 'recognizer', None)  # kept in checkpoints, for whoever restores with them
        if named and named not in (embedder.name, embedder.recognizer.name) and Path(named).stem != embedder.path.stem:
            raise OptionError(
                f"network_g:recognizer is '{named}', but train:{name}:weights is {embedder.path} ({embedder.name}); "
                'set network_g:recognizer to that file'
            )
        return embedder

    def __call__(self, batch: Batch, faces: str) -> dict[str, Tensor | None]:
        """Return the arguments of `IDCodeFormer.identify` for degraded faces `batch[faces]`; none for other networks.

        Raises:
            OptionError: references of another recognizer than the network expects, or photographs and nobody to embed
                them.
        """
        if not isinstance(self.network, IDCodeFormer):
            return {}
        identity, mask = batch.get('identity'), batch.get('identity_mask')
        if 'reference' in batch:
            if self.of_reference is None:
                raise OptionError("train:identity_reference: 'weights' is missing; datasets:train gives photographs")
            photographs = batch['reference']  # (N,R,3,S,S)
            with torch.no_grad():
                identity = self.of_reference(photographs.flatten(0, 1)).unflatten(0, photographs.shape[:2])
        elif identity is not None:
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
