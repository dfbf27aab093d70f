"""Numbers drawn from names and seeds, so that two implementations of one network hold the same parameters."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def draw(key: str, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """One parameter: matrices ~ N(0, 1/fan_in), norm weights ~ 1 + 0.1 N, the rest ~ 0.05 N."""
    if key.endswith('num_batches_tracked'):
        return np.zeros(shape, np.int64)
    x = np.random.default_rng([zlib.crc32(key.encode()), salt]).standard_normal(shape).astype(np.float32)
    if key.endswith('running_var'):
        return 1 + 0.1 * np.abs(x)
    if len(shape) >= 2:
        return x / np.float32(np.sqrt(int(np.prod(shape[1:]))))
    return 1 + 0.1 * x if key.endswith('weight') else 0.05 * x


def fill(module: nn.Module, salt: int = 0) -> nn.Module:
    """Every parameter and buffer of `module` drawn from its own key."""
    state = {
        key: torch.from_numpy(np.asarray(draw(key, tuple(value.shape), salt))).to(value.dtype).reshape(value.shape)
        for key, value in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module


def image(seed: int, n: int = 1, size: int = 512) -> Tensor:
    """Smooth pictures (n,3,size,size) in [-1, 1]."""
    rng = np.random.default_rng(seed)
    yy, xx = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing='ij')
    out = np.zeros((n, 3, size, size))
    for b in range(n):
        for c in range(3):
            for _ in range(6):
                fx, fy, phase = rng.uniform(0.5, 6), rng.uniform(0.5, 6), rng.uniform(0, 6.28)
                out[b, c] += np.sin(fx * xx * 3.14 + fy * yy * 3.14 + phase) / 6
    out += 0.05 * rng.standard_normal(out.shape)
    return torch.from_numpy(np.clip(out, -1, 1).astype(np.float32))
