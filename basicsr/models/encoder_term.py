"""Encoder distillation: see in a changed face what the encoder of a trained network sees in the whole one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from basicsr.archs import CodeFormer
from basicsr.archs.factory import load_network
from basicsr.models.base_model import BaseModel, Terms
from basicsr.models.prediction import Prediction
from basicsr.utils.options import OptionError


class EncoderTerm:
    """lambda * mean over sides of |f - f*|^2 / |f*|^2, f the features for the fusion of `in`, f* the teacher's of `gt`.

    With it an encoder alone is trained for another task (colours or parts are missing) beside a Transformer, a fusion
    and a generator that stay as they are. Options (`train:encoder_opt`): `weights` (a checkpoint of a CodeFormer whose
    encoder is the teacher), `loss_weight` (lambda, 1).

    Args:
        model: the stage.
        network: the trained network.

    Raises:
        OptionError: no weights, a weight that is not above 0, or a teacher with other features.
    """

    OPTIONS: Mapping[str, Any] = {'weights': str, 'loss_weight': float}

    def __init__(self, model: BaseModel, network: CodeFormer) -> None:
        section = model.train_opt['encoder_opt']
        self.model, self.sides = model, tuple(network.connect_list)
        self.weight = float(section.get('loss_weight', 1.0))
        if not section.get('weights') or not self.weight > 0:
            raise OptionError('train:encoder_opt: give weights, a checkpoint of a CodeFormer, and a loss_weight above 0')
        teacher = load_network(section['weights'])
        if not isinstance(teacher, CodeFormer):
            raise OptionError(f'train:encoder_opt: {section["weights"]} holds a {type(teacher).__name__}, not a CodeFormer')
        if [teacher.channels_at.get(side) for side in self.sides] != [network.channels_at[side] for side in self.sides]:
            raise OptionError(f'train:encoder_opt: {section["weights"]} has other features than network_g')
        self.teacher = teacher.to(model.device).eval().requires_grad_(False)

    def __call__(self, prediction: Prediction, gt: Tensor) -> Terms:
        """Return the weighted term of faces with the whole ones `gt` (N,3,S,S) in [-1, 1]."""
        with torch.no_grad(), self.model.autocast():
            wanted = self.teacher.encode(gt, self.sides)[1]
        parts = [
            (prediction.seen[side].float() - wanted[side].float()).square().mean() / wanted[side].float().square().mean()
            for side in self.sides
        ]
        return {'l_encoder': self.weight * torch.stack(parts).mean()}
