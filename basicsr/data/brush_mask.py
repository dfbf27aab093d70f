"""Brush strokes for inpainting: free-form masks as pure functions of a size and a generator.

Strokes zigzag as in Yu et al., Free-Form Image Inpainting with Gated Convolution (ICCV 2019), algorithm 1, with the
numbers and widths of CodeFormer's training (Zhou et al., NeurIPS 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from basicsr.data.degradation import REFERENCE_SIZE


@dataclass(frozen=True)
class BrushRanges:
    """Ranges that strokes are drawn from; both ends are included.

    Args:
        strokes: number of strokes.
        corners: number of segments of a stroke.
        width: of a stroke, pixels of a picture of 512.
        angle: of a segment to the horizontal, radians; segments rise and fall in turns.
        reach: mean length of a segment, as a part of the diagonal; its standard deviation is half of that.
    """

    strokes: tuple[int, int] = (1, 3)
    corners: tuple[int, int] = (8, 27)
    width: tuple[int, int] = (12, 79)
    angle: tuple[float, float] = (4 * np.pi / 15, 8 * np.pi / 15)
    reach: float = 0.125


BRUSH = BrushRanges()


def brush_mask(size: int, rng: np.random.Generator, ranges: BrushRanges = BRUSH) -> np.ndarray:
    """Draw a mask of brush strokes.

    Args:
        size: side in pixels; widths scale with it.
        rng: the only source of chance.
        ranges: of the strokes.

    Returns:
        bool (size,size), true where the picture is hidden; never empty.
    """
    mask = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(*ranges.strokes, endpoint=True)):
        width = max(1, round(rng.integers(*ranges.width, endpoint=True) * size / REFERENCE_SIZE))
        path = np.rint(_path(size, rng, ranges)).astype(np.int32)
        cv2.polylines(mask, [path], isClosed=False, color=1, thickness=width)
    if rng.random() < 0.5:
        mask = mask[::-1]
    if rng.random() < 0.5:
        mask = mask[:, ::-1]
    return mask.astype(bool)


def _path(size: int, rng: np.random.Generator, ranges: BrushRanges) -> np.ndarray:
    """Return the corners (n,2) of a stroke, within the picture."""
    segments = int(rng.integers(*ranges.corners, endpoint=True))
    angles = rng.uniform(*ranges.angle, segments) * np.where(np.arange(segments) % 2, 1, -1)
    mean = ranges.reach * size * np.sqrt(2)
    lengths = np.clip(rng.normal(mean, mean / 2, segments), 0, 2 * mean)
    corners = [rng.uniform(0, size - 1, 2)]
    for angle, length in zip(angles, lengths, strict=True):
        corners.append(np.clip(corners[-1] + length * np.array([np.cos(angle), np.sin(angle)]), 0, size - 1))
    return np.stack(corners)
