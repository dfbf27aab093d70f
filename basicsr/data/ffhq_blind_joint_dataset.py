"""Clean faces and two damaged copies of each, one damaged little and one much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from basicsr.data.degradation import LARGE, SMALL, DegradationRanges
from basicsr.data.ffhq_blind_dataset import FFHQBlindDataset
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class FFHQBlindJointDataset(FFHQBlindDataset):
    """As `FFHQBlindDataset`, with 'in' damaged little and 'in_large_de' damaged much (stage III).

    Args:
        opt: as there; `blur_sigma`, `downsample_range`, `noise_range` and `jpeg_range` are the small damage (missing
            ones as SMALL), the same keys with `_large` the large one (missing ones as LARGE), for `gt_size` pixels.
    """

    OPTION_KEYS = FFHQBlindDataset.OPTION_KEYS | {
        f'{key}_large' for key in ('blur_sigma', 'downsample_range', 'noise_range', 'jpeg_range')
    }
    default_ranges = SMALL

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self.large_ranges = DegradationRanges.from_options(opt, LARGE.scaled(self.gt_size), suffix='_large')

    def _inputs(self, image: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        return {**super()._inputs(image, rng), 'in_large_de': self.damage(image, self.large_ranges, rng)}
