"""Networks, built by name: `build_network({'type': 'CodeFormer', ...})`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.archs.codeformerpp_arch import CodeFormerPlusPlus
from basicsr.archs.content_control_arch import ContentControl
from basicsr.archs.discriminator_arch import VQGANDiscriminator
from basicsr.archs.idcodeformer_arch import IDCodeFormer
from basicsr.archs.projected_discriminator_arch import ProjectedDiscriminator
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.utils.registry import ARCH_REGISTRY

__all__ = [
    'CodeFormer',
    'CodeFormerPlusPlus',
    'ContentControl',
    'IDCodeFormer',
    'ProjectedDiscriminator',
    'VQAutoEncoder',
    'VQGANDiscriminator',
    'build_network',
]


def build_network(opt: Mapping[str, Any]) -> nn.Module:
    """Return the network named by `opt['type']`, with the other items as its arguments.

    Raises:
        KeyError: `type` is missing or unknown.
        TypeError: an argument the network does not have.
    """
    return ARCH_REGISTRY.build(opt)
