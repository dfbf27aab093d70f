"""Other people made of a face: bent smoothly and toned anew, so that a set of few kinds of faces teaches of more."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

GRID = 5
"""Points a side that are moved; between them the movement is smooth."""


@dataclass(frozen=True)
class IdentityAugment:
    """Strength of the change of a face.

    At most, with `warp` 0.026 and `proportions` 0.07, the result is as unlike the face to a recognizer as two
    photographs of one person are (cosine 0.64, theirs 0.6 to 0.7, strangers' 0; 0.78 as drawn), and still a face.

    Attributes:
        warp: deviation of the movement of a point, share of the side.
        proportions: width and height are scaled by up to this (0.07: by exp(-0.07) to exp(0.07)).
        gamma: exponent of the brightness, exp(-gamma) to exp(gamma).
        saturation: likewise, its factor.
        white_balance: deviation of the logarithm of each channel's factor.
    """

    warp: float = 0.026
    proportions: float = 0.07
    gamma: float = 0.4
    saturation: float = 0.4
    white_balance: float = 0.06

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Somebody else of the same pose: all strengths are reduced by one random share, 0 to 1.

        Args:
            image: float32 (S,S,3) RGB in [0, 1]; left as it is.
            rng: the only source of chance.

        Returns:
            float32 (S,S,3) in [0, 1].
        """
        share = rng.random()
        return self._toned(self._bent(image, share, rng), share, rng)

    def _bent(self, image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
        side = len(image)
        moves = rng.normal(0, share * self.warp * side, (GRID, GRID, 2)).astype(np.float32)
        moves = cv2.resize(moves, (side, side), interpolation=cv2.INTER_CUBIC)
        scales = np.exp(share * rng.uniform(-self.proportions, self.proportions, 2))
        middle = (side - 1) / 2
        places = np.moveaxis(np.mgrid[:side, :side][::-1], 0, 2) - middle
        x, y = np.moveaxis((places * scales + middle + moves).astype(np.float32), 2, 0)
        return cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)

    def _toned(self, image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
        image = np.clip(image, 0, 1) ** np.float32(np.exp(share * rng.uniform(-self.gamma, self.gamma)))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
        image = grey + (image - grey) * np.exp(share * rng.uniform(-self.saturation, self.saturation))
        balanced = image * np.exp(rng.normal(0, share * self.white_balance, 3))
        return np.clip(balanced, 0, 1).astype(np.float32)


SOMEBODY_ELSE = IdentityAugment()
ANOTHER_PHOTOGRAPH = IdentityAugment(warp=0.016, proportions=0.03, gamma=0.3, saturation=0.3)
"""Nearer to the person than that, as drawn: cosine 0.88."""
