"""Stages of training, built by name: `build_model(opt)` with `opt['model_type']`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from basicsr.utils.errors import extra

with extra('train'):
    import skimage as skimage  # of the metrics of validation
    import tensorboard as tensorboard

from basicsr.models.base_model import BaseModel, NonFiniteLossError
from basicsr.models.codeformer_idx_model import CodeFormerIdxModel
from basicsr.models.codeformer_joint_model import CodeFormerJointModel, CodeFormerModel
from basicsr.models.codeformerpp_model import CodeFormerPPAlignModel, CodeFormerPPModel
from basicsr.models.ridfr_model import RIDFRContentModel, RIDFRModel
from basicsr.models.vqgan_model import VQGANModel
from basicsr.utils.registry import MODEL_REGISTRY

__all__ = [
    'BaseModel',
    'CodeFormerIdxModel',
    'CodeFormerJointModel',
    'CodeFormerModel',
    'CodeFormerPPAlignModel',
    'CodeFormerPPModel',
    'NonFiniteLossError',
    'RIDFRContentModel',
    'RIDFRModel',
    'VQGANModel',
    'build_model',
]


def build_model(opt: Mapping[str, Any], device: torch.device | str = 'cpu', is_train: bool = True) -> BaseModel:
    """Return the stage named by `opt['model_type']`, for training, or (`is_train` false) with its network only.

    Raises:
        KeyError: `model_type` is missing or unknown.
    """
    return MODEL_REGISTRY.get(opt['model_type'])(opt, device, is_train)
