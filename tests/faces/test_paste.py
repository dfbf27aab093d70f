"""Pasting back: no seam, nothing outside touched, nothing moved; and what counts as already sharp."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from facexlib.parsing.parsenet import ParseNet
from small_faces import ASTRONAUT_LANDMARKS, blurred_portrait, portrait, psnr

from basicsr.faces import paste
from basicsr.faces.geometry import align_face, apply_affine, compose, frame_corners, invert_affine, scaling, warp
from basicsr.faces.paste import ParsingMask, face_mask, paste_face
from basicsr.faces.sharpness import is_sharper_than, measure_sharpness
from basicsr.inference.canvas import Canvas
from basicsr.inference.found_face import FoundFace
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.image import imread


@pytest.mark.parametrize('size', [64, 128, 512])
def test_the_mask_falls_smoothly_to_nothing_at_the_edge(size):
    mask = face_mask(size)
    assert mask.dtype == np.float32 and mask.shape == (size, size)
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert (edge == 0).all()
    assert (mask[size // 4 : -size // 4, size // 4 : -size // 4] == 1).all()
    assert np.array_equal(mask, mask.T) and np.array_equal(mask, mask[::-1])
    width = 0.15 * size
    profile = mask[size // 2].astype(float)
    assert np.abs(np.diff(profile)).max() < 15 / 8 / width * 1.01  # the steepest slope of the rise
    assert np.abs(np.diff(profile, 2)).max() < 6 / width**2  # and its curvature: no kink


def crop_of(image: np.ndarray, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    return align_face(image, ASTRONAUT_LANDMARKS, size)


@pytest.mark.parametrize('size', [128, 512])
def test_an_unchanged_crop_pasted_back_changes_nearly_nothing(size):
    image = blurred_portrait()
    crop, matrix = crop_of(image, size)
    result = image.copy()
    paste_face(result, crop, matrix, face_mask(size))
    assert psnr(result, image) > 50
    assert np.abs(result.astype(int) - image).max() <= 6


def test_pixels_outside_the_crop_are_untouched_bit_for_bit():
    image = portrait()
    crop, matrix = crop_of(image)
    result = image.copy()
    paste_face(result, 255 - crop, matrix, face_mask(128))
    outline = np.rint(apply_affine(frame_corners(128, 128), invert_affine(matrix))).astype(np.int32)
    inside = cv2.fillPoly(np.zeros(image.shape[:2], np.uint8), [outline], 1)
    outside = cv2.dilate(inside, np.ones((3, 3), np.uint8)) == 0
    assert np.array_equal(result[outside], image[outside])
    assert np.abs(result.astype(int) - image)[inside == 1].mean() > 20


@pytest.mark.parametrize('levels', [255, 65535])
def test_blending_in_parts_is_the_plain_formula_bit_for_bit(levels):
    image = portrait().astype(np.uint16 if levels > 255 else np.uint8) * (levels // 255)
    face, matrix, mask = portrait()[:128, :128], scaling(128 / 512), 0.9 * face_mask(128)
    plain = warp(face * np.float32(levels // 255) if levels > 255 else face, invert_affine(matrix), 512, 512, 1)
    weight = warp(mask, invert_affine(matrix), 512, 512, 1).clip(0, 1)[..., None]
    plain = image + weight * (plain.astype(np.float32).clip(0, levels) - image)
    paste_face(image, face, matrix, mask)
    assert len(image) > 2 * paste.BLENDED_ROWS
    assert np.array_equal(image, np.rint(plain))


def test_an_empty_mask_changes_nothing_at_all():
    image = portrait()
    crop, matrix = crop_of(image)
    result = image.copy()
    paste_face(result, 255 - crop, matrix, np.zeros((128, 128), np.float32))
    assert np.array_equal(result, image)


@pytest.mark.parametrize('upscale', [1, 2, 4])
def test_a_face_of_another_brightness_leaves_no_visible_box(upscale):
    """On an even picture the brightness changes by no more from pixel to pixel than the mask's slope allows."""
    image = np.full((512 * upscale, 512 * upscale, 3), 100, np.uint8)
    _, matrix = crop_of(portrait())
    matrix = compose(matrix, scaling(1 / upscale))
    paste_face(image, np.full((128, 128, 3), 140, np.uint8), matrix, face_mask(128))
    values = image[:, :, 0].astype(float)
    assert values.min() == 100 and values.max() == 140
    slope = 40 * 15 / 8 / (0.15 * 128) * np.linalg.norm(matrix[0, :2])
    for axis in (0, 1):
        assert np.abs(np.diff(values, axis=axis)).max() <= 1.1 * slope + 1


def test_a_dot_stays_where_it_is_when_the_picture_is_enlarged():
    """The matrix for an enlarged picture keeps pixel centres: no shift of a fraction of a pixel."""
    y, x = np.mgrid[:200, :200]
    image = np.repeat((255 * np.exp(-((x - 101) ** 2 + (y - 97) ** 2) / 50)).astype(np.uint8)[..., None], 3, axis=2)
    landmarks = apply_affine(ASTRONAUT_LANDMARKS - ASTRONAUT_LANDMARKS.mean(0), scaling(1)) + np.array([101, 97])
    crop, matrix = align_face(image, landmarks, 128)
    canvas = np.zeros((600, 600, 3), np.uint8)
    paste_face(canvas, crop, compose(matrix, scaling(1 / 3)), face_mask(128))
    weight = canvas[:, :, 0].astype(float)
    y, x = np.mgrid[:600, :600]
    centre = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    assert np.abs(centre - apply_affine([[101, 97]], scaling(3))).max() < 0.2


def test_a_large_face_is_averaged_not_sampled_when_it_is_pasted_small():
    y, x = np.mgrid[:512, :512]
    face = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    canvas = np.full((60, 60, 3), 127, np.uint8)
    paste_face(canvas, face, scaling(512 / 60), np.ones((512, 512), np.float32))
    assert np.abs(canvas.astype(int) - 127).max() <= 4


def test_a_face_partly_or_wholly_outside_the_picture():
    face, mask = np.full((64, 64, 3), 250, np.uint8), np.ones((64, 64), np.float32)
    canvas = np.zeros((50, 50, 3), np.uint8)
    paste_face(canvas, face, np.array([[1.0, 0, 400], [0, 1.0, 400]]), mask)
    assert not canvas.any()
    paste_face(canvas, face, np.array([[1.0, 0, 44], [0, 1.0, 44]]), mask)
    assert (canvas[:20, :20] == 250).all() and not canvas[20:].any() and not canvas[:, 20:].any()


def test_the_parsing_mask_is_soft_and_of_the_crops_size(tmp_path, monkeypatch):
    monkeypatch.setattr(paste, 'PARSING_SIDE', 64)  # the published 512 takes ten seconds on a slow core
    path = tmp_path / 'parsing.pth'
    torch.save(ParseNet(in_size=64, out_size=64, parsing_ch=19).state_dict(), path)
    mask = ParsingMask(path)(crop_of(portrait())[0])
    assert mask.shape == (128, 128) and mask.dtype == np.float32
    assert mask.min() >= 0 and mask.max() <= 1
    torch.save({'weight': torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match='does not fit'):
        ParsingMask(path)


def test_the_parsing_mask_is_the_face_without_hair_clothes_and_background(tmp_path, monkeypatch):
    monkeypatch.setattr(paste, 'PARSING_SIDE', 64)
    torch.save(ParseNet(in_size=64, out_size=64, parsing_ch=19).state_dict(), tmp_path / 'parsing.pth')
    parsing = ParsingMask(tmp_path / 'parsing.pth')
    for label in range(19):
        parsing.network = lambda face, label=label: [F.one_hot(torch.full((1, 64, 64), label), 19).movedim(3, 1)]
        inside = label not in (0, 14, 16, 17, 18)  # of what the published paste-back takes no part
        assert np.allclose(parsing(crop_of(portrait())[0]), inside, atol=1e-6)
    image, white = portrait(), np.full((128, 128, 3), 255, np.uint8)
    face = FoundFace(white, None, 'restored', crop_of(image)[1]).with_restoration(white, 0.5)
    assert np.array_equal(Canvas(128, upscale=1, parsing=parsing).finish(image, [face]), image)


def test_a_sharp_face_is_told_from_a_blurred_or_noisy_one():
    sharp = crop_of(portrait(), 168)[0]
    noise = np.random.default_rng(0).normal(0, 12, sharp.shape)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 2)
    noisy = np.clip(blurred + noise, 0, 255).astype(np.uint8)
    assert is_sharper_than(sharp, 64)
    assert not is_sharper_than(blurred, 64)
    assert not is_sharper_than(noisy, 64)
    assert measure_sharpness(noisy, 64).coherence < measure_sharpness(sharp, 64).coherence


@pytest.mark.parametrize('kernel', [np.eye(9), np.eye(9)[::-1], np.ones((1, 13)), np.ones((13, 1))])
def test_a_face_that_moved_is_not_sharp(kernel):
    sharp = crop_of(portrait(), 168)[0]
    moved = cv2.filter2D(sharp, -1, kernel / kernel.sum())
    assert is_sharper_than(sharp, 64) and not is_sharper_than(moved, 64)


@pytest.mark.parametrize('side', [96, 112, 128])
def test_a_sharp_face_hardly_smaller_than_the_network_is_called_sharper(side):
    """What the network makes up is softer than its size would allow."""
    sharp = cv2.resize(crop_of(portrait(), 168)[0], (side, side), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(0).normal(0, 15, sharp.shape)
    assert is_sharper_than(sharp, 128)
    assert not is_sharper_than(cv2.GaussianBlur(sharp, (0, 0), 0.8), 128)
    assert not is_sharper_than(np.clip(sharp + noise, 0, 255).astype(np.uint8), 128)


def test_a_face_much_smaller_than_the_network_is_never_called_sharper():
    sharp = cv2.resize(crop_of(portrait(), 168)[0], (95, 95), interpolation=cv2.INTER_AREA)
    assert not is_sharper_than(sharp, 128)
    assert not is_sharper_than(sharp, 512)


def test_a_flat_picture_is_not_sharp():
    assert not is_sharper_than(np.full((512, 512, 3), 80, np.uint8), 128)
    assert not is_sharper_than(np.full((128, 128, 3), 80, np.uint8), 128)


@pytest.mark.shared
def test_real_portraits_are_sharp_and_real_degraded_faces_are_not(shared):
    sharp = sorted((shared / 'data' / 'celebref512').rglob('*.jpg'))[::5]
    degraded = sorted((shared / 'data' / 'celebref512_lq').glob('*.png'))
    degraded += sorted((shared / 'data' / 'real_lq512').glob('*.png'))
    assert len(sharp) >= 10 and len(degraded) >= 9
    assert [path for path in sharp if not is_sharper_than(imread(path), 128)] == []
    assert [path for path in degraded if is_sharper_than(imread(path), 128)] == []
    for side in (96, 128):
        small = [cv2.resize(imread(path), (side, side), interpolation=cv2.INTER_AREA) for path in sharp]
        assert np.mean([is_sharper_than(face, 128) for face in small]) >= 0.9
        assert not any(is_sharper_than(cv2.GaussianBlur(face, (0, 0), 1), 128) for face in small)
