"""Steadiness of restored clips, by the optical flow between frames. Frames are RGB uint8 (H,W,3)."""

from __future__ import annotations

import cv2
import numpy as np

AGREEMENT = (0.01, 0.5)  # of forward and backward flow: share of their squares, and square pixels


def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the optical flow (H,W,2) of Farnebäck from one frame to another, pixels to the right and down.

    With the settings of TecoGAN's tOF.
    """
    before, after = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    start = np.zeros((*before.shape, 2), np.float32)
    return cv2.calcOpticalFlowFarneback(
        before, after, start, pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
    )


def flow_difference(truth: tuple[np.ndarray, np.ndarray], restored: tuple[np.ndarray, np.ndarray]) -> float:
    """Return TecoGAN's tOF (Chu et al., 2020) of two frames: mean length of the difference of both flows, pixels."""
    return float(np.linalg.norm(flow(*truth) - flow(*restored), axis=2).mean())


def warping_error(truth: tuple[np.ndarray, np.ndarray], restored: tuple[np.ndarray, np.ndarray]) -> float | None:
    """Return the mean squared error of a restored frame and the one before it, warped to it; levels from 0 to 1.

    After Lai et al. (ECCV 2018), but with flow by Farnebäck between the true frames. Places that either frame does not
    show, as their flows forward and backward disagree, do not count (Sundaram et al., ECCV 2010).

    Args:
        truth: the true frame before, and the true frame.
        restored: likewise.

    Returns:
        It, or None where no place counts.
    """
    back, forth = flow(truth[1], truth[0]), flow(*truth)
    height, width = back.shape[:2]
    x, y = np.moveaxis(np.moveaxis(np.mgrid[:height, :width][::-1], 0, 2) + back, 2, 0).astype(np.float32)
    returned = cv2.remap(forth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lengths = np.square(back).sum(2) + np.square(returned).sum(2)
    seen = np.square(back + returned).sum(2) < AGREEMENT[0] * lengths + AGREEMENT[1]
    seen &= (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    if not seen.any():
        return None
    before, after = (frame.astype(np.float32) / 255 for frame in restored)
    warped = cv2.remap(before, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return float(np.square(warped - after).mean(2)[seen].mean())
