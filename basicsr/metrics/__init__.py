"""Measures of how close a restoration comes to the truth: one table, and one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from basicsr.utils.errors import extra

with extra('metrics'):
    import scipy as scipy
    import skimage as skimage

from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim
from basicsr.metrics.table import METRICS, Metric, row_of
from basicsr.utils.registry import METRIC_REGISTRY

__all__ = ['METRICS', 'Metric', 'calculate_metric', 'calculate_psnr', 'calculate_ssim', 'row_of']


def calculate_metric(data: Mapping[str, np.ndarray], opt: Mapping[str, Any]) -> float:
    """Return the metric that `opt['type']` names.

    Args:
        data: the pictures, RGB uint8 (H,W,3), under the metric's input names.
        opt: 'type' and the metric's own arguments; left as it is.

    Raises:
        KeyError: no such metric; the message names the nearest.
        ValueError: pictures that cannot be compared.
    """
    return METRIC_REGISTRY.build(opt, **data)
