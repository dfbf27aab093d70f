"""The recipe of the classifier of sharp faces: kinds of damage, and what is never trained on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_faces import ASTRONAUT_LANDMARKS, portrait

from basicsr.faces.geometry import ellipse_distance
from experiments.face_damage import samples, train
from experiments.face_damage.damages import webp
from experiments.face_damage.kinds import BESIDE, CLEAN, KINDS, OVERLAYS, SHARP
from experiments.face_damage.variants import COVERING, VARIANTS

PICTURE = cv2.resize(portrait(), (256, 256), interpolation=cv2.INTER_AREA)
POINTS = (ASTRONAUT_LANDMARKS + 0.5) / 2 - 0.5


def source(name: str) -> samples.Source:
    return samples.Source(name, Path('astronaut.png'), ASTRONAUT_LANDMARKS)


@pytest.mark.parametrize('kind', [*KINDS, *OVERLAYS, *SHARP, *VARIANTS])
def test_every_kind_changes_the_face_and_keeps_the_shape(kind):
    damaged = samples.damaged(PICTURE, POINTS, kind, 1.0, np.random.default_rng(3))
    assert damaged.shape == PICTURE.shape and damaged.dtype == np.uint8
    again = samples.damaged(PICTURE, POINTS, kind, 1.0, np.random.default_rng(3))
    assert np.array_equal(damaged, again)
    inside = ellipse_distance(POINTS, 256, 256) < 1
    change = cv2.absdiff(damaged, PICTURE).max(2)[inside]
    assert change.mean() > 0.3
    if kind in OVERLAYS or kind in COVERING:
        assert np.mean(change > samples.CHANGE) >= 0.9 * samples.LEAST_SHOWN


def test_an_overlay_beside_the_face_leaves_it_as_it_is():
    changed = 0
    for seed in range(8):
        result = samples.damaged(PICTURE, POINTS, BESIDE, 1.0, np.random.default_rng(seed))
        inside = ellipse_distance(POINTS, 256, 256) <= 1.1
        assert np.array_equal(result[inside], PICTURE[inside])
        changed += not np.array_equal(result, PICTURE)
    assert changed >= 6


def test_damage_that_does_not_show_is_no_damage(monkeypatch):
    monkeypatch.setitem(OVERLAYS, 'nothing', lambda image, unit, rng: image)
    monkeypatch.setitem(SHARP, 'WebP 2-15, not blurred', webp(80, 95))
    for kind in ('nothing', 'WebP 2-15, not blurred'):
        with pytest.raises(ValueError, match=f'{kind} does not show'):
            samples.damaged(PICTURE, POINTS, kind, 1.0, np.random.default_rng(0))


def left_half(image: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
    return np.where(np.arange(image.shape[1])[:, None] < image.shape[1] // 2, 255 - image, image)


def test_the_mask_of_a_view_says_where_an_overlay_lies(monkeypatch):
    monkeypatch.setattr(samples, 'imread', lambda path: portrait())
    monkeypatch.setitem(OVERLAYS, 'half', left_half)
    found = [samples.sample(seed, source('faces192/val'), 'half') for seed in range(8)]
    for each in found:
        for view in (each.views.native, each.views.reduced):
            if view is not None:
                marked, inside = view[..., 3] == samples.MARKED, view[..., 3] > 0
                assert 0.2 < marked.sum() / inside.sum() < 0.8
                columns = [np.nonzero(part)[1].mean() for part in (marked, inside & ~marked)]
                assert columns[0] < columns[1]
    assert {each.views.reduced is None for each in found} == {True, False}


def test_places_are_learnt_inside_the_face_alone():
    mask = torch.zeros(1, 16, 16, dtype=torch.uint8)
    mask[0, :8] = 1
    mask[0, :3, :3] = samples.MARKED
    sure = torch.tensor([[[[20.0, -20.0], [20.0, 20.0]]]])  # below, where there is no face, it does not matter
    assert train.place_loss(sure, mask) < 1e-6
    assert train.place_loss(-sure, mask) == pytest.approx(20)
    assert train.place_loss(torch.zeros_like(sure), mask) == pytest.approx(np.log(2))


def test_another_light_leaves_the_mask():
    rng, view = np.random.default_rng(0), np.arange(1024, dtype=np.uint8).reshape(16, 16, 4)
    found = [cv2.LUT(view, train.light(rng)) for _ in range(20)]
    assert all(np.array_equal(each[..., 3], view[..., 3]) for each in found)
    assert 2 < sum(np.array_equal(each, view) for each in found) < 15


def test_held_out_people_and_variants_are_never_trained_on():
    faces = [source(n) for n in ('faces192/train', 'faces192/val', 'celebref512/00022', 'multi_id/barack_obama')]
    assert [face.test for face in faces] == [False, True, True, False]
    for face in faces:
        kinds = {kind for seed in range(30) for *_, kind in samples.tasks([face], seed)}
        assert bool(kinds & {*VARIANTS}) == face.test
        assert all(kinds & set(part) for part in (KINDS, CLEAN, OVERLAYS, SHARP))
    assert not {*VARIANTS} & {*KINDS, *OVERLAYS, *SHARP}


def test_what_is_collected_is_read_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, 'imread', lambda path: portrait())
    taken = [samples.sample(0, source('faces192/train'), kind) for kind in ('as it is', 'blur', 'few colours')]
    taken += [samples.sample(seed, source('faces192/val'), 'dust, not blurred') for seed in range(6)]
    taken = [each for each in taken if each]
    samples.save(taken, tmp_path / 'views_0.npz')
    data = samples.Collected(tmp_path)
    assert data.kind.tolist() == [each.kind for each in taken] and len({each.size for each in taken}) > 1
    assert data.test.tolist() == [each.source.test for each in taken]
    assert np.array_equal(data.x, [each.statistics for each in taken])
    for found, each in zip(data.views, taken, strict=True):
        assert np.array_equal(found.native, each.views.native) and found.log_ratio == each.views.log_ratio
        assert (found.reduced is None) == (each.views.reduced is None)
        if found.reduced is not None:
            assert np.array_equal(found.reduced, each.views.reduced)
    assert {each.views.reduced is None for each in taken} == {True, False}


def test_thresholds_let_the_wanted_share_of_clean_faces_pass():
    rng, number = np.random.default_rng(0), 4000
    sharp = train.LEAST_PROBABILITY + rng.uniform(-0.004, 0.3, number)  # a few fail by their statistics
    free, side = rng.random(number), rng.uniform(20, 600, number)
    least = np.array(train.thresholds(sharp, free, side))
    place = np.digitize(side, train.CLEAN_SIDES) - 1
    passed = (sharp >= train.LEAST_PROBABILITY) & (free >= least[place])
    for each in range(len(least)):
        assert train.WANTED <= passed[place == each].mean() <= train.WANTED + 0.01
    assert train.thresholds(sharp * 0, free, side) == [0.0] * len(least)


def bars(image: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
    return np.where((np.arange(image.shape[1]) + rng.integers(8))[:, None] % 8 < 3, 255 - image, image)


def test_the_recipe_learns_both_classifiers(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, 'imread', lambda path: portrait())
    monkeypatch.setitem(OVERLAYS, 'bars', bars)
    for name, value in {'EPOCHS': 8, 'WARM_UP': 4, 'STEPS': 150, 'BATCH': 16, 'least_clean': lambda side: 0.5}.items():
        monkeypatch.setattr(train, name, value)
    kinds = ('as it is', 'noise 14-45, not blurred', 'bars')
    work = [('faces192/train', seed, kind) for seed in range(24) for kind in kinds]
    work += [('faces192/val', seed, kind) for seed in range(24, 32) for kind in kinds]
    taken = [samples.sample(seed, source(name), kind) for name, seed, kind in work]
    samples.save([each for each in taken if each], tmp_path / 'views_0.npz')
    train.run_fit(tmp_path)
    rows = [line.strip('| ').split(' | ') for line in (tmp_path / 'table.md').read_text().splitlines()[2:]]
    shares = {row[0]: float(row[2]) for row in rows}
    assert shares['as it is'] > 70
    assert shares['noise 14-45, not blurred'] < 30 and shares['bars'] < 30
    assert {path.name for path in tmp_path.glob('*.safetensors')} == {'overlays.safetensors', 'sharpness.safetensors'}
