"""Templates of aligned faces: five landmarks in pixels.

The order is left eye, right eye, nose, left and right mouth corner. A point (x, y) is in pixels, and (0, 0) is the
centre of the first pixel.
"""

from __future__ import annotations

import numpy as np

# An aligned face of 512 pixels (the FFHQ alignment's mean).
FFHQ_512 = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
# The crop of 112 pixels that face recognizers are trained on (Deng et al., ArcFace, CVPR 2019).
ARCFACE_112 = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
# The crop of 150 pixels that dlib's recognizer is trained on: medians of the landmarks of 58 FFHQ-aligned faces in it.
DLIB_150 = np.array(
    [
        [47.69, 44.90],
        [99.99, 45.19],
        [73.81, 75.81],
        [50.64, 99.58],
        [97.32, 99.26],
    ]
)


def ffhq_template(size: int) -> np.ndarray:
    """Return the five landmarks of an aligned face of `size` pixels, (5,2) float64."""
    return (FFHQ_512 + 0.5) * (size / 512) - 0.5
