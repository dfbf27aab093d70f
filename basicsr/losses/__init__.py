"""Losses, one a file. `build_loss` makes one from its section of an option file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from basicsr.losses.basic_loss import CharbonnierLoss, L1Loss, MSELoss, code_cross_entropy, code_feature_loss
from basicsr.losses.gan_loss import GANLoss, adaptive_disc_weight
from basicsr.losses.identity_loss import IdentityLoss
from basicsr.losses.lpips_loss import LPIPSLoss
from basicsr.losses.metric_loss import DeepMetricLoss
from basicsr.losses.perceptual_loss import PerceptualLoss
from basicsr.losses.registration_loss import RegistrationLoss
from basicsr.utils.registry import LOSS_REGISTRY

__all__ = [
    'CharbonnierLoss',
    'DeepMetricLoss',
    'GANLoss',
    'IdentityLoss',
    'L1Loss',
    'LPIPSLoss',
    'MSELoss',
    'PerceptualLoss',
    'RegistrationLoss',
    'adaptive_disc_weight',
    'build_loss',
    'code_cross_entropy',
    'code_feature_loss',
]


def build_loss(opt: Mapping[str, Any]) -> nn.Module:
    """Return the loss named by `opt['type']`, constructed with the other items of `opt`, which is left as it is.

    Raises:
        KeyError: `type` is missing or unknown; the message names the nearest loss.
    """
    return LOSS_REGISTRY.build(opt)
