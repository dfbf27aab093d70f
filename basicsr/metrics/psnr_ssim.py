"""PSNR and SSIM, as scikit-image computes them."""

from __future__ import annotations

from typing import cast

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from basicsr.utils.registry import METRIC_REGISTRY

LUMA = np.array([65.481, 128.553, 24.966]) / 255  # BT.601, studio swing (MATLAB's rgb2ycbcr): 16 is black, 235 white
SMALLEST_SIDE = 11  # the SSIM window: a Gaussian of sigma 1.5 cut at 3.5 sigma


def to_y(image: np.ndarray) -> np.ndarray:
    """Return the luma of RGB (H,W,3) in [0, 255]: float64 (H,W) in [16, 235], not rounded."""
    return image.astype(np.float64) @ LUMA + 16


def _prepare(
    img: np.ndarray, img2: np.ndarray, crop_border: int, test_y_channel: bool
) -> tuple[np.ndarray, np.ndarray]:
    for image in (img, img2):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'metrics take RGB uint8 pictures (H,W,3), not {image.dtype} {image.shape}')
    if img.shape != img2.shape:
        raise ValueError(f'pictures of different shapes cannot be compared: {img.shape} and {img2.shape}')
    height, width = img.shape[:2]
    if crop_border < 0 or 2 * crop_border >= min(height, width):
        raise ValueError(f'crop_border {crop_border} leaves nothing of {width}x{height} pixels')
    inner = np.s_[crop_border : height - crop_border, crop_border : width - crop_border]
    if test_y_channel:
        return to_y(img[inner]), to_y(img2[inner])
    return img[inner].astype(np.float64), img2[inner].astype(np.float64)


@METRIC_REGISTRY.register()
def calculate_psnr(img: np.ndarray, img2: np.ndarray, crop_border: int = 0, test_y_channel: bool = False) -> float:
    """Peak signal-to-noise ratio, dB, for a peak of 255.

    Args:
        img: RGB uint8 (H,W,3).
        img2: the same shape.
        crop_border: pixels left out at every side.
        test_y_channel: compare the luma (BT.601) only.

    Returns:
        the higher the better; infinite for equal pictures.

    Raises:
        ValueError: shapes or types that cannot be compared.
    """
    first, second = _prepare(img, img2, crop_border, test_y_channel)
    if np.array_equal(first, second):
        return float('inf')
    return float(peak_signal_noise_ratio(first, second, data_range=255))


@METRIC_REGISTRY.register()
def calculate_ssim(img: np.ndarray, img2: np.ndarray, crop_border: int = 0, test_y_channel: bool = False) -> float:
    """Structural similarity (Wang et al., TIP 2004): Gaussian window of sigma 1.5, 11 taps; mean of the channels.

    Args:
        img: RGB uint8 (H,W,3), 11 pixels a side at least.
        img2: the same shape.
        crop_border: pixels left out at every side.
        test_y_channel: compare the luma (BT.601) only.

    Returns:
        -1 to 1, the higher the better; 1 for equal pictures.

    Raises:
        ValueError: shapes or types that cannot be compared.
    """
    first, second = _prepare(img, img2, crop_border, test_y_channel)
    if min(first.shape[:2]) < SMALLEST_SIDE:
        raise ValueError(f'SSIM needs {SMALLEST_SIDE} pixels a side after cropping, not {first.shape[:2]}')
    similarity = cast(
        float,
        structural_similarity(
            first,
            second,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=None if test_y_channel else -1,
        ),
    )
    return float(similarity)
