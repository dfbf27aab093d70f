"""Alignment learning: two references of one person should give one restoration (after RIDFR, carried over to codes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from basicsr.archs import CodeFormer, IDCodeFormer
from basicsr.archs.identity import Identity
from basicsr.models.base_model import BaseModel, Prediction, Terms
from basicsr.utils.options import OptionError


class AlignmentTerm:
    """lambda_align * mean((out_1 - out_2)^2) of the faces restored under the first and the second reference alone.

    Both are decoded through the soft codes, as for the identity term. Options (`train:alignment_opt`): `loss_weight`
    (lambda_align, 0.1), `tau` of the soft codes (1), `every` (1, iterations), `sub_batch` (faces of a batch, 1).

    Args:
        model: the stage.
        network: the trained network.

    Raises:
        OptionError: the network is not conditioned on identity, or a value is out of its range.
    """

    OPTIONS: Mapping[str, Any] = {'loss_weight': float, 'tau': float, 'every': int, 'sub_batch': int}

    def __init__(self, model: BaseModel, network: CodeFormer) -> None:
        section = model.train_opt['alignment_opt']
        if not isinstance(network, IDCodeFormer):
            raise OptionError('train:alignment_opt needs a network that is conditioned on identity (IDCodeFormer)')
        self.model = model
        self.network = network
        self.weight = float(section.get('loss_weight', 0.1))
        self.tau = float(section.get('tau', 1.0))
        self.every = int(section.get('every', 1))
        self.faces = int(section.get('sub_batch', 1))
        if not self.weight > 0 or not self.tau > 0 or self.every < 1 or self.faces < 1:
            raise OptionError('train:alignment_opt: loss_weight and tau must be above 0, every and sub_batch 1 or more')

    def __call__(self, prediction: Prediction, iteration: int, w: float, identity: Identity | None) -> Terms:
        """Return the weighted term, or none in an iteration that has none.

        Raises:
            OptionError: the dataset gives fewer than two references a face.
        """
        if iteration % self.every:
            return {}
        if identity is None or identity.vectors.shape[1] < 2:
            raise OptionError('train:alignment_opt needs two references a face (datasets:train:references: 2)')
        part = identity.first(self.faces)
        # A face with one reference, or whose identity was dropped, has nothing to align.
        both = (part.confidence[:, :2] > 0).all(1)
        one, other = (self._restore(prediction, w, part.only(reference)) for reference in (0, 1))
        distance = F.mse_loss(one, other, reduction='none').mean((1, 2, 3))
        return {'l_align': self.weight * (distance * both).sum() / both.sum().clamp(min=1)}

    def _restore(self, prediction: Prediction, w: float, identity: Identity) -> Tensor:
        """Return the first faces under one reference, (n,3,S,S)."""
        with self.model.autocast():
            logits = self.network.predict_logits(prediction.lq_feat[: self.faces], identity)
            seen = prediction.fused(self.faces)
            return self.network.decode(self.network.lookup_codes_ste(logits, self.tau), seen, w, identity).float()
