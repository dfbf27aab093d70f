"""Metrics against closed forms and independent computations, and the evaluation of folders from end to end."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import math
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.linalg
import skimage.data
import torch
import torchvision
from small_recognizer import randomise, save_tiny, smooth_faces
from torch import nn

from basicsr.archs.inception_arch import _A, FIDInception, _Last
from basicsr.cli import data_pairs as make_val_pairs
from basicsr.cli import evaluate as script
from basicsr.cli.fid_statistics import pictures_of, statistics_of_pictures
from basicsr.data.degradation import LARGE, DegradationRanges
from basicsr.metrics import METRICS, calculate_psnr
from basicsr.metrics.builders import Settings, build_scorers
from basicsr.metrics.evaluation import evaluate, paired_bootstrap
from basicsr.metrics.fid import FeatureStatistics, frechet_distance
from basicsr.metrics.identity import cosine, degrees, group_by_input, identity_variance, landmark_distance
from basicsr.metrics.landmarks import peaks
from basicsr.metrics.niqe import NIQE, fit_asymmetric, halve, normalised
from basicsr.metrics.pictures import Case, Folder
from basicsr.metrics.protocol import FOLDER, load_protocol
from basicsr.metrics.scorers import Scorer
from basicsr.metrics.table import EvaluationError
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.resnet_arcface import ResNetArcFace
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.image import imread, imwrite, resized, to_image, to_tensor

PROTOCOLS = sorted(path.stem for path in FOLDER.glob('*.yml'))
NAMES = ('p/one', 'p/two', 'q/one', 'q/two')


def statistics_of(vectors: np.ndarray) -> FeatureStatistics:
    result = FeatureStatistics(vectors.shape[1])
    for vector in vectors:
        result.add(vector)
    return result


def gaussian(mean: np.ndarray, covariance: np.ndarray, seed: int) -> np.ndarray:
    """Vectors whose mean and covariance are these to rounding."""
    drawn = np.random.default_rng(seed).normal(size=(50, len(mean)))
    drawn -= drawn.mean(0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


# ---- FID


def test_fid_of_known_gaussians() -> None:
    # Diagonal covariances commute: the sum of (s1 - s2)^2 beside the squared difference of the means.
    first = statistics_of(gaussian(np.array([1.0, -2, 300]), np.diag([4.0, 9, 1]), 0))
    second = statistics_of(gaussian(np.array([2.0, 0, 303]), np.diag([1.0, 25, 16]), 1))
    assert frechet_distance(first, second) == pytest.approx(1 + 4 + 9 + 1 + 4 + 9, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_fid_equals_that_of_a_matrix_root() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(60, 8)) @ rng.normal(size=(8, 8)), rng.normal(size=(70, 8)) @ rng.normal(size=(8, 8)) + 1
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + two - 2 * scipy.linalg.sqrtm(one @ two).real)
    assert frechet_distance(statistics_of(a), statistics_of(b)) == pytest.approx(expected, rel=1e-9)


def test_fid_with_fewer_pictures_than_features() -> None:
    rng = np.random.default_rng(3)
    a, b = statistics_of(rng.normal(size=(5, 40))), statistics_of(rng.normal(size=(6, 40)))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a)) and 10 < frechet_distance(a, b) < 400
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match='two pictures'):
        frechet_distance(a, statistics_of(rng.normal(size=(1, 40))))


def test_statistics_do_not_lose_digits_far_from_zero() -> None:
    vectors = np.random.default_rng(4).normal(size=(30, 3)) + 1e8
    result = statistics_of(vectors)
    assert np.allclose(result.covariance, np.cov(vectors - 1e8, rowvar=False), rtol=1e-6)


def test_statistics_files(tmp_path: Path) -> None:
    own = statistics_of(np.random.default_rng(5).normal(size=(9, 4)))
    own.save(tmp_path / 'own.npz', 'tiny')
    assert frechet_distance(FeatureStatistics.load(tmp_path / 'own.npz', 4, 'tiny'), own) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match='made with tiny, not with other'):
        FeatureStatistics.load(tmp_path / 'own.npz', 4, 'other')
    with pytest.raises(ValueError, match='not those of 5 features'):
        FeatureStatistics.load(tmp_path / 'own.npz', 5, 'tiny')
    np.savez(tmp_path / 'foreign.npz', mu=own.mean, sigma=own.covariance)  # as pytorch-fid writes them
    assert FeatureStatistics.load(tmp_path / 'foreign.npz', 4, 'any').count is None
    np.savez(tmp_path / 'other.npz', mean=own.mean)
    (tmp_path / 'text.npz').write_text('no zip')
    for name in ('other.npz', 'text.npz'):
        with pytest.raises(ValueError, match=name):
            FeatureStatistics.load(tmp_path / name, 4, 'tiny')


def test_pooling_of_the_fid_network_leaves_the_padding_out() -> None:
    level = torch.full((1, 4, 6, 6), 3.0)
    pooled = _A(4, 2).eval()._forward(level)[-1]
    assert torch.allclose(pooled, pooled[..., 2:3, 2:3].expand_as(pooled))
    plain = torchvision.models.inception.InceptionA(4, 2).eval()._forward(level)[-1]
    assert not torch.allclose(plain, plain[..., 2:3, 2:3].expand_as(plain))
    assert _Last.pool(torch.eye(3)[None])[0, 0, 1] == 1


def test_the_fid_network_refuses_other_weights(tmp_path: Path) -> None:
    torch.save({'conv.weight': torch.zeros(1)}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=r'x\.pth does not fit Inception3'):
        FIDInception(tmp_path / 'x.pth')


# ---- NIQE


@pytest.mark.parametrize(('shape', 'left', 'right'), [(2.0, 1.0, 1.0), (1.0, 0.5, 2.0), (0.7, 1.5, 0.4)])
def test_asymmetric_fit_finds_what_was_drawn(shape: float, left: float, right: float) -> None:
    rng = np.random.default_rng(0)
    # A generalised Gaussian is a Gamma variable to the power 1 / shape; a side's weight is in proportion to its scale.
    size = rng.gamma(1 / shape, size=400_000) ** (1 / shape)
    below = rng.random(400_000) < left / (left + right)
    found = fit_asymmetric(np.where(below, -left * size, right * size))
    assert found == pytest.approx((shape, left, right), rel=0.03)


def test_halving_is_matlabs_bicubic_reduction() -> None:
    plane = np.random.default_rng(1).random((12, 16))

    def cubic(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    def mirrored(i: int, side: int) -> int:
        i %= 2 * side
        return i if i < side else 2 * side - 1 - i

    expected = np.zeros((6, 8))
    for row in range(6):
        for column in range(8):
            total = 0.0
            for y in range(2 * row - 6, 2 * row + 8):
                for x in range(2 * column - 6, 2 * column + 8):
                    weight = cubic((y - 2 * row - 0.5) / 2) * cubic((x - 2 * column - 0.5) / 2)
                    expected[row, column] += weight * plane[mirrored(y, 12), mirrored(x, 16)]
                    total += weight
            expected[row, column] /= total
    assert np.allclose(halve(plane), expected, atol=1e-12)


def test_an_even_area_has_no_structure() -> None:
    window = np.random.default_rng(2).random((7, 7))
    assert (normalised(np.full((20, 20), 77.0), window / window.sum()) == 0).all()


@pytest.fixture
def niqe(shared: Path) -> NIQE:
    return NIQE(shared / 'weights' / 'niqe_pris_params.npz')


# Of BasicSR 1.4.2's calculate_niqe (crop_border 0), which computes in float32.
NIQE_VALUES = {'astronaut': 3.06461, 'corner': 5.63862, 'noise': 9.91756, '00005/0': 3.48837, '00022/1': 3.21617}


@pytest.mark.shared
@pytest.mark.parametrize('name', NIQE_VALUES)
def test_niqe_equals_an_independent_implementation(name: str, niqe: NIQE, shared: Path) -> None:
    image = skimage.data.astronaut()
    if name == 'corner':
        image = image[:300, :250]
    elif name == 'noise':
        noise = np.random.default_rng(0).normal(0, 25, image.shape)
        image = (image + noise).clip(0, 255).astype(np.uint8)
    elif name != 'astronaut':
        image = imread(shared / 'data' / 'celebref512' / f'{name}.jpg')
    assert niqe(image) == pytest.approx(NIQE_VALUES[name], rel=1e-3)


@pytest.mark.shared
def test_niqe_refuses_what_has_no_statistics(niqe: NIQE) -> None:
    with pytest.raises(ValueError, match='two blocks of 96x96 pixels, not 96x180'):
        niqe(np.zeros((180, 96, 3), np.uint8))
    with pytest.raises(ValueError, match='one colour'):
        niqe(np.full((200, 200, 3), 9, np.uint8))


@pytest.mark.shared
def test_niqe_of_small_faces_is_that_of_the_face_enlarged(niqe: NIQE, shared: Path) -> None:
    face = cv2.resize(
        imread(shared / 'data' / 'celebref512' / '00005' / '0.jpg'), (128, 128), interpolation=cv2.INTER_AREA
    )
    small = NIQE(shared / 'weights' / 'niqe_pris_params.npz', side=192)
    assert small(face) == niqe(cv2.resize(face, (192, 192), interpolation=cv2.INTER_CUBIC))
    assert small(cv2.GaussianBlur(face, (0, 0), 2)) > small(face) + 1


def test_niqe_names_a_wrong_file(tmp_path: Path) -> None:
    np.savez(tmp_path / 'x.npz', mu=1)
    (tmp_path / 'y.npz').write_bytes(b'no zip')
    for name in ('x.npz', 'y.npz', 'z.npz'):
        with pytest.raises(ValueError, match=name):
            NIQE(tmp_path / name)


# ---- identity


def test_degrees_drops_the_same_picture() -> None:
    def turned(angle: float) -> np.ndarray:
        return 7 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle)), 0])

    for angle in (1.5, 30.0, 90.0, 180.0):
        assert degrees(turned(0), turned(angle)) == pytest.approx(angle, abs=1e-5)
    assert degrees(turned(0), turned(0.9)) is None
    assert degrees(turned(0), turned(0)) is None
    assert cosine(turned(0), 3 * turned(60)) == pytest.approx(0.5)


def test_identity_variance_closed_forms() -> None:
    angle = np.radians(40)
    pair = np.array([[1, 0], [np.cos(angle), np.sin(angle)]])
    assert identity_variance(pair * [[3], [5]]) == pytest.approx(np.sin(angle / 2) ** 2)
    assert identity_variance(np.eye(4)) == pytest.approx(1 - 1 / 4)  # 1 - |mean|^2 of orthogonal vectors
    assert identity_variance(np.ones((3, 5))) == pytest.approx(0)
    with pytest.raises(ValueError, match='two restorations'):
        identity_variance(np.ones((1, 5)))


def test_restorations_are_grouped_by_their_input() -> None:
    names = ['a__r1', 'a__r2', 'b__r1', 'p/c__r1', 'p/c__r2', 'd/r1', 'd/r2', 'e', 'f']
    assert group_by_input(names) == {'a': names[:2], 'p/c': names[3:5], 'd': names[5:7]}


def test_landmarks_are_read_from_heatmaps() -> None:
    heatmaps = np.zeros((3, 10, 12))
    heatmaps[0, 4, 7], heatmaps[0, 4, 8], heatmaps[0, 3, 7] = 1, 0.5, 0.2  # leans to the right and up
    heatmaps[1, 0, 0], heatmaps[1, 1, 0] = 1, 0.5  # in the corner: the edge itself counts as its neighbour
    heatmaps[2, 9, 11] = 1
    found = peaks(heatmaps)
    assert found[0] == pytest.approx([7.75, 4.25])
    assert np.abs(found[1] - [0.5, 0.5]).max() <= 0.25 and np.abs(found[2] - [11.5, 9.5]).max() <= 0.25
    assert landmark_distance(found, found + np.array([3, 4])) == pytest.approx(5)


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        base = rng.normal(0, 5, 60)
        low, high = paired_bootstrap(base + rng.normal(0.3, 1, 60), base, rounds=1000, seed=seed)[1:]
        inside += low <= 0.3 <= high
    assert 0.90 <= inside / 200 <= 0.985


# ---- folders


class Tiny(nn.Module):
    """Features of pictures that are easy to compute again: channel means and deviations."""

    name, dim = 'tiny', 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """gt, lq, good and bad restorations of four pictures, and references of the people."""
    faces = smooth_faces(8, 112)
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        clean = to_image(faces[number])
        for folder, sigma in (('gt', 0), ('good', 5), ('bad', 40), ('lq', 80)):
            noisy = (clean + rng.normal(0, sigma, clean.shape)).clip(0, 255).astype(np.uint8)
            imwrite(tmp_path / folder / f'{name}.png', noisy)
        imwrite(tmp_path / 'ref' / f'{name}.png', to_image(faces[4 + number]))
    save_tiny(tmp_path / 'tiny.pth')
    return tmp_path


def run(folders: Path, *arguments: object, metrics: str = 'psnr,ssim,ids') -> int:
    given = ['--gt', folders / 'gt', '--recognizer', folders / 'tiny.pth', '--out', folders / 'out', '--device', 'cpu']
    if '--restored' not in arguments:
        given += ['--restored', folders / 'good']
    return script.main([*map(str, given), '--metrics', metrics, *map(str, arguments)])


def rows_of(folders: Path) -> list[dict[str, str]]:
    with (folders / 'out' / 'per_image.csv').open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def summary_of(folders: Path) -> dict:
    return json.loads((folders / 'out' / 'summary.json').read_text())


class Parts(HTMLParser):
    """Tags with attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ''
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ('meta', 'img', 'br'):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_from_folders_to_figures(folders: Path, capsys: pytest.CaptureFixture) -> None:
    asked = 'psnr,psnr_y,ssim,ids,ids_lq,ids_ref,niqe,deg'
    extra = ('--restored', folders / 'good', folders / 'bad', '--lq', folders / 'lq', '--ref', folders / 'ref')
    missing = ('--weights', f'niqe={folders / "none.npz"}', '--weights', f'deg={folders / "none.pth"}')
    assert run(folders, *extra, *missing, metrics=asked) == 0
    rows = rows_of(folders)
    assert [(row['restored'], row['picture']) for row in rows] == [(f, n) for f in ('good', 'bad') for n in NAMES]
    embedder = FaceEmbedder(folders / 'tiny.pth')

    def vector(folder: str, name: str) -> np.ndarray:
        return embedder(to_tensor(imread(folders / folder / f'{name}.png'))[None])[0].numpy()

    other = {'p/one': 'p/two', 'p/two': 'p/one', 'q/one': 'q/two', 'q/two': 'q/one'}
    for row in rows:
        folder, name = row['restored'], row['picture']
        pair = [imread(folders / side / f'{name}.png') for side in (folder, 'gt')]
        assert float(row['psnr']) == pytest.approx(calculate_psnr(*pair), rel=1e-5)
        for metric, side, partner in (('ids', 'gt', name), ('ids_lq', 'lq', name), ('ids_ref', 'ref', other[name])):
            expected = float(vector(folder, name) @ vector(side, partner))
            assert float(row[metric]) == pytest.approx(expected, abs=1e-5), metric
    content = summary_of(folders)
    good = content['runs']['good']['metrics']['ids']
    values = [float(row['ids']) for row in rows[:4]]
    assert good['mean'] == pytest.approx(np.mean(values), abs=1e-5) and good['low'] <= good['mean'] <= good['high']
    assert good['p25'] == pytest.approx(np.percentile(values, 25), abs=1e-5)
    assert content['runs']['bad']['metrics']['ids']['lost'] == np.mean([float(row['ids']) < 0.3 for row in rows[4:]])
    difference = content['runs']['bad']['differences']['psnr']
    assert difference['mean'] == pytest.approx(
        np.mean([float(b['psnr']) - float(g['psnr']) for g, b in zip(rows[:4], rows[4:], strict=True)]), rel=1e-5
    )
    assert difference['high'] < 0
    assert set(content['not_run']) == {'niqe', 'deg'} and 'niqe' not in content['runs']['good']['metrics']
    assert (
        len(content['metrics']['ids']['weights'][0]['sha256']) == 64
        and 'IResNet' in content['metrics']['ids']['protocol']
    )
    assert 'NIQE: not run: ' in capsys.readouterr().out


def test_the_report_is_whole_by_itself(folders: Path) -> None:
    assert run(folders, '--restored', folders / 'good', folders / 'bad', '--lq', folders / 'lq') == 0
    parts = Parts((folders / 'out' / 'report.html').read_text(encoding='utf-8'))
    assert not parts.open
    kinds = [tag for tag, _ in parts.tags]
    assert 'script' not in kinds and 'link' not in kinds and kinds.count('svg') == 2
    for _, attributes in parts.tags:
        assert all(not str(value).startswith(('http:', 'https:', '//')) for value in attributes.values())
    sources = [attributes['src'] for tag, attributes in parts.tags if tag == 'img']
    assert len(sources) == 2 * 4 * 3  # runs, pictures, and of each input, restored and ground truth
    for source in sources:
        head, _, data = source.partition(',')
        assert head == 'data:image/jpeg;base64'
        assert cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1).shape == (112, 112, 3)
    dots = [attributes for tag, attributes in parts.tags if tag == 'circle']
    assert len(dots) == 8 and all(0 <= float(dot['cx']) <= 640 and 0 <= float(dot['cy']) <= 320 for dot in dots)
    worst = min((row for row in rows_of(folders) if row['restored'] == 'bad'), key=lambda row: float(row['ids']))
    after = parts.text.split('12 worst')[1].split('bad', 1)[1].lstrip()
    assert after.startswith(f'{worst["picture"]}: {float(worst["ids"]):.3f}')


def test_workers_and_neighbours_change_no_value(folders: Path) -> None:
    extra = ('--lq', folders / 'lq')
    assert run(folders, *extra) == 0
    first = {path.name: path.read_bytes() for path in (folders / 'out').iterdir()}
    assert run(folders, *extra, '--workers', 2) == 0
    assert {path.name: path.read_bytes() for path in (folders / 'out').iterdir()} == first
    rows = rows_of(folders)
    for folder in ('gt', 'good', 'lq'):
        for name in NAMES[:3]:
            (folders / folder / f'{name}.png').unlink()
    assert run(folders, *extra) == 0
    assert rows_of(folders) == rows[3:]


def test_equal_pictures_have_no_finite_psnr(folders: Path) -> None:
    (folders / 'good/p/one.png').write_bytes((folders / 'gt/p/one.png').read_bytes())
    assert run(folders, metrics='psnr') == 0
    row = summary_of(folders)['runs']['good']['metrics']['psnr']
    assert row['infinite'] == 1 and row['count'] == 3 and math.isfinite(row['mean'])
    assert rows_of(folders)[0]['psnr'] == 'inf'


def spoil(folders: Path, how: str) -> None:
    path = folders / 'good' / 'p/two.png'
    image = imread(path)
    if how == 'size':
        imwrite(path, image[:100])
    elif how == 'half':
        imwrite(path, resized(image, 56, 56))
    elif how == 'missing':
        (folders / 'gt' / 'p/two.png').unlink()
    elif how == 'not restored':
        path.unlink()
    elif how == 'grey':
        cv2.imwrite(str(path), image[..., 0])
    elif how == '16 bits':
        cv2.imwrite(str(path), image[..., ::-1].astype(np.uint16) * 257)
    elif how == 'transparent':
        cv2.imwrite(str(path), np.dstack([image, image[..., :1]]))
    elif how == 'corrupt':
        path.write_bytes(path.read_bytes()[:300])
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'twice':
        imwrite(path.with_suffix('.jpg'), image)


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('size', r'good/p/two.png: sizes differ \(restored 112x100, gt 112x112\), and shapes too'),
        ('half', r'good/p/two.png: sizes differ \(restored 56x56, gt 112x112\); --resize gt, or --resize restored'),
        ('missing', r'good/p/two.png: no picture of that name in .*gt \(--gt\)'),
        ('not restored', r'gt/p/two.png: not restored in .*good'),
        ('transparent', 'good/p/two.png: transparency'),
        ('corrupt', r'good/p/two.png: .*damaged'),
        ('empty', r'good/p/two.png: .*empty'),
        ('twice', r'good: p/two: two.jpg and two.png have one name'),
    ],
)
def test_bad_input_is_named_once_and_the_others_go_on(
    how: str, message: str, folders: Path, capsys: pytest.CaptureFixture
) -> None:
    spoil(folders, how)
    assert run(folders) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert re.search(message, errors[0]), errors
    assert len(errors) == (2 if how == 'twice' else 1), errors  # of two files neither is taken: not restored, either
    assert [row['picture'] for row in rows_of(folders)] == [name for name in NAMES if name != 'p/two']
    assert all(row['ids'] for row in rows_of(folders))
    report = Parts((folders / 'out' / 'report.html').read_text(encoding='utf-8'))
    assert errors[0].removeprefix('error: ') in report.text


@pytest.mark.parametrize('role', ['gt', 'restored'])
def test_pictures_of_another_size_are_judged_where_that_is_asked_for(folders: Path, role: str) -> None:
    spoil(folders, 'half')
    assert run(folders, '--resize', role, metrics='psnr') == 0
    truth, small = (imread(folders / folder / 'p/two.png') for folder in ('gt', 'good'))
    pair = (small, resized(truth, 56, 56)) if role == 'gt' else (resized(small, 112, 112), truth)
    assert float(rows_of(folders)[1]['psnr']) == pytest.approx(calculate_psnr(*pair, crop_border=0), rel=1e-4)
    way = f'{role} resized to the size of the other, ' + ('by area' if role == 'gt' else 'bicubic')
    (remark,) = summary_of(folders)['remarks']
    assert remark.startswith(f'good: 1 pictures were judged with: {way}')
    assert remark in Parts((folders / 'out/report.html').read_text()).text


def test_16_bits_are_judged_in_8_and_that_is_said(folders: Path) -> None:
    assert run(folders, metrics='psnr') == 0
    rows = rows_of(folders)
    spoil(folders, '16 bits')
    assert run(folders, metrics='psnr') == 0
    assert rows_of(folders) == rows
    assert '1 pictures were judged with: 16 bits a channel, converted to 8' in summary_of(folders)['remarks'][0]


def test_a_picture_that_a_metric_refuses_keeps_its_other_scores(folders: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in ('gt', 'good'):
        path = folders / folder / 'p/two.png'
        imwrite(path, imread(path)[:, :100])
    assert run(folders) == 1
    assert re.search('p/two.png: ids: a picture of 100x112 pixels is no face', capsys.readouterr().err)
    row = rows_of(folders)[1]
    assert row['psnr'] and not row['ids']
    assert summary_of(folders)['runs']['good']['metrics']['ids']['without'] == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--metrics', 'psnr,ssmi'), "unknown metric 'ssmi' (did you mean 'ssim'?)"),
        (('--metrics', ''), 'name the metrics'),
        (('--protocol', 'lfw_tset'), "no protocol 'lfw_tset' (did you mean 'lfw_test'?)"),
        (('--lq', '{}/nothing'), 'nothing: no such folder'),
        (('--ref', '{}/void'), '--ref: {}/void holds no picture'),
        (('--metrics', 'ids_ref'), 'ids_ref: needs --ref'),
        (('--device', 'cudo'), '--device cudo'),
        (('--restored', '{}/good', '{}/good'), 'given twice'),
    ],
)
def test_bad_arguments(arguments: tuple, message: str, folders: Path, capsys: pytest.CaptureFixture) -> None:
    (folders / 'void').mkdir()
    assert run(folders, *(argument.format(folders) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert message.format(folders) in error and error.count('\n') == 1


def test_a_picture_that_a_network_refuses_does_not_end_the_evaluation(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    network = nn.AvgPool2d(100)
    monkeypatch.setattr(
        'basicsr.metrics.builders._Builder._feature',
        lambda self, metric: Scorer(metric, lambda case: float(network(self._pair(case)[0]).mean())),
    )
    for folder in ('good', 'gt'):
        imwrite(folders / folder / 'p' / 'one.png', imread(folders / folder / 'p' / 'one.png')[:64, :64])
    assert run(folders, metrics='psnr,feature') == 1
    assert 'one.png: feature: ' in capsys.readouterr().err
    assert [bool(row['feature']) for row in rows_of(folders)] == [False, True, True, True]
    assert all(row['psnr'] for row in rows_of(folders))


def test_weights_of_an_unknown_metric(folders: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        run(folders, '--weights', 'psnr=x')
    assert "no weights for 'psnr'" in capsys.readouterr().err


def test_every_metric_is_built_or_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path))
    monkeypatch.setattr('basicsr.metrics.builders.find_spec', lambda name: None)
    settings = Settings(weights={'lpips_alex': str(tmp_path / 'a'), 'lpips_vgg': str(tmp_path / 'b')})
    scorers, not_run = build_scorers(list(METRICS), settings, {'gt', 'lq', 'ref'})
    ready = {'psnr', 'psnr_y', 'ssim', 'ssim_y', 'warping_error', 'tof'}
    assert {scorer.metric for scorer in scorers} == ready
    assert set(not_run) | {scorer.metric for scorer in scorers} == set(METRICS)
    assert all(reason for reason in not_run.values())
    assert 'id-codeformer[metrics]' in not_run['musiq'] and 'niqe_pris_params.npz' in not_run['niqe']


def test_fid_of_folders(folders: Path) -> None:
    """Against given statistics, whatever ground truth there is, and against that by another name."""

    def vectors(folder: str) -> np.ndarray:
        images = [to_tensor(imread(folders / folder / f'{name}.png')) for name in NAMES]
        return Tiny()(torch.stack(images)).double().numpy()

    reference = statistics_of(np.random.default_rng(1).normal(size=(20, Tiny().dim)))
    reference.save(folders / 'ffhq.npz', Tiny().name)
    settings = Settings(fid_network=Tiny(), fid_statistics=folders / 'ffhq.npz')
    run = evaluate([folders / 'bad'], {'gt': folders / 'gt'}, ['fid', 'fid_gt'], settings).runs[0]
    for metric, other in (('fid', reference), ('fid_gt', statistics_of(vectors('gt')))):
        expected = frechet_distance(statistics_of(vectors('bad')), other)
        assert run.sets[metric]['mean'] == pytest.approx(expected, rel=1e-4) and run.sets[metric]['count'] == 4
    assert run.sets['fid']['mean'] != pytest.approx(run.sets['fid_gt']['mean'], rel=0.1)
    alone = evaluate([folders / 'bad'], {}, ['fid'], settings).runs[0].sets['fid']  # without the ground truth
    assert alone['mean'] == pytest.approx(run.sets['fid']['mean'], abs=1e-12)
    (_, reasons) = build_scorers(['fid'], dataclasses.replace(settings, fid_statistics=folders / 'none.npz'), {'gt'})
    assert 'none.npz is not there' in reasons['fid'] and 'scripts/fid_statistics.py' in reasons['fid']
    assert 'fid_gt compares with the ground truth' in reasons['fid']


def test_statistics_of_a_folder_are_those_of_its_pictures(folders: Path) -> None:
    found = statistics_of_pictures(pictures_of(folders / 'gt'), Tiny(), torch.device('cpu'))
    images = [to_tensor(imread(path))[None] for path in sorted((folders / 'gt').rglob('*.png'))]
    vectors = np.concatenate([Tiny()(image).double().numpy() for image in images])
    assert found.count == len(vectors)
    np.testing.assert_allclose(found.mean, vectors.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(vectors, rowvar=False), rtol=1e-5)
    (folders / 'one').mkdir()
    (folders / 'one/a.png').write_bytes(next((folders / 'gt').rglob('*.png')).read_bytes())
    with pytest.raises(ValueError, match='two pictures at least, not 1'):
        pictures_of(folders / 'one')


def test_statistics_in_the_published_format(tmp_path: Path) -> None:
    """As BasicSR's scripts write those of FFHQ: a dict of arrays, by torch.save."""
    own = statistics_of(np.random.default_rng(5).normal(size=(9, 4)))
    torch.save({'name': 'FFHQ', 'size': 512, 'mean': own.mean, 'cov': own.covariance}, tmp_path / 'ffhq.pth')
    loaded = FeatureStatistics.load(tmp_path / 'ffhq.pth', 4, 'any')
    assert frechet_distance(loaded, own) == pytest.approx(0, abs=1e-12) and loaded.count is None
    torch.save({'mean': own.mean}, tmp_path / 'half.pth')
    with pytest.raises(ValueError, match=r"half\.pth: not the statistics .*'cov'"):
        FeatureStatistics.load(tmp_path / 'half.pth', 4, 'any')


def test_identity_variance_of_a_folder(folders: Path) -> None:
    faces = smooth_faces(5, 112, seed=9)
    for number, name in enumerate(['p/one__a', 'p/one__b', 'p/two__a', 'p/two__b', 'q/one__a']):
        imwrite(folders / 'multi' / f'{name}.png', to_image(faces[number]))
    settings = Settings(recognizer=str(folders / 'tiny.pth'))
    metrics = ['ids', 'identity_variance']
    done = evaluate([folders / 'multi', folders / 'good'], {'gt': folders / 'gt'}, metrics, settings)
    embedder = FaceEmbedder(folders / 'tiny.pth')
    images = [imread(folders / 'multi' / f'p/{name}.png') for name in ('one__a', 'one__b', 'two__a', 'two__b')]
    first, second, third, fourth = (embedder(to_tensor(image)[None])[0].numpy() for image in images)
    expected = np.mean([(1 - first @ second) / 2, (1 - third @ fourth) / 2])
    assert done.runs[0].sets['identity_variance'] == {'mean': pytest.approx(expected, abs=1e-5), 'count': 2}
    assert done.runs[0].paths['p/one__b']['gt'] == folders / 'gt' / 'p/one.png'
    assert 'restored twice' in done.runs[1].not_run['identity_variance']  # photos of a person are not one input


def test_references_are_other_photos(tmp_path: Path) -> None:
    for name in ('p/a', 'p/b', 'p/c', 'x', 'y/1', 'y/2'):
        imwrite(tmp_path / f'{name}.png', np.zeros((4, 4, 3), np.uint8))
    folder = Folder.scan(tmp_path, '--ref')

    def found(name: str) -> list[str]:
        return [path.relative_to(tmp_path).with_suffix('').as_posix() for path in folder.references(name)]

    assert found('p/a') == ['p/b', 'p/c'] and found('p/a__b') == ['p/b', 'p/c']
    assert found('x') == ['x'] and found('x__1') == ['x'] and found('y') == ['y/1', 'y/2'] and found('z') == []


def test_partners_of_many_pictures_are_found_without_looking_through_all() -> None:
    """Work is counted in comparisons of names: twice the pictures take about twice of them."""

    class Counted(str):
        count = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Counted.count += 1
            return str.__eq__(self, other)

        def startswith(self, *args) -> bool:
            Counted.count += 1
            return str.startswith(self, *args)

        def rpartition(self, *args):
            Counted.count += 1
            return str.rpartition(self, *args)

    def comparisons(count: int) -> int:
        names = [Counted(f'{person:04d}/{photo}') for person in range(count // 2) for photo in range(2)]
        references = Folder(Path('ref'), {name: Path('ref', f'{name}.png') for name in names})
        Counted.count = 0
        assert all(references.references(f'{name}') for name in names)
        return Counted.count

    assert comparisons(200) < 3 * comparisons(100)


def test_degrees_of_a_folder(folders: Path) -> None:
    network = randomise(ResNetArcFace(layers=(1, 1, 1, 1), widths=(4, 4, 8, 8), embedding=16))
    torch.save(network.state_dict(), folders / 'grey.pth')
    (folders / 'good/p/one.png').write_bytes((folders / 'gt/p/one.png').read_bytes())
    settings = Settings(weights={'deg': str(folders / 'grey.pth')})
    scores = evaluate([folders / 'good'], {'gt': folders / 'gt'}, ['deg'], settings).runs[0].scores
    embedder = FaceEmbedder(folders / 'grey.pth')
    first, second = (embedder(to_tensor(imread(folders / side / 'q/two.png'))[None])[0] for side in ('good', 'gt'))
    assert scores['q/two']['deg'] == pytest.approx(float(torch.rad2deg(torch.acos((first * second).sum()))), rel=1e-3)
    assert scores['p/one']['deg'] is None  # the same picture


FAKE_PYIQA = """
__version__ = '9.9'
def create_metric(name, device):
    if name == 'maniqa':
        raise OSError('no connection')
    return lambda *pictures: pictures[0].mean() - (pictures[1].mean() if len(pictures) > 1 else 0)
"""


def test_metrics_of_pyiqa(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders / 'pyiqa.py').write_text(FAKE_PYIQA)
    monkeypatch.syspath_prepend(folders)
    monkeypatch.delitem(sys.modules, 'pyiqa', raising=False)
    done = evaluate([folders / 'good'], {'gt': folders / 'gt'}, ['musiq', 'dists', 'maniqa'], Settings())
    sys.modules.pop('pyiqa', None)
    assert 'no connection' in done.not_run['maniqa'] and 'pyiqa 9.9' in done.scorers[0].protocol
    restored, truth = (imread(folders / side / 'p/one.png').mean() / 255 for side in ('good', 'gt'))
    assert done.runs[0].scores['p/one']['musiq'] == pytest.approx(restored, abs=1e-5)
    assert done.runs[0].scores['p/one']['dists'] == pytest.approx(restored - truth, abs=1e-5)


# ---- protocols


@pytest.mark.parametrize('name', PROTOCOLS)
def test_protocols_are_whole(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.metrics and protocol.download and protocol.naming and 'restored' in protocol.pictures
    if protocol.inputs['kind'] == 'synthetic':
        ranges = DegradationRanges.from_options(protocol.inputs, LARGE)
        assert ranges.downsample_range == tuple(protocol.inputs['downsample_range']) and protocol.inputs['seed'] == 0
    for row in protocol.published:
        assert all(isinstance(value, float) for value in row['values'].values())


def test_the_protocols_that_are_promised() -> None:
    assert set(PROTOCOLS) == {
        'celeba_test_mild', 'celeba_test_harsh', 'lfw_test', 'webphoto_test', 'wider_test', 'celebref_hq_test',
        'challenge', 'lfw_ref_test', 'lfw_synthetic',
    }  # fmt: skip
    mild, harsh = (
        {row['source'] for row in load_protocol(f'celeba_test_{kind}').published} for kind in ('mild', 'harsh')
    )
    assert mild and harsh and not mild & harsh  # two sets, never mixed


def test_inputs_are_made_by_the_ranges_of_a_protocol(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges, seed = make_val_pairs.ranges_of('celeba_test_mild')
    assert (ranges.blur_sigma, ranges.downsample_range, ranges.jpeg_range, seed) == ((0.2, 10), (1, 8), (60, 100), 0)
    with pytest.raises(ValueError, match="'lfw_test': its inputs come with the set"):
        make_val_pairs.ranges_of('lfw_test')
    common = ['x', '--input', str(folders / 'gt'), '--size', '64', '--protocol']
    for name in ('celeba_test_mild', 'celeba_test_harsh'):
        monkeypatch.setattr(sys, 'argv', [*common, name, '--output', str(folders / name)])
        assert make_val_pairs.main() == 0
    mild, harsh = (
        np.mean(
            [
                calculate_psnr(*(imread(folders / kind / side / f'{name}.png') for side in ('lq', 'gt')))
                for name in NAMES
            ]
        )
        for kind in ('celeba_test_mild', 'celeba_test_harsh')
    )
    assert mild > harsh


def test_a_limit_takes_pairs_from_all_over_the_folder(tmp_path: Path) -> None:
    for person in ('ann', 'bea', 'cid'):
        for photo in range(4):
            imwrite(tmp_path / 'faces' / person / f'{photo}.png', np.full((32, 32, 3), 90, np.uint8))
    chosen = make_val_pairs.plan_pairs(tmp_path / 'faces', tmp_path / 'pairs', 3)
    assert list(chosen) == ['ann/0', 'bea/0', 'cid/0']
    assert len(make_val_pairs.plan_pairs(tmp_path / 'faces', tmp_path / 'pairs', 40)) == 12


@pytest.mark.shared
@pytest.mark.parametrize('name', PROTOCOLS)
def test_published_figures_stand_in_their_source(name: str, shared: Path) -> None:
    sources = {
        'ID-CodeFormer paper': '000_id_codeformer_paper.txt',
        'ID-CodeFormer README': '001_id_codeformer_readme.txt',
        'RIDFR paper': '004_ridfr_paper.txt',
    }
    for row in load_protocol(name).published:
        file = next((file for source, file in sources.items() if row['source'].startswith(source)), None)
        if file is None:
            continue  # its table says that the figures were passed on (tests/test_reproduce_tables.py)
        lines = (shared / 'seeds' / file).read_text(encoding='utf-8').splitlines()
        numbers = [{float(number) for number in re.findall(r'\d+\.\d+', line)} for line in lines]
        assert any(set(row['values'].values()) <= found for found in numbers), row


def test_a_protocol_is_shown_with_its_figures(folders: Path) -> None:
    text = (
        (FOLDER / 'celeba_test_harsh.yml')
        .read_text()
        .replace('metrics: [psnr, ssim, lpips_vgg, fid, niqe, ids]', 'metrics: [psnr]')
    )
    own = folders / 'own' / 'celeba_test_harsh.yml'  # figures belong to the name
    own.parent.mkdir()
    own.write_text(text)
    given = ['--restored', folders / 'good', '--gt', folders / 'gt', '--out', folders / 'out', '--device', 'cpu']
    assert script.main([*map(str, given), '--protocol', str(own)]) == 0
    report = Parts((folders / 'out' / 'report.html').read_text(encoding='utf-8'))
    assert 'Published figures, not measured here' in report.text and '22.18' in report.text
    assert 'good: 4 pictures were judged; the protocol has 3000' in report.text
    assert list(summary_of(folders)['metrics']) == ['psnr']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('metrcs: [psnr]', "unknown key 'metrcs'"),
        ('metrics: [pnsr]', "unknown metric 'pnsr'"),
        ('published: [{method: a, values: {}}]', r"'published'.*figures of others stand in"),
        ('title: [', 'not valid YAML'),
    ],
)
def test_mistakes_in_a_protocol(change: str, message: str, tmp_path: Path) -> None:
    key = change.partition(':')[0]
    text = (FOLDER / 'webphoto_test.yml').read_text()
    kept = '\n'.join(line for line in text.splitlines() if not line.startswith(f'{key}:'))
    (tmp_path / 'p.yml').write_text(f'{kept}\n{change}\n')
    with pytest.raises(EvaluationError, match=message):
        load_protocol(str(tmp_path / 'p.yml'))


# ---- real faces


@pytest.mark.shared
def test_figures_of_real_faces_equal_independent_code(shared: Path, tmp_path: Path) -> None:
    faces = sorted((shared / 'data' / 'faces192' / 'val').glob('*.jpg'))[:2]
    for path in faces:
        image = imread(path)
        imwrite(tmp_path / 'gt' / f'{path.stem}.png', image)
        imwrite(tmp_path / 'out' / f'{path.stem}.png', cv2.GaussianBlur(image, (0, 0), 2))
    weights = shared / 'weights'
    settings = Settings(
        recognizer=str(weights / 'arcface_mbf512.onnx'), weights={'feature': str(weights / 'vgg16_features_fp16.pth')}
    )
    done = evaluate([tmp_path / 'out'], {'gt': tmp_path / 'gt'}, ['psnr', 'feature', 'ids'], settings).runs[0]
    state = torch.load(weights / 'vgg16_features_fp16.pth', weights_only=True)
    with torch.device('meta'):
        vgg = torchvision.models.vgg16(weights=None, init_weights=False).features
    vgg.load_state_dict({key.removeprefix('features.'): value.float() for key, value in state.items()}, assign=True)
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for name, scores in done.scores.items():
        pair = [imread(tmp_path / folder / f'{name}.png') for folder in ('out', 'gt')]
        error = np.mean((pair[0].astype(float) - pair[1]) ** 2)
        assert scores['psnr'] == pytest.approx(10 * np.log10(255**2 / error))
        layers = [normalise(torch.from_numpy(image).permute(2, 0, 1) / 255)[None] for image in pair]
        distance = 0.0
        with torch.inference_mode():
            for number, layer in enumerate(vgg):
                layers = [layer(value.clone()) for value in layers]
                if number in (3, 8, 15, 22, 29):
                    distance += float((layers[0] - layers[1]).abs().mean())
        assert scores['feature'] == pytest.approx(distance, rel=1e-4)
        assert 0.3 < scores['ids'] < 0.999


def test_the_page_of_metrics_lists_all() -> None:
    text = (FOLDER.parents[1] / 'docs' / 'metrics.md').read_text(encoding='utf-8')
    for name, metric in METRICS.items():
        assert f'| `{name}` | {metric.name} | {metric.better} | {metric.inputs} |' in text
    assert all(f'`{name}`' in text for name in PROTOCOLS)


def test_what_inference_writes_is_taken(folders: Path) -> None:
    """Faces are called `<name>_00`, and grey pictures stay grey."""
    plain = {row['picture']: row['psnr'] for row in rows_after(folders)}
    for name in NAMES:
        path = folders / 'good' / f'{name}.png'
        path.rename(path.with_name(f'{path.stem}_00.png'))
    assert {row['picture']: row['psnr'] for row in rows_after(folders)} == {f'{k}_00': v for k, v in plain.items()}
    grey = next((folders / 'good').rglob('*.png'))
    cv2.imwrite(str(grey), cv2.imread(str(grey), cv2.IMREAD_GRAYSCALE))
    assert len(rows_after(folders)) == len(NAMES)


def rows_after(folders: Path) -> list[dict[str, str]]:
    assert run(folders) == 0
    return rows_of(folders)


def test_two_faces_of_one_picture_are_not_guessed_between(folders: Path, capsys: pytest.CaptureFixture) -> None:
    path = folders / 'good' / 'p' / 'two.png'
    shutil.copy(path, path.with_name('two_00.png'))
    path.rename(path.with_name('two_01.png'))
    assert run(folders) == 1
    said = capsys.readouterr().err
    assert re.search('two_00.png: one of 2 faces of p/two; keep the one', said)
    assert [row['picture'] for row in rows_of(folders)] == [name for name in NAMES if name != 'p/two']


@pytest.mark.parametrize('kind', ['a file', 'read only'])
def test_an_output_folder_that_is_none_is_said_before_the_work(
    kind: str, folders: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / 'file').touch()
    monkeypatch.setattr('basicsr.cli.evaluate.evaluate', None)
    assert run(folders, '--out', '/proc/self' if kind == 'read only' else str(folders / 'file' / 'out')) == 2
    assert re.search('error: -o .*: cannot be written to .*choose another folder', capsys.readouterr().err)


def test_figures_are_shown_though_the_report_cannot_be_written(
    folders: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('basicsr.metrics.report.write_csv', full)
    assert run(folders) == 1
    said = capsys.readouterr()
    assert 'PSNR' in said.out and 'the report cannot be written' in said.err


def test_names_that_are_no_text_or_formulas_spoil_nothing(folders: Path) -> None:
    odd = [b'a\xff.png', b'=1+1.png', b'@x.png', b'<b>.png', b'a\nb.png']
    for folder in ('good', 'gt'):
        source = folders / folder / 'p' / 'two.png'
        for name in odd:
            shutil.copy(source, os.fsencode(folders / folder) + b'/' + name)
    assert run(folders) == 0
    rows = rows_of(folders)
    assert len(rows) == len(NAMES) + len(odd)
    assert not any(row['picture'].startswith(('=', '@')) for row in rows)
    assert all(row['psnr'] for row in rows)
    assert len(summary_of(folders)['runs']['good']['problems']) == 0
    assert '&lt;b&gt;' in (folders / 'out' / 'report.html').read_text(encoding='utf-8')


def test_a_metric_that_breaks_on_one_picture_keeps_the_others(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for error in (TypeError('odd'), IndexError('odd'), ZeroDivisionError('odd'), cv2.error('odd'), MemoryError('odd')):

        def compute(case: Case, error: Exception = error) -> float:
            if case.name == 'p/two':
                raise error
            return 1.0

        monkeypatch.setattr('basicsr.metrics.builders._Builder._feature', lambda self, metric: Scorer(metric, compute))
        assert run(folders, metrics='psnr,feature') == 1
        assert 'two.png: feature: ' in capsys.readouterr().err
        assert [bool(row['feature']) for row in rows_of(folders)] == [name != 'p/two' for name in NAMES]
