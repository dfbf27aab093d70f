"""A check of what networks return."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


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
