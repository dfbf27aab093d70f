"""Invented people: how a face becomes somebody else, the datasets of such faces, and training that is told of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from drawing import image
from small import make_faces, stage_options
from small_recognizer import save_tiny
from torch.utils.data import default_collate

from basicsr.data import DataError, build_dataset
from basicsr.data.synthetic_identity_dataset import ANOTHER_PHOTOGRAPH, SOMEBODY_ELSE, IdentityAugment
from basicsr.models import build_model
from basicsr.models.schema import check_options
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.image import imread
from basicsr.utils.options import OptionError

KINDS = ('SyntheticIdentityDataset', 'SyntheticIdentityJointDataset')
NOTHING = {'warp': 0, 'proportions': 0, 'gamma': 0, 'saturation': 0, 'white_balance': 0}


def face() -> np.ndarray:
    """The astronaut's, float32 (128,128,3) in [0, 1]."""
    return (skimage.data.astronaut()[32:160, 160:288] / 255).astype(np.float32)


def dataset(folder: Path, kind: str = KINDS[0], **changes):
    make_faces(folder)
    return build_dataset({'type': kind, 'dataroot_gt': str(folder), 'gt_size': 64, 'seed': 3, **changes})


# One face


def test_an_invention_follows_from_its_generator_and_leaves_the_face_as_it_is():
    given = face()
    people = [SOMEBODY_ELSE(given, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(people[0], people[1])
    assert np.abs(people[0] - people[2]).mean() > 0.01
    assert np.array_equal(given, face())
    assert all(p.dtype == np.float32 and p.shape == given.shape and p.min() >= 0 and p.max() <= 1 for p in people)


def test_no_strength_changes_nothing():
    result = IdentityAugment(**NOTHING)(face(), np.random.default_rng(0))
    np.testing.assert_allclose(result, face(), atol=1e-5)


def test_a_face_is_bent_smoothly_about_where_it_is():
    """Pictures of the coordinates tell where each pixel comes from."""
    side = 65
    y, x = np.mgrid[:side, :side].astype(np.float32) / (side - 1)
    bent = IdentityAugment(**{**NOTHING, 'warp': 0.026, 'proportions': 0.07})
    for seed in range(8):
        came_from = bent(np.stack([x, y, y], 2), np.random.default_rng(seed))[8:-8, 8:-8]
        move = came_from[..., :2] - np.stack([x, y], 2)[8:-8, 8:-8]
        assert 0.001 < np.abs(move).max() < 0.2
        assert np.abs(np.diff(move, axis=0)).max() < 1 / side  # nothing is torn, nor turned over


def test_tones_change_without_moving_anything():
    toned = IdentityAugment(**{**NOTHING, 'gamma': 0.4, 'saturation': 0.4, 'white_balance': 0.06})
    grey = np.full((32, 32, 3), 0.5, np.float32)
    result = toned(grey, np.random.default_rng(1))
    assert np.ptp(result, axis=(0, 1)).max() < 1e-6
    assert np.abs(result - grey).max() > 0.01


@pytest.mark.shared
def test_a_recognizer_takes_inventions_for_others_and_photographs_for_the_same(shared):
    embedder = FaceEmbedder(shared / 'weights' / 'arcface_mbf512.onnx')
    files = sorted((shared / 'data' / 'faces192' / 'val').iterdir())[:12]
    faces = [imread(file).astype(np.float32) / 255 for file in files]
    rng = np.random.default_rng(0)

    def likeness(change: IdentityAugment) -> float:
        pairs = [torch.stack([torch.from_numpy(f), torch.from_numpy(change(f, rng))]) for f in faces]
        with torch.no_grad():
            vectors = embedder(torch.cat(pairs).permute(0, 3, 1, 2) * 2 - 1)
        return float((vectors[::2] * vectors[1::2]).sum(1).mean())

    assert likeness(SOMEBODY_ELSE) < likeness(ANOTHER_PHOTOGRAPH) - 0.03
    assert 0.8 < likeness(ANOTHER_PHOTOGRAPH) < 0.98


# Datasets


@pytest.mark.parametrize('kind', KINDS)
def test_an_item_is_a_person_with_a_damaged_and_another_photograph(tmp_path, kind):
    faces = dataset(tmp_path, kind)
    item, again, later = faces[2], faces[2], faces[2 + len(faces)]
    for key in {'in', 'gt', 'reference', *(['in_large_de'] if 'Joint' in kind else [])}:
        assert item[key].shape[-3:] == (3, 64, 64) and item[key].abs().max() <= 1
        assert torch.equal(item[key], again[key])
        assert not torch.equal(item[key], later[key])
    assert item['gt_path'] == later['gt_path']
    first, second = dataset(tmp_path, kind, references=2)[2]['reference']
    assert torch.equal(first, item['reference'][0])
    assert not torch.equal(first, second) and not torch.equal(first, item['gt'])


def test_mistaken_faces_show_somebody_else_than_the_target(tmp_path):
    right = dataset(tmp_path, use_corrupt=False)
    mismatch_prob = dataset(tmp_path, use_corrupt=False, mismatch_prob=1.0)
    for index in range(4):
        assert torch.equal(right[index]['in'], right[index]['gt'])
        assert torch.equal(mismatch_prob[index]['gt'], right[index]['gt'])
        assert (mismatch_prob[index]['in'] - mismatch_prob[index]['gt']).abs().mean() > 0.005


def test_tables_of_the_faces_as_they_lie_there_and_wrong_shares_are_errors(tmp_path):
    with pytest.raises(DataError, match='mismatch_prob: a share from 0 to 1'):
        dataset(tmp_path, mismatch_prob=1.5)
    with pytest.raises(DataError, match='references: 0'):
        dataset(tmp_path, references=0)
    opt = options(2, tmp_path)
    for key in ('latent_gt_path', 'component_path'):
        with pytest.raises(OptionError, match=key):
            check_options({**opt, 'datasets': {'train': {**opt['datasets']['train'], key: 'x.pth'}}})


# Training


def options(stage: int, root: Path, **train):
    """Of a stage that learns from invented people."""
    section = {'weights': str(save_tiny(root / 'recognizer.pth'))}
    opt = stage_options(stage, root, **{'identity_reference': section, **train})
    opt['datasets']['train']['type'] = KINDS[stage - 2]
    opt['network_g'] |= {'type': 'IDCodeFormer', 'identity_dim': 16, 'identity_dropout': 0}
    return opt


@pytest.mark.parametrize('stage', [2, 3])
def test_a_step_is_told_what_the_recognizer_sees_in_the_references(stage, tmp_path):
    opt = options(stage, tmp_path)
    opt['datasets']['train']['references'] = 2
    check_options(opt)
    model = build_model(opt)
    faces = build_dataset(opt['datasets']['train'])
    batch = default_collate([faces[0], faces[1]])
    embedder = FaceEmbedder(tmp_path / 'recognizer.pth')
    with torch.no_grad():
        for number in range(2):
            told = model.identify(batch, 'in').vectors[:, number]
            torch.testing.assert_close(told, embedder(batch['reference'][:, number]))
    model.optimize_parameters([batch], 1)
    assert all(layer.out.weight.any() for layer in model.net_g.id_layers)
    assert not [name for name in model.net_g.state_dict() if 'of_reference' in name]


def test_photographs_without_a_recognizer_and_networks_that_do_not_ask_are_errors(tmp_path):
    opt = options(2, tmp_path)
    batch = {'gt': image(2, 1, 64), 'in': image(2, 2, 64), 'reference': image(2, 3, 64)[:, None]}
    model = build_model({**opt, 'train': {**opt['train'], 'identity_reference': None}})
    with pytest.raises(OptionError, match="train:identity_reference: 'weights' is missing"):
        model.identify(batch, 'in')
    with pytest.raises(OptionError, match="train:identity_reference: 'weights' is missing"):
        build_model({**opt, 'train': {**opt['train'], 'identity_reference': {'weights': ''}}})
    with pytest.raises(OptionError, match="network_g:recognizer is 'arcface_ir_se50', but train:identity_reference"):
        build_model({**opt, 'network_g': {**opt['network_g'], 'recognizer': 'arcface_ir_se50'}})
    build_model({**opt, 'network_g': {**opt['network_g'], 'recognizer': 'weights/recognizer.pth'}})
    plain = {key: value for key, value in opt['network_g'].items() if 'identity' not in key}
    with pytest.raises(OptionError, match='conditioned on identity'):
        build_model({**opt, 'network_g': {**plain, 'type': 'CodeFormer'}})
