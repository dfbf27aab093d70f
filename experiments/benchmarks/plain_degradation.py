"""The degradation and its samples written down plainly, to compare the fast ones with (scripts/benchmark.py, tests).

Each step at full size and in float32 with the function that its definition names, nothing shared and nothing left out.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.data.common import read_picture
from basicsr.data.degradation import DegradationRanges, motion_kernel, random_kernel
from basicsr.data.ffhq_blind_dataset import FFHQBlindJointDataset


def plain_degrade(image: np.ndarray, ranges: DegradationRanges, rng: np.random.Generator) -> np.ndarray:
    """Degrade as `basicsr.data.degradation.degrade` does, with the same draws, step by step.

    Args:
        image: float32 (H,W,3) RGB in [0, 1].
        ranges: what to draw the strengths from.
        rng: the only source of chance.

    Returns:
        float32 (H,W,3).
    """
    height, width = image.shape[:2]
    if ranges.motion_kernel_prob and rng.random() < ranges.motion_kernel_prob:
        image = cv2.filter2D(image, -1, motion_kernel(ranges.blur_kernel_size, rng))
    if ranges.blur_sigma:
        image = cv2.filter2D(image, -1, random_kernel(ranges, rng))
    if ranges.downsample_range:
        factor = rng.uniform(*ranges.downsample_range)
        reduced = (max(1, round(width / factor)), max(1, round(height / factor)))
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_LINEAR)
    if ranges.noise_range:
        sigma = np.float32(rng.uniform(*ranges.noise_range) / 255)
        image = image + sigma * rng.standard_normal(image.shape, dtype=np.float32)
    if ranges.jpeg_range:
        quality = round(rng.uniform(*ranges.jpeg_range))
        levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        data = cv2.imencode('.jpg', levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1].astype(np.float32) / 255
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def plain_sample(data: FFHQBlindJointDataset, v: int) -> dict[str, Tensor]:
    """'gt', 'in' and 'in_large_de' of item `v` of a joint dataset, whose faces have `gt_size` and lie on the disk.

    Tables, colour changes and pictures of other sizes are left out.
    """
    rng = np.random.default_rng([data.seed, v])
    flip = data.use_hflip and rng.random() < 0.5
    image = read_picture(data.paths[v % len(data)]).astype(np.float32) / 255
    if flip:
        image = np.ascontiguousarray(image[:, ::-1])
    damaged = [plain_degrade(image, ranges, rng) for ranges in (data.ranges, data.large_ranges)]
    rounded = [np.rint(np.clip(picture, 0, 1) * 255).astype(np.float32) / 255 for picture in damaged]
    pictures = zip(('gt', 'in', 'in_large_de'), (image, *rounded), strict=True)
    return {key: torch.from_numpy(np.ascontiguousarray(((x - 0.5) / 0.5).transpose(2, 0, 1))) for key, x in pictures}
