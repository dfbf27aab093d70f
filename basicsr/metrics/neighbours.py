"""Distances of two sets of pictures that need all feature vectors, not their Gaussian: KID and precision."""

from __future__ import annotations

import numpy as np

SUBSETS, SUBSET = 100, 1000  # of the KID, as published
NEIGHBOUR = 3  # whose distance is the radius of a point, as published


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the kernel inception distance of features (N,D) and (M,D), which may be a little below 0.

    The unbiased square of the maximum mean discrepancy under k(x, y) = (x y / D + 1)^3 (Bińkowski et al., ICLR 2018):
    of all vectors where there are up to `SUBSET`, else the mean over `SUBSETS` draws of so many, with a seed.

    Raises:
        ValueError: a set of fewer than two pictures.
    """
    least, most = min(len(first), len(second)), max(len(first), len(second))
    if least < 2:
        raise ValueError(f'the KID needs two pictures of each side at least, not {least}')
    if most <= SUBSET:
        return _discrepancy(first, second)
    rng, size = np.random.default_rng(0), min(SUBSET, least)
    draws = (
        _discrepancy(*(rows[rng.choice(len(rows), size, replace=False)] for rows in (first, second)))
        for _ in range(SUBSETS)
    )
    return float(np.mean(list(draws)))


def _discrepancy(first: np.ndarray, second: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    return within(first) + within(second) - 2 * float(kernel(first, second).mean())


def precision(restored: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of restored features (N,D) within the manifold of the true ones (M,D), 0 to 1.

    The manifold is the union of balls about each true vector that reach its third nearest neighbour among the others
    (Kynkäänniemi et al., NeurIPS 2019).

    Raises:
        ValueError: too few true vectors.
    """
    if len(truth) <= NEIGHBOUR:
        raise ValueError(f'precision needs {NEIGHBOUR + 1} ground truths at least, not {len(truth)}')
    radius = np.sort(_distances(truth, truth), axis=1)[:, NEIGHBOUR]  # the nearest is the vector itself
    return float((_distances(restored, truth) <= radius).any(1).mean())


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the squared distances (N,M) of vectors (N,D) and (M,D), row by row so that equal ones have exactly 0."""
    return np.stack([np.square(second - row).sum(1) for row in first])
