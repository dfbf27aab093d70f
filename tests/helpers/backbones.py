"""Weights of torchvision networks, drawn."""

from __future__ import annotations

import math

import torch
import torchvision
from torch import Tensor


def backbone_state(arch: str, depth: int, seed: int = 1) -> dict[str, Tensor]:
    """Return random weights of the first layers of a torchvision network under torchvision's names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device('meta'):
        shapes = torchvision.models.get_model(arch, weights=None).features[:depth].state_dict()
    return {
        f'features.{key}': torch.randn(value.shape, generator=generator) * math.sqrt(2 / max(1, value[0].numel()))
        if value.ndim > 1
        else torch.randn(value.shape, generator=generator) * 0.1
        for key, value in shapes.items()
    }
