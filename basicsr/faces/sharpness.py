"""Whether a face is already sharper than a restoration network of a given size could make it.

A network that works at `size` pixels returns nothing finer than half a wave per crop pixel, and a face loses by it when
it has finer detail than that. What a network makes up is softer than that limit, so that a somewhat smaller face which
has all the detail its own pixels hold loses by it, too. Degraded faces have fine *noise*, so three things are asked of
what lies beyond the limit (of the network or, in a face hardly larger than that or smaller, of its own finest part):

* heavy tails: edges and hairs are sparse, noise is everywhere. A Gaussian part, estimated from the median of the
  absolute values, is taken off the energy;
* amplitude: in sharp pictures every octave has a good part of the energy of the octaves below it, in blurred ones the
  energy falls off. The octave two below is the measure, so that noise in both upper octaves cannot pass for detail;
* place: real detail sits where the next lower octave has its detail, compression noise of a blurred face does not;
* all directions: a face that moved is sharp across its way alone.

Calibrated at 128 pixels on sharp 512-pixel portraits, also reduced to 160-384 pixels (detail 0.23 to 1.1, coherence
0.64 to 0.95), real and synthetic low-quality faces (detail below 0.19), and noise and JPEG on blurred ones (coherence
below 0.5 but for rare exceptions). Small faces need more of both: 99 % of portraits reduced to 96-150 pixels pass, and
1 of 924 faces of 128 pixels under the degradations of the training (18 would by the limits of larger ones).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import cv2
import numpy as np

LARGEST_LOOK = 4  # a face is looked at in at most this multiple of the network's size
LEAST_SIZE = 0.75  # smaller ones, in that measure, look better restored even where they are sharp
EXCESS = 1.2  # the finest part of a small face is what it has beyond its size over this


@dataclass(frozen=True)
class Sharpness:
    """Of an aligned face, beyond a limit.

    Attributes:
        detail: amplitude beyond the limit, over that of the octave two below the limit; 0 and more.
        coherence: correlation of the local amplitudes beyond the limit and of the octave below it; -1 to 1.
        evenness: change beyond the limit in the direction in which there is least of it, over that across it; 0 to 1.
    """

    detail: float
    coherence: float
    evenness: float


# Small: below EXCESS times the network's size. Of 243 clean portraits of 160 to 512 pixels, 99 % have an evenness of
# 0.62 or more, after JPEG of quality 50, too. Moved by a thirteenth of their side, half of them have less than 0.4
# (along an axis), 0.45 (diagonally) or 0.62 (in between).
LEAST, LEAST_OF_SMALL = Sharpness(0.22, 0.55, 0.55), Sharpness(0.25, 0.7, 0.55)
STILL = 0.3  # of the mean change from a row of pixels to the next: less is none
REPEATED = 1.5  # pixels for one; photographs have up to 1.2 by this measure


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
    return Sharpness(float(detail), 0.0 if flat else float(np.corrcoef(fine, coarse)[0, 1]), _evenness(beyond))


def _evenness(band: np.ndarray) -> float:
    """Root of the ratio of the eigenvalues of the mean structure tensor."""
    changes = np.stack([change.ravel() for change in np.gradient(band)])
    least, most = np.linalg.eigvalsh(changes @ changes.T)
    return float(np.sqrt(max(least, 0.0) / max(most, 1e-6)))


def pixel_size(image: np.ndarray) -> float:
    """How many pixels a side stand for one, in a picture (RGB uint8) that was enlarged without interpolation; else 1.

    Most rows and columns are like their neighbours then. After JPEG compression this is seen from 8 pixels on.
    """
    if min(image.shape[:2]) < 2:
        return 1.0
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    changes = [np.abs(np.diff(grey, axis=axis)).mean(1 - axis) for axis in (0, 1)]
    size = min(len(change) / max(1, int((change > STILL * change.mean()).sum())) for change in changes)
    return size if size >= REPEATED else 1.0


def is_sharper_than(face: np.ndarray, size: int) -> bool:
    """Whether `face` is sharper than what a network of `size` pixels makes.

    Args:
        face: RGB uint8 (n,n,3), aligned, as large as in its photo.
        size: side at which the network works.
    """
    side = min(face.shape[0], LARGEST_LOOK * size)
    if side < LEAST_SIZE * size:
        return False
    if side < face.shape[0]:
        face = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    limit = min(size, round(side / EXCESS))
    least = LEAST if limit == size else LEAST_OF_SMALL
    sharpness = measure_sharpness(face, limit)
    return all(value >= bound for value, bound in zip(astuple(sharpness), astuple(least), strict=True))
