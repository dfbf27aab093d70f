"""`-w auto`: the fidelity weight that suits a face, chosen among a few by identity and sharpness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from basicsr.faces.sharpness import measure_sharpness

CANDIDATES = (0.0, 0.25, 0.5, 0.75, 1.0)
ALLOWANCE = 0.02  # of a cosine: so much identity may be given for sharpness


def choose_fidelity(likeness: Sequence[float], sharpness: Sequence[float], trust: float) -> int:
    """Which candidate to take: the sharpest of those that are hardly less like the person than the most like one.

    'Hardly' is `ALLOWANCE / trust`: a reference is trusted fully, and an input only as far as the recogniser can be
    trusted on it, since being like a bad input is no virtue. Of equally sharp ones the one most like the person.

    Args:
        likeness: cosine of each candidate with the person (reference or input).
        sharpness: of each candidate, any unit.
        trust: 0 (the sharpest is taken) to 1.
    """
    best = max(likeness)
    near = [i for i, value in enumerate(likeness) if trust * (best - value) <= ALLOWANCE]
    return max(near, key=lambda i: (sharpness[i], likeness[i]))


def sharpness_of(face: np.ndarray) -> float:
    """Detail of a restored face, RGB uint8 (n,n,3), in its upper octave, as far as it sits where edges are."""
    sharpness = measure_sharpness(face, face.shape[0] // 2)
    return sharpness.detail * max(sharpness.coherence, 0.0)


def choose_all(
    candidates: Sequence[Sequence[np.ndarray]], vectors: Tensor, targets: Tensor, trust: Tensor
) -> list[int]:
    """The choice for each of N faces.

    Args:
        candidates: K restorations of each, [K][N] pictures RGB uint8.
        vectors: their unit embeddings (K,N,D).
        targets: unit embeddings of who they are to be like (N,D).
        trust: how far that can be trusted (N,), 0 to 1.
    """
    likeness = (vectors * targets).sum(2)  # (K,N)
    return [
        choose_fidelity(likeness[:, n].tolist(), [sharpness_of(row[n]) for row in candidates], float(trust[n]))
        for n in range(len(targets))
    ]
