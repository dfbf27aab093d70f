"""Whether a face is already sharper than a restoration network of a given size could make it.

A network that works at `size` pixels returns nothing finer than half a wave per crop pixel. A face loses by it when it
has finer detail than that. Degraded faces have fine *noise* too, so three things are asked of what lies beyond:

* heavy tails: edges and hairs are sparse, noise is everywhere. A Gaussian part, estimated from the median of the
  absolute values, is taken off the energy;
* amplitude: in sharp pictures every octave has a good part of the energy of the octaves below it, in blurred ones the
  energy falls off. The octave two below is the measure, so that noise in both upper octaves cannot pass for detail;
* place: real detail sits where the next lower octave has its detail, compression noise of a blurred face does not.

Calibrated at 128 pixels on sharp 512-pixel portraits, also reduced to 160-384 pixels (detail 0.23 to 1.1, coherence
0.64 to 0.95), real and synthetic low-quality faces (detail below 0.19), and noise and JPEG on blurred ones (coherence
below 0.5 but for rare exceptions).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

LARGEST_LOOK = 4  # a face is looked at in at most this multiple of the network's size
LEAST_EXCESS = 1.2  # a face must have this multiple of the network's size to be worth leaving alone
LEAST_DETAIL = 0.22
LEAST_COHERENCE = 0.55


@dataclass(frozen=True)
class Sharpness:
    """Of an aligned face, beyond a limit.

    Attributes:
        detail: amplitude beyond the limit, over that of the octave two below the limit; 0 and more.
        coherence: correlation of the local amplitudes beyond the limit and of the octave below it; -1 to 1.
    """

    detail: float
    coherence: float


def measure_sharpness(face: np.ndarray, size: int) -> Sharpness:
    """How much `face` has beyond what `size` pixels can hold.

    Args:
        face: RGB uint8 (n,n,3), aligned, n > `size`.
        size: side at which the network works, at least 16.
    """
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    side = grey.shape[0]

    def held_by(pixels: int) -> np.ndarray:
        small = cv2.resize(grey, (pixels, pixels), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)

    middle = slice(side // 8, side - side // 8)
    limit, octave, two_octaves = held_by(size), held_by(size // 2), held_by(size // 4)
    beyond, below, base = ((a - b)[middle, middle] for a, b in ((grey, limit), (limit, octave), (octave, two_octaves)))
    noise = 1.4826 * float(np.median(np.abs(beyond)))
    detail = np.sqrt(max(0.0, float(np.mean(beyond**2)) - noise**2) / max(float(np.mean(base**2)), 1e-6))
    spread = 1.5 * side / size
    fine, coarse = (np.sqrt(cv2.GaussianBlur(band**2, (0, 0), spread)).ravel() for band in (beyond, below))
    flat = min(fine.std(), coarse.std()) < 1e-6
    return Sharpness(float(detail), 0.0 if flat else float(np.corrcoef(fine, coarse)[0, 1]))


def is_sharper_than(face: np.ndarray, size: int) -> bool:
    """Whether `face` (RGB uint8 (n,n,3), aligned, as large as in its photo) has more detail than `size` pixels hold."""
    side = min(face.shape[0], LARGEST_LOOK * size)
    if side < LEAST_EXCESS * size:
        return False
    if side < face.shape[0]:
        face = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    sharpness = measure_sharpness(face, size)
    return sharpness.detail >= LEAST_DETAIL and sharpness.coherence >= LEAST_COHERENCE
