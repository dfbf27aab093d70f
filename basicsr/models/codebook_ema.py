"""The codebook as a running mean of the features that chose each code (van den Oord et al., 2017), and k-means."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from basicsr.utils.dist import broadcast, total


class CodebookEMA:
    """Moves codes to the mean of their features instead of by gradient, and starts unused codes again.

    Args:
        codes: the table (codebook_size, emb_dim), changed in place.
        decay: of the running counts and sums, 0 to 1.
        dead_code_threshold: part of an even share of the features under which a code is moved to a feature drawn from
            the batch (Jukebox, Dhariwal et al., 2020); 0 leaves dead codes dead.

    Raises:
        ValueError: `decay` is outside 0 to 1.
    """

    def __init__(self, codes: Tensor, decay: float = 0.99, dead_code_threshold: float = 0.03) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f'train:codebook_ema:decay {decay}: must be from 0 to below 1')
        self.codes = codes
        self.decay = decay
        self.dead_code_threshold = dead_code_threshold
        self.shares = torch.full((len(codes),), 1 / len(codes), device=codes.device)
        self.sums = torch.empty_like(codes)
        self.restart()

    def restart(self) -> None:
        """Take the table as it is now, every code with an even share."""
        self.shares.fill_(1 / len(self.codes))
        self.sums.copy_(self.codes * self.shares[:, None])

    @torch.no_grad()
    def update(self, features: Tensor, indices: Tensor) -> None:
        """Move the codes towards `features` (n,emb_dim), which chose the codes `indices` (n,).

        All processes call it together and get the same table.
        """
        features = features.float()
        counts = torch.bincount(indices, minlength=len(self.codes)).float()
        sums = torch.zeros_like(self.codes).index_add_(0, indices, features)
        total([counts, sums])
        seen = counts.sum()
        self.shares.lerp_(counts / seen, 1 - self.decay)
        self.sums.lerp_(sums / seen, 1 - self.decay)
        codes = self.sums / self.shares.clamp(min=1e-9)[:, None]
        dead = self.shares < self.dead_code_threshold / len(codes)
        drawn = features[torch.randint(len(features), (len(codes),), device=features.device)]
        broadcast([drawn])
        self.shares[dead] = 1 / len(codes)
        self.sums[dead] = drawn[dead] / len(codes)
        self.codes.copy_(torch.where(dead[:, None], drawn, codes))

    def state(self) -> dict[str, Tensor]:
        """Return the running means, for a resumed run."""
        return {'shares': self.shares, 'sums': self.sums}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, own in self.state().items():
            if state[name].shape != own.shape:
                raise TypeError(f'the running means have {name} {tuple(state[name].shape)}, not {tuple(own.shape)}')
            own.copy_(state[name])


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
