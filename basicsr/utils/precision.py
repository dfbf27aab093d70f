"""Which precisions a machine computes in itself."""

from __future__ import annotations

import torch


def computes_bf16(device: torch.device | str) -> bool:
    """Whether bf16 is worth it: processors without instructions for it imitate it, twenty times slower than fp32."""
    if torch.device(device).type != 'cpu':
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
