"""Metrics of sets, of clips and of AdaFace against closed forms, plain loops and other people's code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.transform
import torch
from small_recognizer import randomise, smooth_faces
from torch import Tensor

from basicsr.metrics.builders import Settings, build_scorers
from basicsr.metrics.clips import flow, flow_difference, warping_error
from basicsr.metrics.evaluation import evaluate
from basicsr.metrics.identity import affine_landmark_distance, landmark_distance
from basicsr.metrics.neighbours import kernel_distance, precision
from basicsr.metrics.pictures import Case
from basicsr.metrics.scorers import ChallengeScore, NotRunError, Scorer
from basicsr.recognition.adaface import AdaFaceIR
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.image import imread, imwrite, to_image, to_tensor


class Means:
    """A stand-in for the Inception network: the mean of each channel, and its square."""

    name, dim = 'means', 6

    def __call__(self, pictures: Tensor) -> Tensor:
        means = pictures.mean((2, 3))
        return torch.cat([means, means.square()], 1)


def drawn(number: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (number, 5))


# ---- sets


def test_kid_is_the_unbiased_discrepancy_pair_by_pair() -> None:
    first, second = drawn(6, 0), drawn(4, 1, 0.5)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / 5 + 1) ** 3

    within = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (first, second)]
    expected = sum(within) - 2 * np.mean([k(x, y) for x in first for y in second])
    assert kernel_distance(first, second) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match='two pictures'):
        kernel_distance(first[:1], second)


def test_kid_of_draws_is_near_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = drawn(300, 0), drawn(300, 1, 0.5)
    whole = kernel_distance(first, second)
    monkeypatch.setattr('basicsr.metrics.neighbours.SUBSET', 150)
    assert kernel_distance(first, second) == pytest.approx(whole, rel=0.1)
    assert kernel_distance(first, second) != whole
    assert abs(kernel_distance(drawn(300, 2), drawn(300, 3))) < 0.1 * whole  # unbiased: about 0 for one distribution


def test_precision_counts_what_lies_within_the_radius() -> None:
    """On a line of integers the third neighbour is 2 away inside and 3 away at the ends."""
    line = np.arange(10.0)[:, None]
    assert precision(np.array([[4.5], [-2.9], [-3.1], [12.0], [30.0]]), line) == pytest.approx(3 / 5)
    assert precision(line, line) == 1
    with pytest.raises(ValueError, match='4 ground truths'):
        precision(line, line[:3])


def test_sets_of_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side in ('good', 'gt'):
        for number in range(6):
            imwrite(tmp_path / side / f'{number}.png', rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    names = ['kid_gt', 'precision_gt']
    run = evaluate([tmp_path / 'good'], {'gt': tmp_path / 'gt'}, names, Settings(fid_network=Means())).runs[0]
    first, second = (
        np.stack([Means()(to_tensor(imread(tmp_path / side / f'{n}.png'))[None])[0].numpy() for n in range(6)])
        for side in ('good', 'gt')
    )
    expected = kernel_distance(first.astype(float), second.astype(float))
    assert run.sets['kid_gt'] == {'mean': pytest.approx(expected, rel=1e-6), 'count': 6}
    assert run.sets['precision_gt']['mean'] == precision(first.astype(float), second.astype(float))


class Fixed(Scorer):
    """A metric of known value, of a picture or of the set."""

    def __init__(self, metric: str, value: float) -> None:
        super().__init__(metric, lambda case: None if metric == 'fid' else value)
        self.value = value

    def result(self) -> dict[str, float]:
        return {'mean': self.value} if self.metric == 'fid' else {}


@pytest.mark.parametrize(('niqe', 'fid', 'last'), [(4.0, 60.0, 0.6 + 0.4), (11.0, 130.0, 0.0)])
def test_the_score_of_the_challenge_is_its_sum(niqe: float, fid: float, last: float) -> None:
    values = {'clipiqa': 0.7, 'maniqa': 0.5, 'musiq': 72.0, 'qalign': 4.0, 'niqe': niqe, 'fid': fid}
    scorer = ChallengeScore({name: Fixed(name, value) for name, value in values.items()})
    for name in 'ab':
        scorer.compute(Case(name, {}))
    assert scorer.result() == {'mean': pytest.approx(0.7 + 0.5 + 0.72 + 0.8 + last), 'count': 2}
    scorer.start()
    assert not scorer.values


def test_the_score_of_the_challenge_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('basicsr.metrics.builders.find_spec', lambda name: None)
    assert 'pyiqa' in build_scorers(['ntire2025'], Settings(), set())[1]['ntire2025']


# ---- landmarks


def test_an_affine_map_of_landmarks_does_not_count() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 100, (98, 2))
    moved = truth @ np.array([[0.9, 0.2], [-0.1, 1.1]]) + [5, -7]
    assert landmark_distance(moved, truth) > 5
    assert affine_landmark_distance(moved, truth) == pytest.approx(0, abs=1e-9)
    bent = moved + rng.normal(0, 2, truth.shape)
    found = affine_landmark_distance(bent, truth)
    rows = np.column_stack([bent, np.ones(98)])
    normal = rows @ np.linalg.solve(rows.T @ rows, rows.T @ truth)
    assert found == pytest.approx(np.hypot(*(normal - truth).T).mean(), rel=1e-9)
    fitted = skimage.transform.AffineTransform.from_estimate(bent, truth)  # by total least squares, which is near
    assert found == pytest.approx(landmark_distance(fitted(bent), truth), rel=0.01)


# ---- clips


@pytest.fixture(scope='module')
def still() -> np.ndarray:
    return np.ascontiguousarray(skimage.data.astronaut()[0:128, 160:288])


def test_flow_follows_a_shift(still: np.ndarray) -> None:
    moved = np.roll(still, (2, 3), (0, 1))
    inner = flow(still, moved)[20:-20, 20:-20]
    np.testing.assert_allclose(np.median(inner, (0, 1)), [3, 2], atol=0.2)  # to the right, down


def test_steady_clips_have_no_error(still: np.ndarray) -> None:
    moved = np.roll(still, 3, 1)
    assert warping_error((still, still), (still, still)) == pytest.approx(0, abs=1e-6)
    assert warping_error((still, moved), (still, moved)) < 0.003 < np.square(moved / 255 - still / 255).mean()
    assert flow_difference((still, moved), (still, moved)) == 0


def test_flicker_is_the_warping_error_of_a_clip_that_stands_still(still: np.ndarray) -> None:
    bright = np.clip(still.astype(int) + 20, 0, 255).astype(np.uint8)
    expected = np.square(bright / 255 - still / 255).mean()
    assert warping_error((still, still), (still, bright)) == pytest.approx(expected, rel=1e-3)


def test_tof_is_the_length_of_a_movement_that_is_not_there(still: np.ndarray) -> None:
    moved = np.roll(still, (3, 4), (0, 1))
    expected = np.linalg.norm(flow(still, moved), axis=2).mean()
    assert flow_difference((still, still), (still, moved)) == pytest.approx(expected, rel=1e-3)
    assert flow_difference((still, still), (still, moved)) == pytest.approx(5, rel=0.25)


def test_clips_in_folders(tmp_path: Path, still: np.ndarray) -> None:
    """Frames of different clips are no neighbours; each clip counts alike."""
    bright = np.clip(still.astype(int) + 20, 0, 255).astype(np.uint8)
    for clip, frames in {'a': [still, bright, still], 'b': [still, still]}.items():
        for number, frame in enumerate(frames):
            imwrite(tmp_path / f'restored/{clip}/{number:03d}.png', frame)
            imwrite(tmp_path / f'gt/{clip}/{number:03d}.png', still)
    names = ['warping_error', 'tof']
    run = evaluate([tmp_path / 'restored'], {'gt': tmp_path / 'gt'}, names, Settings()).runs[0]
    expected = np.square(bright / 255 - still / 255).mean() / 2
    assert run.sets['warping_error'] == {'mean': pytest.approx(expected, rel=1e-3), 'count': 2}
    assert run.sets['tof']['count'] == 2
    (scorer,) = build_scorers(['tof'], Settings(), {'gt'})[0]
    with pytest.raises(NotRunError, match='no clip of two frames'):
        scorer.result()


# ---- AdaFace


def save_adaface(path: Path, prefix: str = '') -> AdaFaceIR:
    network = randomise(AdaFaceIR((1, 2, 1, 1), (4, 5, 6, 8), 16))
    state = {f'{prefix}{name}': value for name, value in network.state_dict().items()}
    torch.save({'state_dict': {**state, 'head.kernel': torch.ones(2)}} if prefix else state, path)
    return network


def test_sigma_ids_and_adaface_of_folders(tmp_path: Path) -> None:
    save_adaface(tmp_path / 'ada.pth')
    faces = smooth_faces(8, 112)
    for number in range(4):
        imwrite(tmp_path / f'restored/{"ab"[number // 2]}/{number}.png', to_image(faces[number]))
        for side in ('gt', 'lq'):
            imwrite(tmp_path / side / f'{"ab"[number // 2]}/{number}.png', to_image(faces[number + 4]))
    ada = str(tmp_path / 'ada.pth')
    settings = Settings(recognizer=ada, weights={'adaface': ada, 'adaface_lq': ada})
    sides = {side: tmp_path / side for side in ('gt', 'lq')}
    run = evaluate([tmp_path / 'restored'], sides, ['ids', 'sigma_ids', 'adaface', 'adaface_lq'], settings).runs[0]
    cosines = [run.scores[name]['ids'] for name in ('a/0', 'a/1', 'b/2', 'b/3')]
    expected = (abs(cosines[0] - cosines[1]) + abs(cosines[2] - cosines[3])) / 4
    assert run.sets['sigma_ids'] == {'mean': pytest.approx(expected), 'count': 2}
    assert run.scores['a/0']['adaface'] == run.scores['a/0']['adaface_lq'] == pytest.approx(cosines[0])


def test_adaface_computes_what_facexlib_s_blocks_do(tmp_path: Path) -> None:
    """Facexlib's blocks have no norm between convolution and PReLU; with that one made the identity they are ours."""
    from facexlib.recognition.arcface_arch import bottleneck_IR

    network = save_adaface(tmp_path / 'ada.pth')
    identity = torch.full((1,), (1 + 1e-5) ** 0.5)
    x = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        y = network.input_layer(x)
        for inputs, outputs, stride, block in zip(
            (4, 4, 5, 5, 6), (4, 5, 5, 6, 8), (2, 2, 1, 2, 2), network.body, strict=True
        ):
            norm = block.res_layer[2]
            for name, value in (('weight', identity), ('bias', 0), ('running_mean', 0), ('running_var', 1)):
                getattr(norm, name).data.fill_(float(value))
            published = bottleneck_IR(inputs, outputs, stride).eval()
            state = {}
            for name, value in block.state_dict().items():
                head, number, rest = name.split('.') if name.startswith('res') else (name, '', '')
                if number != '2':
                    state[
                        '.'.join(filter(None, (head, str(int(number) - (int(number) > 2)) if number else '', rest)))
                    ] = value
            published.load_state_dict(state)
            y = published(y)
        norm = network.output_layer[0]
        y = (y - norm.running_mean[:, None, None]) / (norm.running_var + 1e-5).sqrt()[:, None, None]
        y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
        y = y.flatten(1) @ network.output_layer[3].weight.T + network.output_layer[3].bias
        last = network.output_layer[4]
        y = (y - last.running_mean) / (last.running_var + 1e-5).sqrt()
        torch.testing.assert_close(network(x), y, rtol=1e-3, atol=1e-4)


def test_adaface_has_the_published_keys() -> None:
    with torch.device('meta'):
        state = AdaFaceIR().state_dict()
    assert sum(name.endswith('res_layer.1.weight') for name in state) == 24
    shapes = {
        'input_layer.0.weight': (64, 3, 3, 3), 'body.0.res_layer.3.weight': (64,),
        'body.3.shortcut_layer.0.weight': (128, 64, 1, 1), 'body.23.res_layer.4.weight': (512, 512, 3, 3),
        'output_layer.3.weight': (512, 25088), 'output_layer.4.running_mean': (512,),
    }  # fmt: skip
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert 'output_layer.4.weight' not in state and 'body.0.shortcut_layer.0.weight' not in state


@pytest.mark.parametrize('prefix', ['', 'model.', 'net.', 'model.net.'])
def test_adaface_is_told_by_its_keys(prefix: str, tmp_path: Path) -> None:
    network = save_adaface(tmp_path / 'ada.pth', prefix)
    embedder = FaceEmbedder(tmp_path / 'ada.pth')
    assert (embedder.recognizer.name, embedder.recognizer.channels, embedder.dim) == ('adaface_ir50', 'bgr', 16)
    faces = smooth_faces()
    with torch.no_grad():
        crops = embedder.preprocess(faces)
        torch.testing.assert_close(embedder(faces), torch.nn.functional.normalize(network(crops)))
