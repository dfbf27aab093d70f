"""Templates, similarities and warps, on the pixel-centre convention."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.transform import SimilarityTransform

from basicsr.faces.geometry import (
    affine_scale,
    align_face,
    apply_affine,
    compose,
    covering_rectangle,
    crop_side,
    frame_corners,
    invert_affine,
    scaling,
    similarity_transform,
    warp,
)
from basicsr.utils.templates import FFHQ_512, ffhq_template


def similarity(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    turn = scale * np.exp(1j * np.deg2rad(degrees))
    return np.array([[turn.real, -turn.imag, x], [turn.imag, turn.real, y]])


def picture_with_dots(points: np.ndarray, side: int, spread: float) -> np.ndarray:
    """Bright Gaussian dots on black, each in its own place, RGB uint8."""
    y, x = np.mgrid[:side, :side]
    dots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * spread**2)) for px, py in points]
    return np.repeat((np.max(dots, axis=0) * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def dot_centres(image: np.ndarray, near: np.ndarray, radius: int) -> np.ndarray:
    """The centres of mass of the dots near the given points."""
    centres = []
    for px, py in near:
        left, top = round(px) - radius, round(py) - radius
        part = image[top : top + 2 * radius + 1, left : left + 2 * radius + 1, 0].astype(float)
        y, x = np.mgrid[: part.shape[0], : part.shape[1]]
        centres.append([(part * x).sum() / part.sum() + left, (part * y).sum() / part.sum() + top])
    return np.array(centres)


def test_the_side_of_a_crop_is_that_of_the_aligned_face_however_it_lies():
    assert crop_side(apply_affine(FFHQ_512, similarity(1.7, 30, 5, -90))) == pytest.approx(512 * 1.7)
    turned_away = FFHQ_512 * [0.5, 1]  # the eyes are half as far apart, and the face is as high
    assert 0.75 * 512 < crop_side(turned_away) < 512


def test_the_template_is_the_published_one_and_scales_with_pixel_centres():
    assert np.array_equal(ffhq_template(512), FFHQ_512)
    assert FFHQ_512[0].tolist() == [192.98138, 239.94708]
    assert np.allclose(ffhq_template(128), apply_affine(FFHQ_512, scaling(1 / 4)))
    # The middle of a picture stays its middle.
    assert np.allclose(apply_affine([[(512 - 1) / 2] * 2], scaling(1 / 4)), [[(128 - 1) / 2] * 2])


def test_a_similarity_is_found_again():
    matrix = similarity(0.37, 31, 5, -8)
    found = similarity_transform(FFHQ_512, apply_affine(FFHQ_512, matrix))
    assert np.allclose(found, matrix)
    assert affine_scale(found) == pytest.approx(0.37)


def test_the_similarity_is_the_least_squares_one():
    rng = np.random.default_rng(0)
    source, target = FFHQ_512 + rng.normal(0, 20, (5, 2)), ffhq_template(128)
    reference = SimilarityTransform.from_estimate(source, target)
    assert np.allclose(similarity_transform(source, target), reference.params[:2])


@pytest.mark.parametrize('points', [np.full((5, 2), 7.0), np.full((5, 2), np.nan)])
def test_landmarks_that_give_no_face_are_an_error(points):
    with pytest.raises(ValueError, match='coincide'):
        similarity_transform(points, FFHQ_512)


def test_inverse_and_composition():
    a, b = similarity(2, 30, 1, 2), similarity(0.3, -70, 9, 4)
    points = FFHQ_512
    assert np.allclose(apply_affine(apply_affine(points, a), invert_affine(a)), points)
    assert np.allclose(apply_affine(points, compose(a, b)), apply_affine(apply_affine(points, b), a))


@pytest.mark.parametrize(('face_scale', 'size'), [(0.25, 128), (0.6, 512), (1.9, 128), (1.5, 512)])
def test_alignment_there_and_back_is_within_half_a_pixel(face_scale, size):
    """Dots painted at the landmarks arrive at the template's places and return to where they were."""
    side = 1000
    landmarks = apply_affine(FFHQ_512, similarity(face_scale, 17, 180, 40))
    to_crop = 512 * face_scale / size  # pixels of the picture for one of the crop
    image = picture_with_dots(landmarks, side, 2.5 * max(to_crop, 1))
    crop, matrix = align_face(image, landmarks, size)
    radius = round(8 * max(1, 1 / to_crop))
    assert np.abs(dot_centres(crop, ffhq_template(size), radius) - ffhq_template(size)).max() < 0.5
    back = warp(crop, invert_affine(matrix), side, side, border=cv2.BORDER_CONSTANT)
    centres = dot_centres(back, landmarks, round(8 * max(to_crop, 1)))
    assert np.abs(centres - landmarks).max() < 0.5


def test_a_warp_of_a_part_is_the_warp_of_the_whole():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8), (0, 0), 2)
    matrix = similarity(1.3, 20, -200, -150)
    whole = cv2.warpAffine(image, matrix, (64, 64), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    assert np.abs(warp(image, matrix, 64, 64).astype(int) - whole).max() <= 1


def test_shrinking_does_not_alias():
    """A pattern finer than the crop can show becomes even grey, not a coarser pattern."""
    y, x = np.mgrid[:1000, :1000]
    image = np.repeat((((x // 2 + y // 2) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    small = warp(image, similarity(0.13, 12, 20, 5), 96, 96)
    assert abs(small.mean() - 127.5) < 2
    assert small.std() < 6


def test_a_face_at_the_picture_edge_has_no_frame():
    """Beyond the edge the crop goes on as a reflection: an even picture gives an even crop."""
    image = np.full((200, 200, 3), (200, 120, 40), np.uint8)
    crop, _ = align_face(image, apply_affine(ffhq_template(150), np.array([[1.0, 0, -40], [0, 1.0, -60]])), 128)
    assert np.array_equal(np.unique(crop.reshape(-1, 3), axis=0), [[200, 120, 40]])


def test_a_view_beside_the_picture_is_only_its_border():
    image = np.full((50, 50, 3), 90, np.uint8)
    view = warp(image, similarity(1, 0, 500, 500), 32, 32, border=cv2.BORDER_REPLICATE)
    assert view.shape == (32, 32, 3) and (view == 90).all()


def test_the_covering_rectangle_is_cut_to_the_picture():
    assert covering_rectangle(frame_corners(10, 20), 10, 20) == (0, 0, 10, 20)
    assert covering_rectangle(frame_corners(10, 20) - 4, 10, 20) == (0, 0, 6, 16)
    left, top, right, bottom = covering_rectangle(frame_corners(10, 20) + 500, 10, 20)
    assert left == right and top == bottom
