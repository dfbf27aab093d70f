"""A second look at a face: cut out, turned every way, so that it is known which way is up, and whether it is a face.

Detection networks are trained with faces that are upright within some 45 degrees. Of a face that is turned further
they often find the box, and put the landmarks where an upright face would have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from basicsr.faces.face import Face
from basicsr.faces.geometry import affine_scale, apply_affine, invert_affine, warp
from basicsr.faces.geometry import similarity_transform as fit
from basicsr.utils.templates import ffhq_template

SIDE = 160  # pixels of what is looked at
CONTEXT = 2.0  # its side, in longer sides of the face's box
STEP = 45  # degrees from one direction to the next
DOUBTFUL = 35.0  # degrees: a face that is turned further is looked at again
UPRIGHT, SETTLED = 40.0, 15.0  # degrees: a face that is turned less is upright in its direction; and after turning it
MISFIT = 0.12  # of the aligned crop: landmarks that lie farther from the template are none
DISTANCE = 0.08  # of the aligned crop: landmarks of two looks that are farther apart disagree
ROLL_COST = 1 / 450  # score for a degree
ASTRAY = 0.15  # of the aligned crop: a face that is farther from where it is expected is not followed


def roll(landmarks: np.ndarray) -> float:
    """Degrees, -180 to 180, by which a face with landmarks (5,2) is turned clockwise."""
    down = landmarks[3:].mean(0) - landmarks[:2].mean(0)
    return float(np.degrees(np.arctan2(-down[0], down[1])))


def misfit(landmarks: np.ndarray) -> float:
    """Largest distance of landmarks (5,2) from the template, in sides of the aligned crop."""
    template = ffhq_template(1)
    return float(np.linalg.norm(apply_affine(landmarks, fit(landmarks, template)) - template, axis=1).max())


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance of landmarks (5,2) of two looks, in sides of the aligned crop of the first."""
    scale = affine_scale(fit(first, ffhq_template(1)))
    return float(np.linalg.norm(first - second, axis=1).mean() * scale)


@dataclass(frozen=True)
class SecondLook:
    """Looks at single faces again.

    Args:
        find: RGB uint8 (H,W,3) to rows of box (4), score, landmarks (10), float (N,15).
        min_score: faces of a smaller score are none.
        sure_score: upright faces reach it, and turned ones seldom do.
    """

    find: Callable[[np.ndarray], np.ndarray]
    min_score: float
    sure_score: float

    def is_doubtful(self, face: Face) -> bool:
        """Return True if a face needs a second look: it may be none, or lie another way than its landmarks say."""
        return face.score < self.sure_score or abs(roll(face.landmarks)) > DOUBTFUL or misfit(face.landmarks) > MISFIT

    def __call__(self, image: np.ndarray, face: Face) -> Face | None:
        """Return the face as it is in the direction in which it is upright; None if there is none in any.

        Its `consistent` is False where the landmarks of two looks in that direction disagree.
        """
        size = float(np.max(face.box[2:] - face.box[:2])) * CONTEXT
        middle = (face.box[:2] + face.box[2:]) / 2
        first = self._look(image, middle, size, roll(face.landmarks))
        if first is not None and first[0].score >= self.sure_score and self._agree(face, *first):
            return first[0]
        seen = [self._look(image, middle, size, degrees) for degrees in range(0, 360, STEP)]
        upright = [pair for pair in seen if pair and abs(pair[1]) <= UPRIGHT and misfit(pair[0].landmarks) <= MISFIT]
        if not upright:
            return None
        best, _ = max(upright, key=lambda pair: pair[0].score - ROLL_COST * abs(pair[1]))
        again = self._look(image, best.landmarks.mean(0), size, roll(best.landmarks))
        if again is None:
            return replace(best, consistent=False)
        return replace(again[0], consistent=self._agree(best, *again))

    def follow(self, image: np.ndarray, expected: Face) -> Face | None:
        """Return a face near where it is expected, upright as it was; None where one look is not certain of it."""
        size = float(np.max(expected.box[2:] - expected.box[:2])) * CONTEXT
        seen = self._look(image, (expected.box[:2] + expected.box[2:]) / 2, size, roll(expected.landmarks))
        if seen is None or not self.is_near(expected, seen[0]) or seen[0].score < self.sure_score:
            return None
        return replace(seen[0], box=expected.box) if self._agree(seen[0], *seen) else None  # a turned box is larger

    @staticmethod
    def is_near(expected: Face, face: Face) -> bool:
        """Return True if a face of a clip can be the one that was expected about there."""
        return distance(expected.landmarks, face.landmarks) <= ASTRAY

    @staticmethod
    def _agree(face: Face, again: Face, turned: float) -> bool:
        """Return True if the second look has the face upright (`turned` is its roll), with the same landmarks."""
        fits = misfit(again.landmarks) <= MISFIT
        return fits and abs(turned) <= SETTLED and distance(face.landmarks, again.landmarks) <= DISTANCE

    def _look(self, image: np.ndarray, middle: np.ndarray, size: float, degrees: float) -> tuple[Face, float] | None:
        """Return the face nearest to `middle` in a square of `size` pixels, turned back by `degrees`, and its roll."""
        factor = SIDE / size * np.exp(-1j * np.radians(degrees))
        linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
        matrix = np.hstack([linear, ((SIDE - 1) / 2 - linear @ middle)[:, None]])
        rows = self.find(warp(image, matrix, SIDE, SIDE, border=cv2.BORDER_REPLICATE)).reshape(-1, 15)
        rows = rows[rows[:, 4] >= self.min_score]
        centres = (rows[:, :2] + rows[:, 2:4]) / 2
        near = np.linalg.norm(centres - (SIDE - 1) / 2, axis=1) < SIDE / 4
        if not near.any():
            return None
        row = rows[near][np.argmax(rows[near, 4])].astype(np.float64)
        back = invert_affine(matrix)
        points = row[5:].reshape(5, 2)
        return Face(moved_box(row[:4], back), float(row[4]), apply_affine(points, back)), roll(points)


def moved_box(box: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the upright box (4,) around `box` after `matrix`."""
    left, top, right, bottom = box
    corners = apply_affine(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), matrix)
    return np.concatenate([corners.min(0), corners.max(0)])
