"""NIQE: how far the local statistics of a picture lie from those of natural pictures, without a reference."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import correlate
from scipy.special import gamma

from basicsr.metrics.psnr_ssim import to_y

BLOCK = 96  # side of the blocks of the first scale, pixels
ROUNDING = 1e-9  # of 0 to 255: a smaller difference to the local mean is the sum's rounding in an even area
SHAPES = np.arange(0.2, 10.001, 0.001)  # shapes of the generalised Gaussian that are tried
RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))
# Neighbours whose products are looked at, (down, right): beside, below, and on both diagonals.
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
PARAMETERS = ('mu_pris_param', 'cov_pris_param', 'gaussian_window')


def _halving_taps() -> np.ndarray:
    """Return the eight taps of bicubic reduction by two with anti-aliasing (Keys, a = -0.5, stretched)."""
    x = np.abs(np.arange(8) - 3.5) / 2
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    taps = np.where(x <= 1, near, far)
    return taps / taps.sum()


HALVING = _halving_taps()


def halve(plane: np.ndarray) -> np.ndarray:
    """Return a float plane (H,W) of even sides at half the size, as MATLAB's `imresize(plane, 0.5)` computes it."""
    for _ in range(2):
        padded = np.pad(plane, ((3, 3), (0, 0)), mode='symmetric')
        rows = plane.shape[0] // 2
        plane = np.tensordot(HALVING, [padded[i : i + 2 * rows : 2] for i in range(8)], 1).T
    return plane


def fit_asymmetric(values: np.ndarray) -> tuple[float, float, float]:
    """Shape, left and right scale of an asymmetric generalised Gaussian, by moments (Lasmar et al., ICIP 2009).

    Args:
        values: float, any shape; some below and some above 0.

    Returns:
        NaN where one side has no values, as in a block of one colour.
    """
    squares = values**2
    left, right = values < 0, values > 0
    if not left.any() or not right.any():
        return float('nan'), float('nan'), float('nan')
    low, high = np.sqrt(squares[left].mean()), np.sqrt(squares[right].mean())
    skew = low / high
    ratio = np.abs(values).mean() ** 2 / squares.mean()
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = SHAPES[np.argmin((RATIOS - ratio) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return float(shape), float(low * scale), float(high * scale)


def block_features(block: np.ndarray) -> list[float]:
    """Return the 18 features of a block of normalised luminance."""
    shape, left, right = fit_asymmetric(block)
    features = [shape, (left + right) / 2]
    for shift in SHIFTS:
        shape, left, right = fit_asymmetric(block * np.roll(block, shift, axis=(0, 1)))
        mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)
        features += [shape, float(mean), left, right]
    return features


def normalised(plane: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return a plane with its local mean taken off, divided by its local deviation plus 1."""
    mean = correlate(plane, window, mode='nearest')
    variance = correlate(plane**2, window, mode='nearest') - mean**2
    difference = np.where(np.abs(plane - mean) < ROUNDING, 0, plane - mean)
    return difference / (np.sqrt(np.abs(variance)) + 1)


class NIQE:
    """The distance of Mittal, Soundararajan and Bovik (IEEE SPL 2013), equation 10: the lower the better.

    Blocks of 96 pixels and of 48 at half the size, on the rounded luma (BT.601, 16 to 235), all blocks used; what is
    left over at the right and at the bottom is cut off.

    Args:
        path: `niqe_pris_params.npz` with the statistics of natural pictures: `mu_pris_param` (1,36),
            `cov_pris_param` (36,36) and `gaussian_window` (7,7).
        side: pictures are resized to it first, cubic, since those below two blocks have no NIQE; None takes them as
            they are. Values at one side compare with no others.

    Raises:
        ValueError: the file is missing or not such a file; the message names it.
    """

    def __init__(self, path: str | os.PathLike, side: int | None = None) -> None:
        if not Path(path).is_file():
            raise ValueError(f'{path}: no such file; NIQE needs the statistics of natural pictures')
        try:
            with np.load(path, allow_pickle=False) as file:
                mean, covariance, self.window = (file[key] for key in PARAMETERS)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f'{path}: not the parameters of NIQE ({error})') from error
        self.mean, self.covariance, self.side = mean.ravel(), covariance, side

    def __call__(self, image: np.ndarray) -> float:
        """Return the distance of RGB uint8 (H,W,3), 0 or more.

        Raises:
            ValueError: below two blocks, or of one colour, where the statistics are not defined.
        """
        if self.side is not None:
            image = cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_CUBIC)
        rows, columns = (side // BLOCK for side in image.shape[:2])
        if rows * columns < 2:
            raise ValueError(f'NIQE needs two blocks of {BLOCK}x{BLOCK} pixels, not {image.shape[1]}x{image.shape[0]}')
        plane = np.rint(to_y(image))[: rows * BLOCK, : columns * BLOCK]
        scales = []
        for side in (BLOCK, BLOCK // 2):
            local = normalised(plane, self.window)
            blocks = local.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
            scales.append([block_features(block) for block in blocks])
            plane = halve(plane)
        features = np.concatenate(scales, axis=1)
        complete = features[~np.isnan(features).any(axis=1)]
        if len(complete) < 2:
            raise ValueError('NIQE is not defined: the picture is of one colour nearly everywhere')
        difference = self.mean - np.nanmean(features, axis=0)
        inverse = np.linalg.pinv((self.covariance + np.cov(complete, rowvar=False)) / 2)
        return float(np.sqrt(difference @ inverse @ difference))
