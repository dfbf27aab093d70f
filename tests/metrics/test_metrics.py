"""PSNR and SSIM against closed forms and a plain computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import skimage.data

from basicsr.metrics import METRICS, calculate_metric, calculate_psnr, calculate_ssim, row_of
from basicsr.metrics.psnr_ssim import to_y
from basicsr.utils.registry import METRIC_REGISTRY


@pytest.fixture(scope='module')
def pair() -> tuple[np.ndarray, np.ndarray]:
    """The astronaut, RGB uint8 (48,40,3), and a noisy copy."""
    clean = skimage.data.astronaut()[0:192:4, 140:300:4].copy()
    noisy = clean + np.random.default_rng(0).normal(0, 15, clean.shape)
    return clean, noisy.clip(0, 255).astype(np.uint8)


def plain_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM of two float planes, window by window, straight from Wang et al. 2004."""
    axis = np.arange(11) - 5
    window = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for y in range(first.shape[0] - 10):
        for x in range(first.shape[1] - 10):
            a, b = first[y : y + 11, x : x + 11], second[y : y + 11, x : x + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(values))


@pytest.mark.parametrize('offset', [1, 10, 100])
def test_psnr_of_a_constant_offset(offset: int) -> None:
    img = np.full((20, 30, 3), 50, np.uint8)
    assert calculate_psnr(img, img + np.uint8(offset)) == pytest.approx(20 * math.log10(255 / offset))


def test_psnr_does_not_wrap_around_bytes() -> None:
    black, white = np.zeros((12, 12, 3), np.uint8), np.full((12, 12, 3), 255, np.uint8)
    assert calculate_psnr(black, white) == pytest.approx(0)
    assert calculate_psnr(white, black) == pytest.approx(0)


def test_equal_pictures(pair: tuple[np.ndarray, np.ndarray]) -> None:
    clean, _ = pair
    for luma in (False, True):
        assert calculate_psnr(clean, clean.copy(), test_y_channel=luma) == float('inf')
        assert calculate_ssim(clean, clean.copy(), test_y_channel=luma) == pytest.approx(1)


@pytest.mark.parametrize('border', [0, 4])
def test_crop_border_leaves_the_rim_out(border: int, pair: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noisy = pair
    inner = np.s_[border : clean.shape[0] - border, border : clean.shape[1] - border]
    error = np.mean((clean[inner].astype(float) - noisy[inner]) ** 2)
    assert calculate_psnr(clean, noisy, crop_border=border) == pytest.approx(10 * np.log10(255**2 / error))
    assert calculate_ssim(clean, noisy, crop_border=border) == pytest.approx(calculate_ssim(clean[inner], noisy[inner]))


def test_ssim_equals_a_plain_computation(pair: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noisy = (image.astype(float) for image in pair)
    expected = np.mean([plain_ssim(clean[..., c], noisy[..., c]) for c in range(3)])
    assert calculate_ssim(*pair) == pytest.approx(expected, abs=1e-6)
    assert calculate_ssim(*pair, test_y_channel=True) == pytest.approx(
        plain_ssim(to_y(pair[0]), to_y(pair[1])), abs=1e-6
    )


@pytest.mark.parametrize(
    ('colour', 'luma'),
    [((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553), ((0, 0, 255), 40.966)],
)
def test_luma_is_bt601_studio_swing(colour: tuple[int, int, int], luma: float) -> None:
    assert to_y(np.array([[colour]], np.uint8))[0, 0] == pytest.approx(luma)


def test_psnr_of_the_luma() -> None:
    grey, lighter = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 110, np.uint8)
    step = 10 * (235 - 16) / 255
    assert calculate_psnr(grey, lighter, test_y_channel=True) == pytest.approx(20 * math.log10(255 / step))


@pytest.mark.parametrize('metric', [calculate_psnr, calculate_ssim])
def test_what_cannot_be_compared_is_an_error(metric, pair: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noisy = pair
    with pytest.raises(ValueError, match=r'\(48, 40, 3\) and \(48, 39, 3\)'):
        metric(clean, noisy[:, 1:])
    with pytest.raises(ValueError, match='uint8'):
        metric(clean / 255, noisy)
    with pytest.raises(ValueError, match='uint8'):
        metric(clean[..., 0], noisy[..., 0])
    with pytest.raises(ValueError, match='crop_border'):
        metric(clean, noisy, crop_border=20)


def test_ssim_of_a_picture_below_its_window() -> None:
    tiny = np.zeros((10, 40, 3), np.uint8)
    with pytest.raises(ValueError, match='11 pixels'):
        calculate_ssim(tiny, tiny)
    least = np.zeros((11, 40, 3), np.uint8)
    assert calculate_ssim(least, least) == 1


def test_call_by_options(pair: tuple[np.ndarray, np.ndarray]) -> None:
    opt = {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': True}
    value = calculate_metric({'img': pair[0], 'img2': pair[1]}, opt)
    assert value == calculate_psnr(*pair, crop_border=2, test_y_channel=True)
    assert opt == {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': True}
    with pytest.raises(KeyError, match="did you mean 'calculate_psnr'"):
        calculate_metric({}, {'type': 'calculate_psn'})


def test_every_registered_function_has_a_row_with_its_direction(pair: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noisy = pair
    worse = np.random.default_rng(1).integers(0, 255, clean.shape, np.uint8)
    for name in METRIC_REGISTRY.names():
        function = METRIC_REGISTRY.get(name)
        metric = row_of(function)
        good, bad = function(clean, noisy), function(clean, worse)
        assert (good > bad) == (metric.better == 'higher')
        assert metric.limits[0] <= bad and good <= metric.limits[1]
    with pytest.raises(KeyError, match='plain_ssim has no row'):
        row_of(plain_ssim)


def test_the_table_is_whole() -> None:
    for metric in METRICS.values():
        assert metric.better in ('higher', 'lower') and metric.inputs in ('pair', 'single', 'set')
        assert metric.limits[0] < metric.limits[1] and metric.protocol
        assert metric.against in ('gt', 'lq', 'ref') if metric.inputs == 'pair' else metric.against in ('', 'gt')
    assert len({metric.name for metric in METRICS.values()}) == len(METRICS)
