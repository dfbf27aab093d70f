"""Measures of how close a restoration comes to the truth: one table, and one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim
from basicsr.utils.registry import METRIC_REGISTRY

__all__ = ['METRICS', 'Metric', 'calculate_metric', 'calculate_psnr', 'calculate_ssim']


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Args:
        name: for people.
        function: what computes it, also in METRIC_REGISTRY.
        better: 'higher' or 'lower'.
        limits: least and greatest value.
        inputs: what it is computed from.
    """

    name: str
    function: Callable[..., float]
    better: str
    limits: tuple[float, float]
    inputs: tuple[str, ...]


METRICS: dict[str, Metric] = {
    'calculate_psnr': Metric('PSNR (dB)', calculate_psnr, 'higher', (0.0, float('inf')), ('img', 'img2')),
    'calculate_ssim': Metric('SSIM', calculate_ssim, 'higher', (-1.0, 1.0), ('img', 'img2')),
}


def calculate_metric(data: Mapping[str, np.ndarray], opt: Mapping[str, Any]) -> float:
    """The metric that `opt['type']` names.

    Args:
        data: the pictures, RGB uint8 (H,W,3), under the metric's input names.
        opt: 'type' and the metric's own arguments; left as it is.

    Raises:
        KeyError: no such metric; the message names the nearest.
        ValueError: pictures that cannot be compared.
    """
    return METRIC_REGISTRY.build(opt, **data)
