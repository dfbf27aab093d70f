"""The geometry of aligned faces, as pure functions.

Convention: a point (x, y) is in pixels and (0, 0) is the *centre* of the first pixel, as in OpenCV. A picture of width
W therefore reaches from -0.5 to W - 0.5, and scaling it by s moves x to (x + 0.5) s - 0.5. A matrix is (2,3) float64
and maps (x, y, 1).
"""

from __future__ import annotations

import cv2
import numpy as np

from basicsr.utils.templates import ffhq_template

# Of an aligned face of side 1: the middle and half axes of the ellipse from the forehead to the chin.
ELLIPSE_MIDDLE, ELLIPSE_AXES = (0.5, 0.6), (0.24, 0.3)
SHRINKS = 0.8  # a warp that makes things smaller than this is preceded by area averaging


def similarity_transform(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """Return the rotation, uniform scaling and shift that brings `src` nearest to `dst` by least squares, unmirrored.

    With points as complex numbers about their means, the best factor is <src, dst> / <src, src> (Umeyama 1991 in two
    dimensions).

    Args:
        src: (N,2), N >= 2.
        dst: (N,2).

    Returns:
        (2,3), `src` to `dst`.

    Raises:
        ValueError: the points of `src` coincide, or are not finite.
    """
    src, dst = np.asarray(src, np.float64), np.asarray(dst, np.float64)
    z, target = src @ [1, 1j], dst @ [1, 1j]
    centred = z - z.mean()
    spread = np.vdot(centred, centred).real
    if not spread > 0 or not np.isfinite(spread):
        raise ValueError(f'no similarity fits landmarks that coincide or are not finite: {src.tolist()}')
    factor = np.vdot(centred, target - target.mean()) / spread
    shift = target.mean() - factor * z.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def scaling(factor: float) -> np.ndarray:
    """Return the matrix from a picture to the same picture resized by `factor`, (2,3)."""
    return np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]])


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the matrix that applies `inner`, then `outer`."""
    return outer[:, :2] @ inner + np.array([[0, 0, outer[0, 2]], [0, 0, outer[1, 2]]])


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix that undoes `matrix`.

    Raises:
        numpy.linalg.LinAlgError: it cannot be undone.
    """
    linear = np.linalg.inv(matrix[:, :2])
    return np.hstack([linear, -linear @ matrix[:, 2:]])


def apply_affine(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (N,2) moved by `matrix`, (N,2)."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def affine_scale(matrix: np.ndarray) -> float:
    """Length after `matrix` over length before it."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def frame_corners(width: int, height: int) -> np.ndarray:
    """Return the outer corners of a picture, clockwise from the top left, (4,2)."""
    right, bottom = width - 0.5, height - 0.5
    return np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])


def covering_rectangle(points: np.ndarray, width: int, height: int, margin: float = 0) -> tuple[int, int, int, int]:
    """Return the pixels (left, top, right, bottom, the latter excluded) around `points`, cut to a picture."""
    low = np.clip(np.floor(points.min(0) - margin + 0.5), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(points.max(0) + margin + 0.5), low, (width, height)).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def warp(
    image: np.ndarray, matrix: np.ndarray, width: int, height: int, border: int = cv2.BORDER_REFLECT_101
) -> np.ndarray:
    """`image` seen through a similarity, without aliasing: what shrinks is averaged over its area first.

    Only the part of `image` that is seen is touched, so that a small face in a huge picture costs little.

    Args:
        image: (H,W) or (H,W,C), uint8 or float32.
        matrix: picture to result, (2,3).
        width: of the result.
        height: of the result.
        border: what lies outside `image`, an OpenCV border type.

    Returns:
        (height,width) or (height,width,C), the type of `image`.
    """
    scale = affine_scale(matrix)
    seen = apply_affine(frame_corners(width, height), invert_affine(matrix))
    left, top, right, bottom = covering_rectangle(seen, image.shape[1], image.shape[0], margin=4 / min(scale, 1))
    if right - left < 2 or bottom - top < 2:  # nothing is seen but the border
        left, top, right, bottom = 0, 0, image.shape[1], image.shape[0]
    part = image[top:bottom, left:right]
    matrix = compose(matrix, np.array([[1.0, 0, left], [0, 1.0, top]]))
    if scale < SHRINKS:
        size = [max(1, round(side * scale)) for side in (right - left, bottom - top)]
        x, y = (right - left) / size[0], (bottom - top) / size[1]
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        matrix = compose(matrix, np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]]))
    return cv2.warpAffine(part, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=border)


def crop_side(landmarks: np.ndarray) -> float:
    """Side in pixels of the picture that the aligned crop of a face covers.

    Args:
        landmarks: (5,2), in the order of `basicsr.utils.templates`.

    Raises:
        ValueError: the landmarks coincide.
    """
    return 1 / affine_scale(similarity_transform(landmarks, ffhq_template(1)))


def ellipse_distance(landmarks: np.ndarray, width: int, height: int, matrix: np.ndarray | None = None) -> np.ndarray:
    """Return the distance of each pixel from the middle of a face: 1 on the ellipse from forehead to chin.

    Args:
        landmarks: (5,2) in the picture, in the order of `basicsr.utils.templates`.
        width: of the picture, or of a view of it.
        height: likewise.
        matrix: from the picture to the view, (2,3); by default the view is the picture.

    Returns:
        (height,width) float32, 0 and more.

    Raises:
        ValueError: the landmarks coincide.
    """
    to_face = similarity_transform(landmarks, ffhq_template(1))
    if matrix is not None:
        to_face = compose(to_face, invert_affine(matrix))
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    rows = zip(to_face.astype(np.float32), ELLIPSE_MIDDLE, ELLIPSE_AXES, strict=True)
    across, along = (((a * x + c + 0.5 - middle) + b * y) / axis for (a, b, c), middle, axis in rows)
    return np.sqrt(across**2 + along**2)


def align_face(image: np.ndarray, landmarks: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the face cut out upright at its FFHQ place. What lies outside the picture is its reflection, as in FFHQ.

    Args:
        image: RGB uint8 (H,W,3).
        landmarks: (5,2), in the order of `basicsr.utils.templates`.
        size: side of the crop.

    Returns:
        The crop (size,size,3), and the matrix (2,3) from picture to crop.

    Raises:
        ValueError: the landmarks coincide.
    """
    matrix = similarity_transform(landmarks, ffhq_template(size))
    return warp(image, matrix, size, size), matrix
