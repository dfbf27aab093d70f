"""Precisions that a machine computes natively, and a check of what networks return."""

from __future__ import annotations

import platform

import numpy as np
import torch
from torch import Tensor

X86 = frozenset({'x86_64', 'AMD64', 'i386', 'i686'})
BF16_INSTRUCTIONS = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')  # of x86, as `torch.cpu` asks for them


def computes_bf16(device: torch.device | str) -> bool:
    """Return True if bf16 is worth it: processors without instructions for it are twenty times slower than in fp32.

    oneDNN says of every processor with AVX-512 that it supports bf16, and imitates it where the instructions are
    missing, so that on x86 these are asked for.
    """
    if torch.device(device).type != 'cpu':
        return True
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    if platform.machine() not in X86:
        return True
    return any(getattr(torch.cpu, name, lambda: False)() for name in BF16_INSTRUCTIONS)


def check_finite(values: Tensor | np.ndarray, network: str) -> None:
    """Raise RuntimeError where a network returned values that are not finite, as broken weights or half precision do.

    Args:
        values: what it returned.
        network: what it is called, for the message.
    """
    finite = torch.isfinite(values) if isinstance(values, Tensor) else np.isfinite(values)
    if not bool(finite.all()):
        raise RuntimeError(
            f'{network} returned values that are not finite; its weights are broken, or the precision is too low'
        )
