"""Blur and reduction in one step: equal to their definition, whatever the kernel, the sizes and the threads."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from basicsr.data import blur
from basicsr.data.blur import TOLERANCE, blur_and_reduce, separate
from basicsr.data.degradation import LARGE, SMALL, DegradationRanges, degrade, gaussian_kernel, motion_kernel
from basicsr.data.degradation import random_kernel as draw
from experiments.benchmarks.plain_degradation import plain_degrade

ROUNDING = 2e-6  # of float32, beside the tolerance


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope='module')
def face() -> np.ndarray:
    """The astronaut, float32 (256,300,3) in [0, 1]."""
    return np.ascontiguousarray(skimage.data.astronaut()[:256, 60:360]).astype(np.float32) / 255


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products whatever they cost."""
    for name in ('COST_PER_TAP', 'COST_FOURIER', 'COST_PER_SEPARATE_TAP'):
        monkeypatch.setattr(blur, name, 1e9)


def definition(image: np.ndarray, kernel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(cv2.filter2D(image, -1, kernel), size, interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize('size', [(300, 256), (299, 255), (150, 128), (77, 91), (30, 26), (9, 7), (1, 1), (2, 256)])
def test_equal_to_the_definition_at_every_size(size: tuple[int, int], face: np.ndarray, products: None) -> None:
    for seed in range(6):
        kernel = draw(LARGE if seed % 2 else SMALL, rng(seed))
        difference = np.abs(blur_and_reduce(face, kernel, size) - definition(face, kernel, size))
        assert difference.max() <= TOLERANCE + ROUNDING


def test_a_separable_kernel_leaves_rounding_only(face: np.ndarray, products: None) -> None:
    kernel = gaussian_kernel(41, 6, 6)
    for size in ((300, 256), (41, 33)):
        np.testing.assert_allclose(blur_and_reduce(face, kernel, size), definition(face, kernel, size), atol=ROUNDING)


@pytest.mark.parametrize('kernel', [motion_kernel(41, rng(1)), gaussian_kernel(41, 0.3, 12, 0.7), np.eye(9) / 9])
def test_kernels_that_do_not_separate(kernel: np.ndarray, face: np.ndarray, products: None) -> None:
    kernel = kernel.astype(np.float32)
    for size in ((300, 256), (50, 60)):
        difference = np.abs(blur_and_reduce(face, kernel, size) - definition(face, kernel, size))
        assert difference.max() <= TOLERANCE + ROUNDING


@pytest.mark.parametrize('shape', [(1, 1), (1, 40), (5, 41), (41, 42), (42, 43)])
def test_pictures_smaller_than_the_kernel(shape: tuple[int, int], face: np.ndarray, products: None) -> None:
    small, kernel = np.ascontiguousarray(face[: shape[0], : shape[1]]), gaussian_kernel(41, 9, 4, 0.3)
    size = (max(1, shape[1] // 2), max(1, shape[0] // 2))
    difference = np.abs(blur_and_reduce(small, kernel, size) - definition(small, kernel, size))
    assert difference.max() <= TOLERANCE + ROUNDING


def test_what_the_terms_leave_out_is_bounded() -> None:
    ranks = []
    for seed in range(60):
        kernel = draw(LARGE, rng(seed))
        columns, rows = separate(kernel)
        ranks.append(len(rows))
        assert np.abs(kernel - columns.T @ rows).sum() <= TOLERANCE
    assert min(ranks) == 1 and np.median(ranks) < 8


def test_cheap_ways_are_taken_where_they_are_cheap(face: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name in ('filter2D', 'sepFilter2D'):
        original = getattr(cv2, name)
        monkeypatch.setattr(cv2, name, lambda *a, n=name, f=original: (called.append(n), f(*a))[1])
    blur_and_reduce(face, gaussian_kernel(41, 3, 8, 0.5), (20, 20))
    assert called == []
    blur_and_reduce(face, gaussian_kernel(41, 0.3, 12, 0.7), (300, 256))
    blur_and_reduce(face, gaussian_kernel(11, 1, 1), (300, 256))
    assert called == ['filter2D', 'sepFilter2D']


@pytest.mark.parametrize('ranges', [LARGE, SMALL])
def test_the_whole_degradation_equals_the_plain_one(ranges: DegradationRanges, face: np.ndarray) -> None:
    quiet = dataclasses.replace(ranges, jpeg_range=None, motion_kernel_prob=0.3)
    for seed in range(12):
        fast, plain = degrade(face, quiet, rng(seed)), plain_degrade(face, quiet, rng(seed))
        assert np.abs(fast - plain).max() <= TOLERANCE + ROUNDING
    lossy = [
        np.abs(degrade(face, ranges, rng(seed)) - plain_degrade(face, ranges, rng(seed))).mean() for seed in range(12)
    ]
    assert (
        np.mean(lossy) < 0.5 / 255
    )  # JPEG turns a value that was rounded the other way into a small change of a block


def test_the_number_of_threads_changes_no_bit(face: np.ndarray, products: None) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
            results.append([degrade(face, SMALL, rng(seed)).tobytes() for seed in range(12)])
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
    assert results[0] == results[1] == results[2]


def test_the_picture_stays_as_it_is(face: np.ndarray, products: None) -> None:
    before = face.copy()
    blur_and_reduce(face[:, ::-1], gaussian_kernel(41, 5, 5), (40, 40))
    np.testing.assert_array_equal(face, before)
