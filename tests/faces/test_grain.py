"""Grain: measured where the picture is flat, drawn alike, and added to what was restored only where it is missing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from small_faces import ASTRONAUT_LANDMARKS, Found, portrait

from basicsr.faces.detection import Face
from basicsr.faces.grain import LEAST, Grain, missing_grain
from basicsr.faces.paste import paste_face
from basicsr.inference import ImageRestorer

FACE = Face(np.array([120.0, 40, 300, 220]), 1.0, ASTRONAUT_LANDMARKS)


class Smoothing:
    """A stand-in for FaceRestorer that takes all noise away."""

    size = input_size = 128
    batch_size, takes_identity = 8, False

    def restore(self, faces, w=0.8, adain=True, **known):
        return [cv2.GaussianBlur(face, (0, 0), 3) for face in faces]


def noisy(image: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.rint(np.clip(image + noise, 0, 255)).astype(np.uint8)


def blurred_picture() -> np.ndarray:
    return cv2.GaussianBlur(portrait(), (0, 0), 3)


@pytest.mark.parametrize('sigma', [3, 6, 12])
def test_noise_is_drawn_as_it_was_measured(sigma):
    measured = Grain.of(noisy(np.full((256, 256, 3), 120), sigma))
    drawn = measured.draw(256, 256, 1, seed=1)
    again = Grain.of(np.rint(np.clip(120 + drawn, 0, 255)).astype(np.uint8))
    assert np.allclose(again.levels[0], measured.levels[0], rtol=0.15)
    assert np.array_equal(drawn, measured.draw(256, 256, 1, seed=1))
    assert not np.array_equal(drawn, measured.draw(256, 256, 1, seed=2))


def test_structure_and_compression_are_no_grain():
    smooth = Grain.of(cv2.GaussianBlur(portrait(), (0, 0), 1.5))
    data = cv2.imencode('.jpg', noisy(blurred_picture(), 6), [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    compressed = Grain.of(cv2.imdecode(data, cv2.IMREAD_COLOR))
    assert smooth.levels[0, 0] < LEAST and compressed.levels[0, 0] < LEAST
    assert Grain.of(noisy(blurred_picture(), 4)).levels[0, 0] > LEAST


@pytest.mark.parametrize('upscale', [1, 2])
@pytest.mark.parametrize('deep', [False, True])
def test_a_restored_face_has_the_noise_of_its_picture(upscale, deep):
    picture = noisy(blurred_picture(), 5)
    given = picture.astype(np.uint16) * 257 if deep else picture
    restorers = [
        ImageRestorer(Smoothing(), Found(FACE), upscale=upscale, force=True, grain=grain) for grain in (True, False)
    ]
    grainy, smooth = (restorer.restore(given).image for restorer in restorers)
    assert np.array_equal(grainy, restorers[0].restore(given).image)
    assert grainy.dtype == given.dtype
    shown, plain, enlarged = (
        (image // 257).astype(np.uint8) if image.dtype == np.uint16 else image
        for image in (grainy, smooth, cv2.resize(picture, None, fx=upscale, fy=upscale, interpolation=cv2.INTER_CUBIC))
    )
    middle = slice(80 * upscale, 200 * upscale), slice(165 * upscale, 255 * upscale)
    deviations = [
        float((grey - cv2.GaussianBlur(grey, (0, 0), 1.4 * upscale))[middle].std())
        for grey in (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY).astype(np.float32) for i in (shown, plain, enlarged))
    ]
    assert deviations[1] < 0.6 * deviations[2]
    assert deviations[0] == pytest.approx(deviations[2], rel=0.2)


def test_a_picture_without_noise_gets_none_and_so_does_one_enlarged_by_a_network():
    class Upsampler:
        def upscale(self, image, factor):
            return image.copy()

    clean, picture = blurred_picture(), noisy(blurred_picture(), 5)
    for given, background in ((clean, None), (picture, Upsampler())):
        results = [
            ImageRestorer(
                Smoothing(), Found(FACE), upscale=1, force=True, grain=grain, bg_upsampler=background
            ).restore(given)
            for grain in (True, False)
        ]
        assert np.array_equal(results[0].image, results[1].image)
        assert np.array_equal(results[0].faces[0].restored, results[1].faces[0].restored)


def test_noise_that_the_restoration_kept_is_not_added_twice():
    picture = noisy(blurred_picture(), 5)
    face, matrix = picture[40:296, 80:336], np.array([[1.0, 0, -80], [0, 1.0, -40]])
    assert missing_grain(picture, face, matrix).levels[0].max() < 0.3
    assert missing_grain(picture, cv2.GaussianBlur(face, (0, 0), 3), matrix).levels[0].min() > LEAST
    assert missing_grain(picture, face, np.array([[20.0, 0, 0], [0, 20.0, 0]])) is None  # too small to measure


def test_values_at_the_ends_do_not_wrap_round():
    canvas = np.full((64, 64, 3), 254, np.uint8)
    canvas[:, 32:] = 1
    paste_face(canvas, canvas.copy(), np.eye(2, 3), np.ones((64, 64), np.float32), Grain(np.full((3, 3), 5.0)))
    assert canvas[:, :32].min() > 127 and canvas[:, 32:].max() < 127
