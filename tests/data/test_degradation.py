"""The blind degradation: kernels and steps against closed forms, and repeatability."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import skimage.data
import torch
import torchvision.transforms.functional as reference

from basicsr.data.degradation import (
    LARGE,
    SMALL,
    ColourRanges,
    DegradationRanges,
    add_noise,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    change_colour,
    degrade,
    gaussian_kernel,
    jpeg,
    motion_kernel,
    random_kernel,
    to_bytes,
    to_unit,
)

NEUTRAL = DegradationRanges(blur_sigma=(0, 0), downsample_range=(1, 1), noise_range=(0, 0), jpeg_range=None)


@pytest.fixture(scope='module')
def face() -> np.ndarray:
    """The astronaut's face, float32 (128,128,3) in [0, 1]."""
    return skimage.data.astronaut()[0:256:2, 96:352:2].astype(np.float32) / 255


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def moments(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (x, y) and covariance of a kernel seen as a distribution around its middle."""
    axis = np.arange(len(kernel)) - len(kernel) // 2
    x, y = np.meshgrid(axis, axis)
    points = np.stack([x.ravel(), y.ravel()])
    mean = points @ kernel.ravel().astype(float)
    centred = points - mean[:, None]
    return mean, (centred * kernel.ravel()) @ centred.T


@pytest.mark.parametrize('sigma', [0.7, 2.0, 5.0])
def test_isotropic_kernel_has_unit_sum_symmetry_and_its_variance(sigma: float) -> None:
    kernel = gaussian_kernel(61, sigma, sigma)
    mean, covariance = moments(kernel)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-8)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-8)
    np.testing.assert_allclose(mean, 0, atol=1e-5)
    np.testing.assert_allclose(covariance, np.eye(2) * sigma**2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('angle', [0.0, 0.4, -1.1, np.pi / 2])
def test_anisotropic_kernel_has_the_turned_covariance(angle: float) -> None:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    _, covariance = moments(gaussian_kernel(61, 5.0, 2.0, angle))
    np.testing.assert_allclose(covariance, turn @ np.diag([25.0, 4.0]) @ turn.T, atol=0.02)


def test_no_width_is_one_tap() -> None:
    kernel = gaussian_kernel(5, 0.0, 0.0)
    assert kernel[2, 2] == 1 and kernel.sum() == 1


@pytest.mark.parametrize(('weights', 'isotropic'), [((1, 0), 50), ((0, 1), 0)])
def test_kernel_weights_choose_the_kind(weights: tuple[int, int], isotropic: int) -> None:
    ranges = dataclasses.replace(LARGE, kernel_prob=weights)
    kernels = [random_kernel(ranges, rng(seed)) for seed in range(50)]
    assert sum(np.allclose(kernel, kernel.T) and np.allclose(kernel, kernel[::-1]) for kernel in kernels) == isotropic


@pytest.mark.parametrize('taps', [3, 11, 41])
def test_motion_kernel_is_a_centred_thin_trace(taps: int) -> None:
    for seed in range(30):
        kernel = motion_kernel(taps, rng(seed))
        assert kernel.shape == (taps, taps)
        assert kernel.min() >= 0 and kernel.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(moments(kernel)[0], 0, atol=1e-4)
        assert np.count_nonzero(kernel) <= 6 * taps
    assert not np.array_equal(motion_kernel(taps, rng(0)), motion_kernel(taps, rng(1)))


def test_noise_has_its_deviation_and_no_bias() -> None:
    noise = (add_noise(np.full((256, 256, 3), 0.5, np.float32), 12, rng()) - 0.5) * 255
    assert noise.std() == pytest.approx(12, rel=0.01)
    assert abs(noise.mean()) < 0.15
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02


def test_neutral_ranges_leave_the_picture_alone(face: np.ndarray) -> None:
    before = face.copy()
    np.testing.assert_array_equal(to_unit(to_bytes(degrade(face, NEUTRAL, rng()))), face)
    nothing = DegradationRanges(blur_sigma=None, downsample_range=None, noise_range=None, jpeg_range=None)
    np.testing.assert_array_equal(degrade(face, nothing, rng()), face)
    degrade(face, LARGE, rng())
    np.testing.assert_array_equal(face, before)


def test_blur_alone_is_a_convolution_with_the_drawn_kernel(face: np.ndarray) -> None:
    ranges = dataclasses.replace(NEUTRAL, blur_sigma=(1, 3), blur_kernel_size=11, downsample_range=None)
    impulse = np.zeros((31, 31, 3), np.float32)
    impulse[15, 15] = 1
    spread = degrade(impulse, ranges, rng(3))[10:21, 10:21, 0]
    np.testing.assert_allclose(spread, random_kernel(ranges, rng(3)), atol=1e-6)
    assert degrade(face, ranges, rng(3)).mean() == pytest.approx(face.mean(), rel=0.02)


def test_motion_blur_comes_with_its_chance() -> None:
    impulse = np.zeros((61, 61, 3), np.float32)
    impulse[30, 30] = 1
    ranges = dataclasses.replace(NEUTRAL, motion_kernel_prob=0.5, downsample_range=None)
    blurred = [degrade(impulse, ranges, rng(seed)).max() < 0.99 for seed in range(200)]
    assert 70 < sum(blurred) < 130


def test_jpeg_loses_more_at_lower_quality(face: np.ndarray) -> None:
    losses = [np.mean((jpeg(face, quality) - face) ** 2) for quality in (95, 75, 50, 25, 10)]
    assert losses == sorted(losses) and losses[0] > 0


def test_jpeg_keeps_red_red() -> None:
    red = np.zeros((32, 32, 3), np.float32)
    red[..., 0] = 0.8
    np.testing.assert_allclose(jpeg(red, 90), red, atol=0.03)


def test_reduction_removes_detail_in_step_with_its_factor(face: np.ndarray) -> None:
    losses = [
        np.mean((degrade(face, dataclasses.replace(NEUTRAL, downsample_range=(r, r)), rng()) - face) ** 2)
        for r in (1, 2, 4, 8)
    ]
    assert losses == sorted(losses) and losses[0] < 1e-10


def test_the_input_size_can_differ(face: np.ndarray) -> None:
    assert degrade(face, SMALL.scaled(128), rng(), size=64).shape == (64, 64, 3)


def test_same_generator_same_bytes_and_other_seed_other_bytes(face: np.ndarray) -> None:
    ranges = dataclasses.replace(LARGE.scaled(128), motion_kernel_prob=0.5)
    for seed in range(5):
        first, second = (degrade(face, ranges, rng(seed)) for _ in range(2))
        assert first.tobytes() == second.tobytes()
    assert degrade(face, ranges, rng(0)).tobytes() != degrade(face, ranges, rng(1)).tobytes()


def test_large_damages_more_than_small(face: np.ndarray) -> None:
    small, large = (
        np.mean([np.mean((degrade(face, ranges.scaled(128), rng(seed)) - face) ** 2) for seed in range(40)])
        for ranges in (SMALL, LARGE)
    )
    assert large > 1.5 * small


def test_published_figures() -> None:
    colour = ColourRanges()
    assert (colour.brightness, colour.contrast, colour.saturation) == ((0.5, 1.5), (0.5, 1.5), (0, 1.5))
    assert (colour.hue, colour.color_jitter_shift) == ((-0.1, 0.1), 20)
    assert (LARGE.blur_sigma, LARGE.downsample_range, LARGE.noise_range, LARGE.jpeg_range) == (
        (1, 15), (4, 30), (0, 20), (30, 80),
    )  # fmt: skip
    assert (SMALL.blur_sigma, SMALL.downsample_range, SMALL.noise_range, SMALL.jpeg_range) == (
        (0.1, 10), (1, 12), (0, 15), (60, 100),
    )  # fmt: skip
    for ranges in (LARGE, SMALL):
        assert ranges.blur_kernel_size == 41
        assert dict(zip(ranges.kernel_list, ranges.kernel_prob, strict=True)) == {'iso': 0.5, 'aniso': 0.5}


def test_scaling_shrinks_lengths_and_nothing_else() -> None:
    scaled = LARGE.scaled(128)
    assert scaled.blur_sigma == (0.25, 3.75)
    assert scaled.downsample_range == (1.0, 7.5)
    assert scaled.blur_kernel_size == 11
    assert (scaled.noise_range, scaled.jpeg_range) == (LARGE.noise_range, LARGE.jpeg_range)
    assert LARGE.scaled(512) == LARGE
    assert all(SMALL.scaled(size).blur_kernel_size % 2 == 1 for size in range(16, 1025))
    assert SMALL.scaled(64).downsample_range == (1.0, 1.5)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('blur_sigma', (3, 1)),
        ('downsample_range', (0.5, 2)),
        ('noise_range', (-1, 2)),
        ('jpeg_range', (30, 101)),
        ('blur_kernel_size', 40),
        ('kernel_list', ('iso', 'skew')),
        ('kernel_prob', (1.0,)),
        ('motion_kernel_prob', 1.5),
    ],
)
def test_a_wrong_range_names_its_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(LARGE, **{field: value})


def test_ranges_from_options() -> None:
    opt = {'blur_sigma': [0.2, 3], 'blur_sigma_large': [1, 5], 'jpeg_range': None, 'kernel_list': ['iso']}
    opt |= {'kernel_prob': [1], 'noise_range_large': [3, 4]}
    small = DegradationRanges.from_options(opt, SMALL)
    assert (small.blur_sigma, small.jpeg_range, small.kernel_list) == ((0.2, 3), None, ('iso',))
    assert small.noise_range == SMALL.noise_range
    large = DegradationRanges.from_options(opt, LARGE, '_large')
    assert (large.blur_sigma, large.noise_range, large.jpeg_range) == ((1, 5), (3, 4), LARGE.jpeg_range)
    assert DegradationRanges.from_options({'motion_kernel_prob': 0.5}, SMALL).motion_kernel_prob == 0
    nulls = {'blur_kernel_size': None, 'kernel_list': None, 'kernel_prob': None}
    assert DegradationRanges.from_options(nulls, SMALL) == SMALL
    with_motion = DegradationRanges.from_options({'use_motion_kernel': True, 'motion_kernel_prob': 0.5}, SMALL)
    assert with_motion.motion_kernel_prob == 0.5
    assert DegradationRanges.from_options({'use_motion_kernel': True}, SMALL).motion_kernel_prob == 0.001


ADJUSTMENTS = [
    (adjust_brightness, reference.adjust_brightness, 0.6),
    (adjust_brightness, reference.adjust_brightness, 1.4),
    (adjust_contrast, reference.adjust_contrast, 0.5),
    (adjust_contrast, reference.adjust_contrast, 1.5),
    (adjust_saturation, reference.adjust_saturation, 0.0),
    (adjust_saturation, reference.adjust_saturation, 1.5),
    (adjust_hue, reference.adjust_hue, 0.1),
    (adjust_hue, reference.adjust_hue, -0.3),
]


@pytest.mark.parametrize(('ours', 'theirs', 'strength'), ADJUSTMENTS)
def test_colour_adjustments_equal_torchvision(ours, theirs, strength: float, face: np.ndarray) -> None:
    expected = theirs(torch.from_numpy(face.transpose(2, 0, 1).copy()), strength).numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(ours(face, strength), expected, atol=2e-3)
    assert np.abs(expected - face).max() > 0.05


def test_channel_shift_is_one_bounded_offset_a_channel() -> None:
    flat = np.full((16, 16, 3), 0.5, np.float32)
    shift = np.stack(
        [
            (change_colour(flat, ColourRanges(color_jitter_prob=1, color_jitter_shift=20), rng(s)) - 0.5) * 255
            for s in range(50)
        ]
    )
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-4)
    assert 15 < np.abs(shift).max() <= 20.001
    assert (np.ptp(shift[:, 0, 0], axis=1) > 1).mean() > 0.9
    white = [change_colour(flat * 2, ColourRanges(color_jitter_prob=1), rng(s)) for s in range(5)]
    assert np.max(white) == 1 > np.min(white)


def test_grey_has_equal_channels_and_no_chance_means_no_change(face: np.ndarray) -> None:
    grey = change_colour(face, ColourRanges(gray_prob=1), rng())
    assert grey.shape == face.shape
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    np.testing.assert_array_equal(change_colour(face, ColourRanges(), rng()), face)


def test_jitter_of_factor_one_changes_nothing(face: np.ndarray) -> None:
    still = ColourRanges(color_jitter_pt_prob=1, brightness=(1, 1), contrast=(1, 1), saturation=(1, 1), hue=(0, 0))
    np.testing.assert_allclose(change_colour(face, still, rng()), face, atol=1e-5)
    for name, adjust in (
        ('brightness', adjust_brightness),
        ('contrast', adjust_contrast),
        ('saturation', adjust_saturation),
        ('hue', adjust_hue),
    ):
        moved = dataclasses.replace(still, **{name: (0.3, 0.3)})
        np.testing.assert_allclose(change_colour(face, moved, rng()), adjust(face, 0.3), atol=1e-5)


def test_jitter_comes_in_every_order_and_starts_from_a_clipped_picture(face: np.ndarray) -> None:
    both = ColourRanges(
        color_jitter_pt_prob=1, brightness=(1.4, 1.4), contrast=(0.5, 0.5), saturation=(1, 1), hue=(0, 0)
    )
    orders = [adjust_contrast(adjust_brightness(face, 1.4), 0.5), adjust_brightness(adjust_contrast(face, 0.5), 1.4)]
    found = [change_colour(face, both, rng(seed)) for seed in range(20)]
    matched = [[np.allclose(one, order, atol=1e-4) for order in orders] for one in found]
    assert all(sum(row) == 1 for row in matched) and all(map(any, zip(*matched, strict=True)))
    beyond = 1.5 * face - 0.2  # as noise without JPEG leaves it
    for seed in range(5):
        first, second = (change_colour(image, both, rng(seed)) for image in (beyond, np.clip(beyond, 0, 1)))
        np.testing.assert_array_equal(first, second)
