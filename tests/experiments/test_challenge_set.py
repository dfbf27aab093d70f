"""The choice of hard faces: what is measured against closed forms, and the set from folder to manifest."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_faces import ASTRONAUT_LANDMARKS, Found
from small_recognizer import save_tiny, smooth_faces

from basicsr.cli.data_pairs import make_pair, ranges_of
from basicsr.faces.detection import Face
from basicsr.utils.image import imread, imwrite, to_image, to_tensor
from basicsr.utils.templates import ffhq_template
from experiments.challenge_set import build as script
from experiments.challenge_set import photos as photo_tools
from experiments.challenge_set import reasons as reason_tools

HEAD = np.array([[-1, 0, 0], [1, 0, 0], [0, 1.12, 0.9], [-0.7, 2, 0], [0.7, 2, 0]])  # x, down, to the front


def seen(yaw: float = 0, pitch: float = 0, roll: float = 0) -> np.ndarray:
    """Landmarks of a head turned by degrees, from far away."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c)], [np.sin(c), np.cos(c)]])
    return 40 * (HEAD @ (about_x @ about_y).T)[:, :2] @ about_z.T + 100


@pytest.mark.parametrize('roll', [0, 35, -80])
def test_a_turned_head(roll: float) -> None:
    for yaw in (0, 10, -24, 60):
        turn, nod = photo_tools.pose(seen(yaw=yaw, roll=roll))
        assert turn == pytest.approx(0.45 * abs(np.tan(np.radians(yaw))), abs=1e-9)
        assert nod == pytest.approx(0, abs=1e-9)
    for pitch in (-30, 20):
        turn, nod = photo_tools.pose(seen(pitch=pitch, roll=roll))
        assert turn == pytest.approx(0, abs=1e-9)
        assert nod == pytest.approx(0.45 * abs(np.tan(np.radians(pitch))), abs=1e-9)


def test_the_template_and_a_portrait_are_no_hard_poses() -> None:
    for landmarks in (ffhq_template(512), ASTRONAUT_LANDMARKS):
        turn, nod = photo_tools.pose(landmarks)
        assert turn < 0.3 and nod < 0.25


def test_things_on_a_face() -> None:
    classes = np.ones((100, 100), int)  # skin everywhere
    assert photo_tools.things(classes) == {'glasses': 0, 'hat': 0, 'earring': 0, 'occluded': 0}
    classes[:10], classes[50:54, 30:70] = 14, 3
    found = photo_tools.things(classes)
    assert found['hat'] == 0.1 and found['glasses'] == 0.016 and found['occluded'] == 0  # glasses belong to a face
    classes[:, 50:] = 0
    assert photo_tools.things(classes)['occluded'] == pytest.approx(0.5, abs=0.03)


def photos_with(**measured: list[float]) -> list[photo_tools.Photo]:
    count = len(next(iter(measured.values())))
    rows = [{name: values[i] for name, values in measured.items()} for i in range(count)]
    return [photo_tools.Photo(f'p/{number}', Path('x'), row) for number, row in enumerate(rows)]


def test_reasons_follow_from_measures() -> None:
    likeness = np.random.default_rng(0).permutation(20) / 20
    photos = photos_with(turn=[0.3, *[0.1] * 19], nod=[0, 0.2, *[0] * 18], likeness=likeness.tolist())
    del photos[5].measured['turn']
    photos[6].measured |= {'hat': 0.02, 'glasses': 0.004, 'occluded': 0.3}
    reason_tools.select(photos, 0.2, 0.15, 0.1)
    unlike = [number for number, photo in enumerate(photos) if 'unlike' in photo.reasons]
    assert unlike == sorted(np.argsort(likeness)[:2])
    for photo in photos:
        photo.reasons = [reason for reason in photo.reasons if reason != 'unlike']
    found = {number: photo.reasons for number, photo in enumerate(photos) if photo.reasons}
    assert found == {0: ['pose'], 1: ['pose'], 5: ['undetected'], 6: ['hat', 'occluded']}


def test_likeness_is_the_cosine_to_the_mean_of_the_others(tmp_path: Path) -> None:
    faces = smooth_faces(4, 64)
    photos = []
    for name, face in zip(('a/1', 'a/2', 'a/3', 'b/1'), faces, strict=True):
        photos.append(photo_tools.Photo(name, tmp_path / f'{name}.png'))
        imwrite(photos[-1].path, to_image(face))

    def embed(face: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(face.mean(3).flatten(1)[:, :50])

    photo_tools.compare_with_person(photos, embed, 'cpu')
    first, second, third = (embed(to_tensor(imread(photo.path))[None])[0].double() for photo in photos[:3])
    expected = torch.nn.functional.cosine_similarity(first, (second + third) / 2, dim=0)
    assert photos[0].measured['likeness'] == pytest.approx(float(expected), abs=1e-6)
    assert 'likeness' not in photos[3].measured


def test_labels_are_spread(tmp_path: Path) -> None:
    photos = photos_with(turn=[0.0] * 12)
    photos[0].reasons.append('hat')
    ages = [70, 71, 72, 60, *[30] * 7]
    lines = [f'p/{number}.jpg,{age},{"dark" if number == 11 else ""}' for number, age in enumerate([*ages, 17])]
    (tmp_path / 'labels.csv').write_text('\n'.join(['file,age,skin_tone', *lines]))
    reason_tools.spread(photos, tmp_path / 'labels.csv', 3, seed=0)
    reasons = [photo.reasons for photo in photos]
    assert reasons[0] == ['hat'] and sorted(reasons[1:4]) == [[], *[['spread: age 60+']] * 2]
    assert sorted(reasons[4:11]) == [*[[]] * 4, *[['spread: age 18-39']] * 3]
    assert reasons[11] == ['spread: age 0-17'] or reasons[11] == ['spread: skin_tone dark']
    other = photos_with(turn=[0.0] * 12)
    other[0].reasons.append('hat')
    reason_tools.spread(other, tmp_path / 'labels.csv', 3, seed=0)
    assert [photo.reasons for photo in other] == reasons


class ByColour:
    """A stand-in for a detector: nobody on dark pictures, a turned head on blue ones, else one upright."""

    def detect(self, image: np.ndarray) -> list[Face]:
        red, _, blue = image.mean((0, 1))
        if image.mean() < 20:
            return []
        return Found(Face(np.zeros(4), 1.0, seen(yaw=60 if blue > red else 0))).detect(image)


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two people of four photos: an upright, a turned and a dark one of the first, and upright ones."""
    monkeypatch.setattr(script, 'build_detector', ByColour)
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path / 'none'))
    rng = np.random.default_rng(0)
    colours = {'a/0': (200, 90, 90), 'a/1': (90, 90, 200), 'a/2': (3, 3, 3), 'a/3': (180, 90, 80)}
    colours |= {f'b/{number}': (160, 80, 70) for number in range(4)}
    for name, colour in colours.items():
        noise = rng.normal(0, 2, (96, 96, 3))
        imwrite(tmp_path / 'people' / f'{name}.png', (noise + colour).clip(0, 255).astype(np.uint8))
    save_tiny(tmp_path / 'tiny.pth')
    return tmp_path


def run(people: Path, *more: object) -> int:
    given = ['--input', people / 'people', '--output', people / 'out', '--size', 64, '--device', 'cpu', *more]
    return script.main([str(argument) for argument in given])


def test_from_folder_to_manifest(people: Path, capsys: pytest.CaptureFixture) -> None:
    (people / 'hats.csv').write_text('file,reason\nb/2.png,hat; scarf\n')
    assert run(people, '--recognizer', people / 'tiny.pth', '--unlike', 0, '--declared', people / 'hats.csv') == 0
    with (people / 'out' / 'manifest.csv').open() as file:
        rows = {row['file']: row for row in csv.DictReader(file)}
    assert {name: row['reasons'] for name, row in rows.items()} == {
        'a/1': 'pose', 'a/2': 'undetected', 'b/2': 'hat;scarf'
    }  # fmt: skip
    assert float(rows['a/1']['turn']) == pytest.approx(0.45 * np.tan(np.radians(60)), rel=1e-3)
    assert rows['a/2']['turn'] == '' and -1 <= float(rows['a/2']['likeness']) <= 1 and len(rows['a/2']['sha256']) == 64
    ranges, seed = ranges_of('challenge')
    expected = make_pair(people / 'people' / 'b/2.png', 'b/2', ranges.scaled(64), 64, seed)
    for kind, picture in expected.items():
        assert np.array_equal(imread(people / 'out' / kind / 'b/2.png'), picture)
    references = sorted(path.relative_to(people / 'out/ref').as_posix() for path in (people / 'out/ref').rglob('*.png'))
    assert references == ['a/0.png', 'a/3.png', 'b/0.png', 'b/1.png', 'b/3.png']
    summary = json.loads((people / 'out' / 'summary.json').read_text())
    assert summary['reasons'] == {'pose': 1, 'undetected': 1, 'hat': 1, 'scarf': 1} and summary['selected'] == 3
    assert imread(people / 'out' / 'selected.jpg').shape[0] > 4 * 192
    assert 'parsing_parsenet.pth is not there' in capsys.readouterr().out


def test_a_damaged_photo_is_named_and_the_others_go_on(people: Path, capsys: pytest.CaptureFixture) -> None:
    (people / 'people' / 'b' / '1.png').write_bytes(b'no picture')
    assert run(people) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert len(errors) == 1 and 'b/1.png' in errors[0]
    assert sorted(path.name for path in (people / 'out' / 'gt' / 'a').iterdir()) == ['1.png', '2.png']


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda root: imwrite(root / 'people' / 'x.png', np.zeros((64, 64, 3), np.uint8)), 'lies in no folder'),
        (lambda root: imwrite(root / 'out' / 'x.png', np.zeros((4, 4, 3), np.uint8)), 'not empty'),
        (lambda root: (root / 'hats.csv').write_text('file,reason\nb/9.png,hat\n'), 'b/9.png is not among the 8'),
        (lambda root: (root / 'hats.csv').write_text('photo,reason\nb/1.png,hat\n'), 'it needs file and reason'),
        (lambda root: (root / 'hats.csv').write_text('reason,file\nhat\n'), 'row 2 lacks the file'),
        (lambda root: (root / 'hats.csv').write_text('file,reason\nb/1.png,hat,glasses\n'), 'more columns than'),
        (lambda root: (root / 'hats.csv').write_bytes(b'file,reason\n\xff,hat\n'), 'hats.csv: cannot be read as a'),
        (lambda root: (root / 'ages.csv').write_text('file,age\nb/1.png,old\n'), "b/1: the age 'old' is no number"),
        (lambda root: (root / 'ages.csv').write_text('file,age\nb/1.png,inf\n'), "b/1: the age 'inf' is no number"),
    ],
)
def test_mistakes_are_named(spoil, message: str, people: Path, capsys: pytest.CaptureFixture) -> None:
    spoil(people)
    tables = {'--declared': people / 'hats.csv', '--labels': people / 'ages.csv'}
    assert run(people, *(word for flag, path in tables.items() if path.exists() for word in (flag, path))) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
