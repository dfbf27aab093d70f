"""Precisions that a machine computes natively."""

from __future__ import annotations

import torch


def computes_bf16(device: torch.device | str) -> bool:
    """Return True if bf16 is worth it: processors without instructions for it are twenty times slower than in fp32."""
    if torch.device(device).type != 'cpu':
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
