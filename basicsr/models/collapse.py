"""Codes that collapse: a network that says the same few codes everywhere has stopped to learn what it should."""

from __future__ import annotations

import logging
from collections import deque

logger = logging.getLogger('basicsr')

WINDOW = 200
"""Iterations over which the perplexity is averaged, and that pass between two warnings."""
LEAST_SHARE = 0.02
"""Share of the codebook that is the default bound."""


class CollapseWatch:
    """Warns when the mean perplexity of the codes of the last iterations is under a bound.

    The perplexity of a batch is the exponential of its codes' entropy: n where n codes are used equally often.

    Args:
        codebook_size: number of codes.
        bound: least perplexity (`train:min_perplexity`), by default 2 % of the codebook; 0 never warns.
    """

    def __init__(self, codebook_size: int, bound: float | None = None) -> None:
        self.bound = LEAST_SHARE * codebook_size if bound is None else bound
        self.codebook_size = codebook_size
        self.values: deque[float] = deque(maxlen=WINDOW)

    def see(self, perplexity: float | None, iteration: int) -> None:
        """Take in an iteration's perplexity; None where the iteration looks up no codes."""
        if perplexity is None:
            return
        self.values.append(perplexity)
        mean = sum(self.values) / len(self.values)
        if len(self.values) < WINDOW or mean >= self.bound:
            return
        logger.warning(
            'iteration %d: the codes collapse: perplexity %.2f of %d codes over %d iterations, under '
            'train:min_perplexity %.2f. Stage I: train:codebook_warmup, a lower lr, or beta_on: commitment; stages II '
            'and III: a lower lr, longer warmup_iter, or an earlier checkpoint (early in stage II it may still rise)',
            *(iteration, mean, self.codebook_size, len(self.values), self.bound),
        )
        self.values.clear()
