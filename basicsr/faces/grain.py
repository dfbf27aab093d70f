"""Grain: noise of a picture, measured where a face was and drawn anew on what it was restored to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import cv2
import numpy as np

from basicsr.faces.geometry import apply_affine, compose, invert_affine, warp
from basicsr.utils.image import resized

SIGMAS = (0.7, 1.4, 2.8)  # of Gaussians, pixels; grain of three scales lies between the picture and each, one by one
BLOCK = 8  # side of the blocks whose deviations are compared, pixels
FLAT = 0.25  # share of the blocks that is flat: what deviates there is noise
CORE, LARGEST = 0.5, 1024  # the middle of a crop that is measured: part of its side, and most pixels a side
LEAST, MOST = 1.2, 6.0  # levels of 255 in luma: less is no grain; more is damage, which restoration is to take away
FROM_RGB = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32)
TO_RGB = np.linalg.inv(FROM_RGB).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Grain:
    """Noise of three scales in luma and colours.

    Attributes:
        levels: deviations (3 scales, 3 channels) of the flattest blocks, in levels of 255; channels are luma and two
            differences of colours.
    """

    levels: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray) -> Grain:
        """Measure the noise of RGB uint8 or uint16 (H,W,3), of one block at least, in its flattest parts."""
        unit = np.float32(np.iinfo(image.dtype).max / 255)
        return cls(_deviations(cv2.transform(image / unit, FROM_RGB)))

    @property
    def is_seen(self) -> bool:
        """It is strong enough to be grain."""
        return bool(self.levels[0, 0] >= LEAST)

    def missing_in(self, other: Grain) -> Grain:
        """Return the grain that `other` lacks."""
        missing = np.sqrt(np.clip(np.minimum(self.levels, MOST) ** 2 - other.levels**2, 0, None))
        white = missing[:1] * _unit_deviations() / _unit_deviations()[0]
        return Grain(np.maximum(missing, white))  # features of a small face hide the coarser parts of white noise

    def draw(self, height: int, width: int, factor: float, seed: int) -> np.ndarray:
        """Noise like it, of a picture enlarged by `factor`: RGB float32 (height,width,3), levels of 255 around 0."""
        own = max(1, round(height / factor)), max(1, round(width / factor))
        noise = np.random.default_rng(seed).standard_normal((*own, 3), np.float32)
        scales = (self.levels / _unit_deviations()).astype(np.float32)
        grain = np.sum([band * scale for band, scale in zip(_bands(noise), scales, strict=True)], axis=0)
        return resized(cv2.transform(grain, TO_RGB), width, height)


def missing_grain(image: np.ndarray, face: np.ndarray, matrix: np.ndarray) -> Grain | None:
    """Return the noise of the picture that a restored face lacks.

    Args:
        image: RGB uint8 or uint16 (H,W,3), not enlarged.
        face: restored, RGB uint8 (n,n,3).
        matrix: from `image` to `face`, (2,3).

    Returns:
        None if there is no noise, or nothing of the face to measure.
    """
    to_image = invert_affine(matrix)
    size = face.shape[0]
    middle, edge = apply_affine(np.array([[1, 1], [1 + CORE, 1]]) * size / 2, to_image)
    reach = min(float(np.linalg.norm(edge - middle)), LARGEST / 2)
    left, top = np.maximum(np.rint(middle - reach).astype(int), 0)
    part = image[top : max(top, round(middle[1] + reach)), left : max(left, round(middle[0] + reach))]
    if min(part.shape[:2]) < 2 * BLOCK:
        return None
    grain = Grain.of(part)
    if not grain.is_seen:
        return None
    to_part = compose(np.array([[1.0, 0, -left], [0, 1.0, -top]]), to_image)
    pasted = warp(face, to_part, part.shape[1], part.shape[0], border=cv2.BORDER_REPLICATE)
    return grain.missing_in(Grain.of(pasted))


def _bands(image: np.ndarray) -> list[np.ndarray]:
    """Return the bands between neighbouring scales, three of (H,W,3) float32."""
    smooth = [image, *(cv2.GaussianBlur(image, (0, 0), sigma) for sigma in SIGMAS)]
    return [fine - coarse for fine, coarse in pairwise(smooth)]


def _deviations(image: np.ndarray) -> np.ndarray:
    """Of the flattest blocks, (scales,channels)."""
    rows, columns = (side // BLOCK for side in image.shape[:2])
    squares = [band[: rows * BLOCK, : columns * BLOCK] ** 2 for band in _bands(image)]
    blocks = [square.reshape(rows, BLOCK, columns, BLOCK, 3).mean((1, 3)).reshape(-1, 3) for square in squares]
    return np.array([np.quantile(np.sqrt(block), FLAT, axis=0) for block in blocks])


@cache
def _unit_deviations() -> np.ndarray:
    """Of white noise of deviation 1, (scales,1)."""
    noise = np.random.default_rng(0).standard_normal((256, 256, 3), np.float32)
    return _deviations(noise).mean(1, keepdims=True)
