"""Brush strokes: index-determined, of the published coverage at any size, and white in the input of a training."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small import make_faces

from basicsr.data import build_dataset
from basicsr.data.brush_mask import BrushRanges, brush_mask
from basicsr.utils.image import imread, to_tensor, whitened


def masks(size: int, count: int) -> list[np.ndarray]:
    return [brush_mask(size, np.random.default_rng([3, index])) for index in range(count)]


def test_a_mask_follows_from_its_generator() -> None:
    first, again, other = (brush_mask(96, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (96, 96) and first.dtype == bool
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_masks_hide_as_much_at_every_size() -> None:
    """The same draws make the same strokes; only rounding differs."""
    large, small = masks(512, 40), masks(128, 40)
    shares = np.array([[mask.mean() for mask in each] for each in (large, small)])
    assert 0.15 < shares[0].mean() < 0.3 and shares.min() > 0
    assert np.abs(shares[0] - shares[1]).max() < 0.05
    reduced = [cv2.resize(mask.astype(np.uint8), (128, 128), interpolation=cv2.INTER_AREA) for mask in large]
    agreement = [(a.astype(bool) == b).mean() for a, b in zip(reduced, small, strict=True)]
    assert min(agreement) > 0.9


def test_strokes_lie_anywhere() -> None:
    """Both flips are drawn, so that no side is hidden more than the other."""
    mean = np.mean(masks(64, 600), axis=0)
    assert abs(mean[:, :32].mean() / mean[:, 32:].mean() - 1) < 0.15
    assert abs(mean[:32].mean() / mean[32:].mean() - 1) < 0.15


def test_a_straight_thin_stroke_is_as_long_as_it_should_be() -> None:
    ranges = BrushRanges(strokes=(1, 1), corners=(1, 1), width=(1, 1), angle=(0, 0))
    rng = np.random.default_rng(0)
    lengths = [int(brush_mask(512, rng, ranges).sum()) for _ in range(300)]
    assert all(brush_mask(512, rng, ranges).any(axis=1).sum() == 1 for _ in range(20))
    assert 60 < np.mean(lengths) < 100  # mean 90.5 (an eighth of the diagonal), less what the border cuts off


def test_hidden_pixels_are_white_and_others_stay() -> None:
    image = np.random.default_rng(0).integers(0, 200, (32, 32, 3), dtype=np.uint8)
    mask = brush_mask(32, np.random.default_rng(4))
    hidden = whitened(image, mask)
    assert (hidden[mask] == 255).all() and np.array_equal(hidden[~mask], image[~mask])


@pytest.mark.parametrize('kind', ['FFHQBlindDataset', 'FFHQBlindJointDataset'])
def test_the_input_of_inpainting_is_the_face_under_white_strokes(tmp_path: Path, kind: str) -> None:
    faces = make_faces(tmp_path, count=2)
    opt = {
        'type': kind, 'dataroot_gt': str(faces), 'gt_size': 64, 'in_size': 64, 'mean': [0.5] * 3, 'std': [0.5] * 3,
        'use_hflip': False, 'use_corrupt': True, 'gen_inpaint_mask': True, 'gray_prob': 1.0, 'seed': 7,
    }  # fmt: skip
    dataset = build_dataset(opt)
    for index in range(6):
        item, again = dataset[index], build_dataset(opt)[index]
        assert torch.equal(item['in'], again['in'])
        differs = (item['in'] != item['gt']).any(0)
        assert differs.any() and (item['in'][:, differs] == 1).all()  # pure white, and nothing else is changed
        assert torch.equal(item['gt'], to_tensor(imread(faces / f'{index % 2:03d}.png')))
    assert not torch.equal(dataset[0]['in'], dataset[2]['in'])  # the same face, another mask
    if kind == 'FFHQBlindJointDataset':
        assert not torch.equal(dataset[0]['in'], dataset[0]['in_large_de'])
    mixed = build_dataset({**opt, 'mask_prob': 0.5, 'use_corrupt': True})
    inputs = [mixed[index]['in'] for index in range(12)]
    grey = [bool((face.max(0).values - face.min(0).values < 0.02).all()) for face in inputs]
    masked = [bool((face == 1).all(0).any()) for face in inputs]
    assert 2 < sum(grey) < 10 and not any(each and other for each, other in zip(grey, masked, strict=True))
