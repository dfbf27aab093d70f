"""`-w auto`: the fidelity weight that suits a face.

With references it is chosen among a few restorations, by identity and sharpness. Without, likeness to a damaged input
would always choose the highest; w is then the calibrated confidence in the input, which costs one restoration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from basicsr.faces.sharpness import measure_sharpness

CANDIDATES = (0.0, 0.25, 0.5, 0.75, 1.0)
ALLOWANCE = 0.02  # of a cosine: so much identity may be given for sharpness
STEPS = 20  # from w = 0 to 1 for faces without reference, so that faces of a picture share batches


def choose_fidelity(likeness: Sequence[float], sharpness: Sequence[float]) -> int:
    """Return the sharpest candidate whose similarity is at most `ALLOWANCE` below the best.

    Of equally sharp ones the most similar.

    Args:
        likeness: cosine of each candidate with the references.
        sharpness: of each candidate, any unit.
    """
    best = max(likeness)
    near = [i for i, value in enumerate(likeness) if best - value <= ALLOWANCE]
    return max(near, key=lambda i: (sharpness[i], likeness[i]))


def fidelity_from(confidence: float) -> float:
    """Return the weight w for a face without reference: as much of the input as can be trusted, 0 to 1."""
    return round(confidence * STEPS) / STEPS


def sharpness_of(face: np.ndarray) -> float:
    """Detail of a restored face, RGB uint8 (n,n,3), in its upper octave, as far as it sits where edges are."""
    sharpness = measure_sharpness(face, face.shape[0] // 2)
    return sharpness.detail * max(sharpness.coherence, 0.0)
