"""Blur and reduction in one step, computing only what the reduced picture needs.

Bilinear reduction reads four pixels of the blurred picture for each of its own, so at a factor of 10 most of a blur at
full size is thrown away. Here the kernel is written as a sum of products of a column and a row (its singular value
decomposition, cut off where the rest is below a quarter of an 8-bit level), and each term becomes two matrix products
whose matrices hold the blur and the reduction together.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

TOLERANCE = 0.25 / 255
"""Largest difference from `cv2.filter2D` and `cv2.resize`, for pictures in [0, 1]: a quarter of an 8-bit level."""

LEAST_BLOCK = 16  # rows or columns of the result in one matrix product
# What a value of the picture costs OpenCV, in multiplications of the matrix products here, as measured on one core:
COST_PER_TAP = 0.5  # of a small kernel
COST_FOURIER = 200  # of any larger one, which OpenCV applies by Fourier transforms
COST_PER_SEPARATE_TAP = 1.5  # of a product of one column and one row


def separate(kernel: np.ndarray, tolerance: float = TOLERANCE) -> tuple[np.ndarray, np.ndarray]:
    """Return a kernel (taps,taps) as a sum of R products of columns and rows.

    Args:
        kernel: any kernel.
        tolerance: most that the absolute values of what is left out add up to. No filtered value in [0, 1] can differ
            by more.

    Returns:
        Columns (R,taps) and rows (R,taps), float64.
    """
    left, strengths, right = np.linalg.svd(kernel.astype(np.float64))
    rest, rank = kernel.astype(np.float64), 0
    while rank < len(kernel) and (rank == 0 or np.abs(rest).sum() > tolerance):
        rest = rest - strengths[rank] * np.outer(left[:, rank], right[rank])
        rank += 1
    roots = np.sqrt(strengths[:rank, None])
    return left[:, :rank].T * roots, right[:rank] * roots


def _starts(length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of two values that bilinear resizing of `length` to `count` reads, and the second's weight."""
    position = np.maximum((np.arange(count) + 0.5) * (length / count) - 0.5, 0)
    first = np.minimum(position.astype(int), length - 1)
    return first, np.where(first == length - 1, 0, position - first)


def _matrix(length: int, count: int, filters: np.ndarray) -> np.ndarray:
    """Return filters (R,taps), then bilinear reduction of `length` values to `count`, as float32 (count,R,length).

    Values beyond the ends are mirrored around the first and the last one (`cv2.BORDER_REFLECT_101`); taps < length.
    """
    rank, taps = filters.shape
    first, second = _starts(length, count)
    weights = np.zeros((count, rank, taps + 1))
    weights[..., :-1] = filters * (1 - second)[:, None, None]
    weights[..., 1:] += filters * second[:, None, None]
    wide = np.zeros((count, rank, length + taps), np.float32)
    for row, start, values in zip(wide, first, weights, strict=True):
        row[:, start : start + taps + 1] = values
    before, after = taps // 2, taps - taps // 2
    matrix = wide[..., before:-after].copy()
    matrix[..., 1 : before + 1] += wide[..., :before][..., ::-1]
    matrix[..., -after - 1 : -1] += wide[..., -after:][..., ::-1]
    return matrix


def _blocks(length: int, count: int, taps: int) -> list[tuple[slice, slice]]:
    """Stretches of the result, and what each needs of the `length` values."""
    first, _ = _starts(length, count)
    step = max(LEAST_BLOCK, taps * count // length)
    ends = [(start, min(start + step, count)) for start in range(0, count, step)]
    reach = taps // 2
    return [
        (slice(start, end), slice(max(0, first[start] - reach), min(length, first[end - 1] + reach + 2)))
        for start, end in ends
    ]


def _cost(blocks: list[tuple[slice, slice]]) -> int:
    return sum((part.stop - part.start) * (needed.stop - needed.start) for part, needed in blocks)


def blur_and_reduce(image: np.ndarray, kernel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`cv2.resize(cv2.filter2D(image, -1, kernel), size)` with bilinear interpolation, to within `TOLERANCE`.

    Args:
        image: float32 (H,W,3) in [0, 1].
        kernel: float32 (taps,taps), taps odd.
        size: (width, height) of the result, at most those of `image`.

    Returns:
        float32 (height,width,3).
    """
    height, width = image.shape[:2]
    taps = len(kernel)
    columns, rows = separate(kernel)
    down, across = _blocks(height, size[1], taps), _blocks(width, size[0], taps)
    cost = len(rows) * (_cost(down) * width + _cost(across) * size[1])
    limit = COST_PER_SEPARATE_TAP * taps if len(rows) == 1 else min(COST_PER_TAP * taps**2, COST_FOURIER)
    if cost < limit * height * width and taps < min(height, width):
        upright, level = _matrix(height, size[1], columns), _matrix(width, size[0], rows)
        return _apply(image, (upright, down), (level, across))
    separable = len(rows) == 1
    blurred = cv2.sepFilter2D(image, -1, rows[0], columns[0]) if separable else cv2.filter2D(image, -1, kernel)
    return cv2.resize(blurred, size, interpolation=cv2.INTER_LINEAR)


def _apply(
    image: np.ndarray,
    upright: tuple[np.ndarray, list[tuple[slice, slice]]],
    level: tuple[np.ndarray, list[tuple[slice, slice]]],
) -> np.ndarray:
    """Return the two products, one stretch of rows after another so that what lies between them stays in the cache."""
    (matrix, blocks), (count, rank, width), channels = upright, level[0].shape, image.shape[2]
    source = torch.from_numpy(np.ascontiguousarray(image)).view(len(image), -1)
    across = [
        (part, needed, torch.from_numpy(level[0][part, :, needed].reshape(part.stop - part.start, -1)).T)
        for part, needed in level[1]
    ]
    result = np.empty((len(matrix), count, channels), np.float32)
    for part, needed in blocks:
        down = torch.from_numpy(matrix[part, :, needed].reshape(-1, needed.stop - needed.start))  # (rows*R,needed)
        terms = torch.mm(down, source[needed]).view(-1, rank, width, channels)
        lines = terms.permute(0, 3, 1, 2).contiguous()  # (rows,C,R,W)
        reduced = torch.empty(len(lines) * channels, count)
        for place, sources, filters in across:
            reduced[:, place] = torch.mm(lines[..., sources].reshape(len(reduced), -1), filters)
        result[part] = reduced.view(-1, channels, count).permute(0, 2, 1).numpy()
    return result
