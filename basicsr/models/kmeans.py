"""k-means (Lloyd, 1982), to start a codebook from features."""

from __future__ import annotations

import torch
from torch import Tensor


def kmeans(points: Tensor, k: int, iterations: int = 20, seed: int = 0) -> Tensor:
    """Centres of `points`.

    Args:
        points: (n,d), n >= k.
        k: number of centres; a centre without points starts again from a point drawn at random.
        iterations: rounds.
        seed: of the draws.

    Returns:
        (k,d).

    Raises:
        ValueError: fewer points than centres.
    """
    if len(points) < k:
        raise ValueError(f'k-means: {len(points)} points for {k} centres; raise train:codebook_warmup:samples')
    generator = torch.Generator().manual_seed(seed)
    centres = points[torch.randperm(len(points), generator=generator)[:k]].clone()
    for _ in range(iterations):
        nearest = torch.cdist(points, centres).argmin(1)
        counts = torch.bincount(nearest, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        drawn = points[torch.randint(len(points), (k,), generator=generator)]
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), drawn)
    return centres
