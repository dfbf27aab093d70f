"""Input and output of RetinaFace networks (Deng et al., 2020): preprocessing, anchors, decoding.

The input is BGR minus the mean, (1,3,H,W) float32; the outputs, for each anchor, are the box offset (4), the class
probabilities (2) and the landmark offsets (10).
"""

from __future__ import annotations

import numpy as np

from basicsr.utils.numerics import check_finite

MEAN_BGR = np.array([104, 117, 123], np.float32)
STRIDES = (8, 16, 32)
ANCHOR_SIDES = ((16, 32), (64, 128), (256, 512))
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
LEAST_SCORE = 0.02  # anchors below it are not decoded


def preprocess(image: np.ndarray) -> np.ndarray:
    """RGB uint8 (H,W,3) to the network's input, (1,3,H,W) float32."""
    return np.ascontiguousarray((image[:, :, ::-1] - MEAN_BGR).transpose(2, 0, 1))[None]


def anchors(width: int, height: int) -> np.ndarray:
    """Centre x, centre y and side of every anchor, in pixels from the outer corner, (A,3)."""
    levels = []
    for stride, sides in zip(STRIDES, ANCHOR_SIDES, strict=True):
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)] + 0.5
        centres = np.repeat(np.stack([x.ravel(), y.ravel()], 1) * stride, len(sides), axis=0)
        levels.append(np.column_stack([centres, np.tile(sides, len(centres) // len(sides))]))
    return np.concatenate(levels)


def decode(boxes: np.ndarray, classes: np.ndarray, points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Turn the network's outputs (A,4), (A,2), (A,10) into rows of box, score and landmarks in pixels, (N,15)."""
    check_finite(classes, 'the face detector')
    likely = classes[:, 1] > LEAST_SCORE
    boxes, scores, points, base = boxes[likely], classes[likely, 1], points[likely], anchors(width, height)[likely]
    centre, side = base[:, :2], base[:, 2:]
    middle = centre + boxes[:, :2] * CENTRE_VARIANCE * side
    half = side * np.exp(boxes[:, 2:] * SIZE_VARIANCE) / 2
    landmarks = np.tile(centre, 5) + points * CENTRE_VARIANCE * side
    # From corner-based to centre-based coordinates: half a pixel.
    return np.column_stack([middle - half - 0.5, middle + half - 0.5, scores, landmarks - 0.5])
