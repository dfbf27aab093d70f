"""A face found in a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Face:
    """A face found.

    Attributes:
        box: (4,), left, top, right, bottom, in pixels of the picture.
        score: 0 to 1.
        landmarks: (5,2), left eye, right eye (as seen), nose, left and right mouth corner.
        consistent: two looks agree on the landmarks, or one was enough.
        scale: by which the picture was resized where it was found; 0 where it was cut out and turned, too.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray
    consistent: bool = True
    scale: float = 0

    @property
    def eye_distance(self) -> float:
        """In pixels of the picture."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))
