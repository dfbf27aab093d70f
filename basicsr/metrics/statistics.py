"""Statistics of scores: percentiles, and intervals of mean differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERCENTILES = (5, 25, 50)
LOST = 0.3  # below this cosine a face is taken for somebody else's


def paired_bootstrap(
    scores: Sequence[float], baseline: Sequence[float], rounds: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean difference of two lists of scores of the same items, and its bootstrap interval (Efron, 1979).

    Args:
        scores: one a item.
        baseline: of the same items in the same order.
        rounds: resamples.
        level: of the interval.
        seed: of the resampling.

    Returns:
        Mean of `scores - baseline`, and the lower and upper end of the percentile interval.

    Raises:
        ValueError: lists of different or no length.
    """
    if len(scores) != len(baseline) or not len(scores):
        raise ValueError(f'paired scores must be of one length, and some; not {len(scores)} and {len(baseline)}')
    differences = np.asarray(scores, float) - np.asarray(baseline, float)
    rng = np.random.default_rng(seed)
    picks = (rng.integers(len(differences), size=(100, len(differences))) for _ in range(rounds // 100))
    means = np.concatenate([differences[pick].mean(1) for pick in picks])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(differences.mean()), float(low), float(high)
