"""Tones and colours: faces shown to the network at the usual contrast, restorations that follow their picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from small_faces import aligned_face

import basicsr.faces.tone as tone_module
from basicsr.faces.tone import LUMA, SPREAD, Tone, fix_colour, recolour
from basicsr.inference import FaceRestorer

SKIN, BROWN, BLUE = (205, 160, 140), (95, 70, 55), (90, 115, 150)
IRIS = 0.023  # radius, as a part of the side


def rounded(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), sigma)


def eyes(side: int, iris: tuple[int, int, int]) -> np.ndarray:
    """Skin that darkens to one side, with two irises, float32 (side,side,3)."""
    big = np.full((512, 512, 3), SKIN, np.float32) * np.linspace(1, 0.5, 512, dtype=np.float32)[:, None]
    for x in (193, 319):
        cv2.circle(big, (x, 240), round(IRIS * 512), iris, -1, cv2.LINE_AA)
    return cv2.resize(big, (side, side), interpolation=cv2.INTER_AREA)


def iris_colour(image: np.ndarray) -> np.ndarray:
    """Mean RGB of the inner halves of both irises."""
    side = image.shape[0]
    mask = np.zeros((side, side), np.uint8)
    for x in (193, 319):
        cv2.circle(mask, (round(x * side / 512), round(240 * side / 512)), max(1, round(IRIS * side / 2)), 1, -1)
    return image[mask > 0].mean(0)


# Underexposed and faded faces


def test_usual_faces_are_shown_as_they_are():
    assert Tone.of(aligned_face(128)).is_usual


@pytest.mark.parametrize(('gain', 'offset'), [(0.13, 0), (0.3, 110), (0.35, 5), (0.05, 200)])
def test_dark_and_faded_faces_are_shown_at_the_usual_contrast_and_come_back(gain, offset):
    face = rounded(aligned_face(128) * gain + offset)
    face[:8] = 255  # a bright background, beyond what fits
    tone = Tone.of(face)
    shown = tone.apply(face)
    low, high = np.percentile(shown[16:112, 16:112] @ LUMA, (2, 98))
    assert SPREAD * 0.8 < high - low < SPREAD * 1.25 or tone.gain == pytest.approx(8)
    assert low > 15 and high < 240
    assert np.abs(tone.undo(shown, face) - face).max() < 1e-2


def test_there_is_no_jump_where_the_contrast_becomes_usual():
    ramp = np.linspace(40, 40 + SPREAD / 0.96 * 0.999, 128)
    face = np.repeat(np.repeat(ramp[None, :, None], 128, 0), 3, 2)
    wide, narrow = (Tone.of(rounded((face - 40) * factor + 40)) for factor in (1.4, 1.32))
    assert wide.is_usual and 1 < narrow.gain < 1.05
    assert abs(narrow.target - narrow.centre) < 3


def test_an_underexposed_face_has_no_pattern_after_brightening():
    bright = cv2.GaussianBlur(aligned_face(256), (0, 0), 3)
    dark = rounded(bright * 0.13)
    restorer = FaceRestorer('small', device='cpu')
    expected, restored = (restorer.restore([face], w=0.8)[0] for face in (bright, dark))
    difference = restored / 0.13 - expected
    assert np.abs(blurred(difference, 3)).mean() < 6
    assert difference.std() < 12  # rounding of the dark picture alone makes 2.2
    assert np.abs(restored.astype(int) - dark).max() < 25


# The colour fix


def test_what_is_right_already_stays():
    face = aligned_face(128)
    change = np.abs(fix_colour(face.astype(np.float32), face) - face)
    assert change.mean() < 0.1 and change.max() < 3  # colours of the input are taken for slightly blurred


def test_low_frequencies_follow_the_input_and_detail_stays():
    face = aligned_face(128).astype(np.float32)
    detail = np.random.default_rng(0).integers(-20, 21, (128, 128, 1))
    fixed = fix_colour(blurred(face, 1.5) * (1.1, 1, 0.8) + detail, blurred(face, 1.5))
    kept = fixed - blurred(face, 1.5)
    assert np.abs(blurred(kept, 4)).mean() < 1.5
    assert np.corrcoef(kept.mean(2).ravel(), detail.ravel())[0, 1] > 0.9


@pytest.mark.parametrize('side', [128, 192, 512])
@pytest.mark.parametrize('damage', [0.0, 0.016])
def test_eyes_keep_their_colour_in_networks_of_any_size(side, damage, monkeypatch):
    original = rounded(eyes(side, BLUE))
    seen = rounded(blurred(original, damage * side)) if damage else original
    fixed = fix_colour(eyes(side, BROWN), seen)
    blue, brown = (colour[2] - colour[0] for colour in (BLUE, BROWN))
    hue = np.diff(iris_colour(fixed)[[0, 2]])[0]
    assert hue > brown + 0.75 * (blue - brown)
    monkeypatch.setattr(tone_module, 'FINE_CHROMA', tone_module.COARSE)  # a scale wider than an iris
    coarse = np.diff(iris_colour(fix_colour(eyes(side, BROWN), seen))[[0, 2]])[0]
    assert coarse < brown + 0.5 * (blue - brown)


def test_all_scales_are_those_of_the_face_and_not_of_the_network():
    face, seen = eyes(512, BROWN), blurred(eyes(512, BLUE) * 0.7 + 40, 8)
    results = []
    for side in (128, 192, 512):
        restored, original = (cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in (face, seen))
        results.append(cv2.resize(fix_colour(restored, original), (128, 128), interpolation=cv2.INTER_AREA))
    assert all(np.abs(result - results[0]).mean() < 1 for result in results[1:])


@pytest.mark.parametrize('damage', [2, 4])
def test_a_restored_edge_gets_no_rims_from_a_blurred_input(damage):
    edge = np.full((128, 128, 3), 200, np.float32)
    edge[:, 64:] = 60
    fixed = fix_colour(blurred(edge, 0.7), rounded(blurred(edge, damage)))
    middle = fixed[32:96]
    assert middle.max() < 206 and middle.min() > 54


def test_a_faded_face_gets_the_contrast_of_its_picture_without_rims():
    face = blurred(aligned_face(128), 0.7)
    faded = blurred(face * 0.45 + 90, 1.5)
    fixed = fix_colour(face, rounded(faded))
    target = face * 0.45 + 90
    inner = slice(16, 112)
    assert (fixed[inner, inner] @ LUMA).std() == pytest.approx((target[inner, inner] @ LUMA).std(), rel=0.05)
    assert np.abs(fixed - target).mean() < 3
    highest, lowest = (f(target, np.ones((7, 7), np.uint8)) for f in (cv2.dilate, cv2.erode))
    assert np.quantile(np.maximum(fixed - highest, lowest - fixed), 0.99) < 4


def test_noise_of_the_input_is_not_taken_over():
    face = blurred(aligned_face(128), 1)
    noisy = rounded(face + np.random.default_rng(0).normal(0, 15, face.shape))
    assert np.abs(fix_colour(face, noisy) - face).mean() < 3.5


def test_overshoot_beside_an_edge_is_taken_back_but_lights_in_eyes_stay():
    face = np.full((128, 128, 3), 90, np.float32)
    face[:, :30] = 200
    drawn = face.copy()
    drawn[:, 28:30], drawn[:, 30:32] = 235, 60  # a light and a dark rim
    drawn[58:60, 48:50] = 250  # a light in an eye
    fixed = fix_colour(drawn, rounded(blurred(face, 1)))
    assert fixed[20:108, 24:30].max() < 206 and fixed[20:108, 30:36].min() > 78
    assert fixed[58:60, 48:50].min() > 220


# Colourization


def test_colours_are_taken_over_and_the_light_stays():
    original = np.repeat((aligned_face(128) @ LUMA)[..., None], 3, 2)
    coloured = blurred(aligned_face(128), 2) * 0.7 + 20
    result = recolour(coloured, original)
    assert np.abs(result @ LUMA - original[..., 0]).max() < 0.05
    taken, given = result - (result @ LUMA)[..., None], coloured - (coloured @ LUMA)[..., None]
    assert np.abs(taken.mean((0, 1)) - given.mean((0, 1))).max() < 0.5 and np.abs(taken).mean() > 2
