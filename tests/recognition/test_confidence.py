"""Identity from the input: what is measured on a degraded face, its calibration, and training with it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from small import CODEFORMER, batch_of, make_faces, stage_options
from small_recognizer import save_tiny, smooth_faces

from basicsr.cli import recognizer_calibrate as calibrate_confidence
from basicsr.cli.recognizer_calibrate import Sample, curve, damaged, fit, predict, quality, ranges_at
from basicsr.data.common import read_picture, resize_square
from basicsr.data.degradation import degrade, to_unit
from basicsr.models import build_model
from basicsr.models.schema import check_options
from basicsr.recognition.confidence import FEATURES, Calibration, InputIdentity, blur, flip, measure, sharpness
from basicsr.recognition.confidence_chart import CURVE, calibration_chart, place
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.download import sha256_of
from basicsr.utils.image import to_tensor
from basicsr.utils.options import OptionError

SHIPPED = ROOT / 'options/confidence/arcface_mbf512.json'


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp('recognizer') / 'recognizer.pth')


@pytest.fixture(scope='module')
def embedder(weights):
    return FaceEmbedder(weights)


def calibrated(folder, embedder, **changes):
    """A calibration of `embedder`, as a file."""
    values = {'weights': {'norm': 0.5, 'sharpness': 1.0}, 'bias': 0.2, 'fitted_on': 'nothing', **changes}
    Calibration(**{'recognizer': 'tiny', 'recognizer_sum': sha256_of(embedder.path), **values}).save(folder / 'c.json')
    return folder / 'c.json'


# What is measured.


def test_measurements_are_of_the_raw_embedding_and_its_crop(embedder):
    faces = smooth_faces(3)
    crops = embedder.preprocess(faces)
    raw = embedder.network(crops)
    embeddings, measured = measure(embedder, faces, tuple(FEATURES))
    torch.testing.assert_close(embeddings, embedder(faces))
    torch.testing.assert_close(measured[:, 0], raw.norm(dim=1))
    mirrored = F.normalize(embedder.network(crops.flip(3)))
    torch.testing.assert_close(measured[:, 2], (embeddings * mirrored).sum(1))
    assert (measured[:, 2:] < 1).all()
    order = ('flip', 'norm')
    torch.testing.assert_close(measure(embedder, faces, order)[1], measured[:, [2, 0]])


def test_a_face_is_wholly_consistent_with_a_mirror_image_and_a_blur_that_change_nothing(embedder):
    face = embedder.preprocess(smooth_faces(1))
    symmetric = (face + face.flip(3)) / 2
    flat = torch.full_like(face, 0.3)
    for feature, crops in ((flip, symmetric), (blur, flat)):
        found = feature(embedder.network, crops, embedder.network(crops))
        torch.testing.assert_close(found, torch.ones(1), rtol=0, atol=1e-4)


def test_sharpness_falls_with_blur_and_does_not_ask_for_contrast_or_brightness():
    image = np.random.default_rng(0).random((112, 112, 3), np.float32) - 0.5

    def sharp(picture):
        return sharpness(lambda x: x, torch.from_numpy(picture).permute(2, 0, 1)[None], torch.zeros(1, 1)).item()

    steps = [sharp(image)] + [sharp(cv2.GaussianBlur(image, (0, 0), sigma)) for sigma in (0.5, 1, 2, 4)]
    assert steps == sorted(steps, reverse=True) and steps[0] - steps[-1] > 2
    assert sharp(image * 2 + 0.3) == pytest.approx(sharp(image), abs=0.05)
    assert sharp(np.full_like(image, 0.5)) < steps[-1] - 1


# The file.


def test_confidence_is_the_logistic_curve_and_a_file_keeps_it(tmp_path):
    calibration = Calibration('r', 'f' * 64, {'sharpness': 2.0, 'norm': 0.25}, -0.5, 'some faces')
    calibration.save(tmp_path / 'a' / 'c.json')
    assert Calibration.read(tmp_path / 'a' / 'c.json') == calibration
    measured = torch.tensor([[0.1, 3.0], [1e6, 1e6], [-1e6, 0.0]])
    expected = torch.tensor([1 / (1 + np.exp(-(2 * 0.1 + 0.25 * 3 - 0.5))), 1, 0], dtype=torch.float32)
    torch.testing.assert_close(calibration(measured), expected)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (None, 'no such file'),
        ('{', 'damaged'),
        ([1], 'damaged'),
        ({'bias': 'high'}, 'damaged'),
        ({'weights': 3}, 'damaged'),
        ({'colour': 1}, 'damaged'),
        ({'weights': {'nrm': 1}}, "did you mean 'norm'"),
        ({'weights': {'norm': -1}}, '0 or more'),
        ({'weights': {'norm': float('nan')}}, 'finite'),
        ({'bias': float('inf')}, 'finite'),
        ({'weights': {}}, 'and some'),
    ],
)
def test_a_file_that_is_no_calibration_says_so_and_how_to_make_one(change, message, tmp_path, embedder):
    file = tmp_path / 'c.json'
    if change is not None:
        content = json.loads(calibrated(tmp_path, embedder).read_text())
        content = content | change if isinstance(change, dict) else change
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CheckpointError, match=message) as caught:
        InputIdentity(embedder, file)
    assert str(file) in str(caught.value) and 'id-codeformer recognizer calibrate' in str(caught.value)


def test_a_calibration_of_another_recognizer_is_an_error(tmp_path, embedder):
    other = FaceEmbedder(save_tiny(tmp_path / 'other.pth', seed=4))
    file = calibrated(tmp_path, embedder)
    InputIdentity(embedder, file)
    with pytest.raises(
        CheckpointError, match=r"for the recognizer 'tiny'.*other\.pth.*id-codeformer recognizer calibrate"
    ):
        InputIdentity(other, file)


def test_input_identity_gives_unit_vectors_and_confidence_without_gradient(tmp_path, embedder):
    who = InputIdentity(embedder, calibrated(tmp_path, embedder))
    faces = smooth_faces(3).requires_grad_()
    embeddings, confidence = who(faces)
    assert embeddings.shape == (3, 16) and confidence.shape == (3,)
    assert not embeddings.requires_grad and not confidence.requires_grad
    torch.testing.assert_close(embeddings, embedder(faces).detach())
    assert ((confidence > 0) & (confidence < 1)).all()
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(who(faces), (embeddings, confidence))
    assert not who.state_dict() and not list(who.parameters())


def test_a_calibration_under_the_former_spelling_is_read(tmp_path, embedder):
    file = calibrated(tmp_path, embedder)
    present = Calibration.read(file)
    file.write_text(file.read_text().replace('recognizer', 'recogniser'))
    assert Calibration.read(file) == present


def test_the_shipped_calibration_can_be_read_and_rises():
    calibration = Calibration.read(SHIPPED)
    assert calibration.recognizer == SHIPPED.stem and len(calibration.recognizer_sum) == 64
    low, middle, high = calibration(torch.tensor([[2.0, -1.5], [3.1, -0.8], [4.2, 0.0]]))
    assert low < middle < high


# Fitting and showing.


def sample_of(weights, bias, faces=4000, seed=0):
    """Faces whose cosines follow a curve exactly, without noise."""
    measured = np.random.default_rng(seed).normal([3, -1, 0.5, 0.8], [0.5, 0.4, 0.2, 0.1], (faces, 4))
    z = measured[:, : len(weights)] @ np.asarray(weights) + bias
    return Sample(measured, 1 / (1 + np.exp(-z)))


def test_the_fit_finds_the_curve_that_made_the_faces():
    sample = sample_of([1.5, 0.7], -3.0)
    weights, bias = fit(sample, ('norm', 'sharpness'))
    assert weights == pytest.approx({'norm': 1.5, 'sharpness': 0.7}, abs=0.01) and bias == pytest.approx(-3, abs=0.03)
    found = quality(predict(sample, weights, bias), sample.targets)
    assert found['correlation'] > 0.9999 and found['rmse'] < 0.003 and found['calibration_error'] < 0.003


def test_a_measurement_that_falls_with_the_cosine_gets_no_weight():
    weights, bias = fit(sample_of([1.5, -0.7], -3.0), ('norm', 'sharpness'))
    assert weights['sharpness'] == 0 and weights['norm'] > 1 and np.isfinite(bias)


def test_a_constant_measurement_does_no_harm():
    sample = sample_of([1.5], -3.0)
    sample.measured[:, 1] = 2.0
    weights, bias = fit(sample, ('norm', 'sharpness'))
    assert quality(predict(sample, weights, bias), sample.targets)['rmse'] < 0.003


def test_bins_and_figures_are_the_closed_forms():
    predicted = np.linspace(0, 1, 100)[::-1]
    rows = curve(predicted, predicted / 2)
    assert [row['faces'] for row in rows] == [10] * 10
    assert rows[0]['predicted_from'] == 0 and rows[-1]['predicted_to'] == 1
    assert [row['measured'] for row in rows] == pytest.approx([row['predicted'] / 2 for row in rows])
    found = quality(predicted, predicted / 2)
    assert found['correlation'] == pytest.approx(1) and found['calibration_error'] == pytest.approx(0.25)
    assert found['rmse'] == pytest.approx(np.sqrt((predicted**2).mean()) / 2)


def test_cosines_below_0_are_no_targets():
    assert Sample(np.zeros((2, 4)), np.array([-0.3, 0.4])).targets.tolist() == [0, 0.4]


def test_severity_goes_from_hardly_to_harsh_and_follows_from_the_seed():
    face = (smooth_faces(1, 128)[0].permute(1, 2, 0).numpy() * 127 + 128).astype(np.uint8)

    def harm(severity):
        ranges = ranges_at(severity).scaled(128)
        drawn = [degrade(to_unit(face), ranges, np.random.default_rng(seed)) for seed in range(6)]
        return np.mean([np.abs(image - to_unit(face)).mean() for image in drawn])

    steps = [harm(severity) for severity in (0, 0.4, 1)]
    assert steps[0] < 0.02 and steps == sorted(steps) and steps[-1] > 2 * steps[0]
    first, again = (damaged(face, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again) and not np.array_equal(first, damaged(face, np.random.default_rng(4)))


def test_the_chart_has_the_curve_where_it_belongs():
    row = {'predicted': 0.3, 'measured': 0.7, 'measured_p10': 0.5, 'measured_p90': 0.9}
    chart = calibration_chart(np.array([0.3]), np.array([0.7]), [row], 'title')
    found = np.argwhere((chart == CURVE).all(2))
    x, y = place(0.3, 0.7)
    assert np.abs(found.mean(0) - (y, x)).max() < 2
    bar = chart[place(0.3, 0.88)[1] : place(0.3, 0.52)[1], x]
    assert (bar < 250).any(1).all(), 'from the 10th to the 90th percentile'


def run_script(folder, weights, *more):
    make_faces(folder / 'faces', 6, 96)
    output = folder / 'out' / 'mine.json'
    arguments = ['-i', str(folder / 'faces'), '-o', str(output), '--weights', str(weights), '--size', '64', *more]
    return calibrate_confidence.main(arguments), output


def test_the_script_makes_a_file_that_works_and_shows_its_curve(tmp_path, embedder, weights):
    code, output = run_script(tmp_path, weights, '--val', str(tmp_path / 'faces'))
    assert code == 0
    embeddings, confidence = InputIdentity(embedder, output)(smooth_faces(2))
    assert embeddings.shape == (2, 16) and ((confidence >= 0) & (confidence <= 1)).all()
    rows = list(csv.DictReader((output.parent / 'mine.csv').open()))
    assert sum(int(row['faces']) for row in rows) == 6
    choices = list(csv.DictReader((output.parent / 'mine_features.csv').open()))
    assert len(choices) == 15 and {row['recognizer_runs'] for row in choices} == {'1', '2', '3'}
    assert (output.parent / 'mine.png').is_file()
    before = output.read_bytes()
    assert run_script(tmp_path, weights)[0] == 0 and output.read_bytes() == before
    run_script(tmp_path, weights, '--features', 'flip', '--seed', '1')
    assert set(Calibration.read(output).weights) == {'flip'}


def test_the_script_says_what_is_wrong(tmp_path, weights, capsys):
    assert run_script(tmp_path, tmp_path / 'none.pth')[0] == 2
    assert 'none.pth' in capsys.readouterr().err
    assert run_script(tmp_path, weights, '--val', str(tmp_path / 'nobody'))[0] == 2
    assert 'nobody' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_script(tmp_path, weights, '--size', '32')


# Training.


def input_options(stage, root, embedder, **changes):
    """Options of a stage with a plain data set whose faces tell by themselves who they are."""
    section = {'weights': str(embedder.path), 'calibration': str(calibrated(root, embedder)), **changes}
    opt = stage_options(stage, root, identity_input=section)
    opt['network_g'] |= {'type': 'IDCodeFormer', 'identity_dim': 16, 'identity_dropout': 0}
    return opt


@pytest.mark.parametrize('stage', [2, 3])
def test_a_step_of_training_is_told_what_the_low_quality_faces_say(stage, tmp_path, embedder):
    opt = input_options(stage, tmp_path, embedder)
    check_options(opt)
    model = build_model(opt)
    batch = batch_of(opt)
    who = model.identify(batch, 'in')
    embeddings, confidence = model.source.of_input(batch['in'])
    torch.testing.assert_close(who.vectors[:, 0], embeddings)
    assert torch.equal(who.confidence[:, 0], confidence)
    before = {name: value.clone() for name, value in embedder.network.state_dict().items()}
    model.optimize_parameters([batch], 1)
    outs = [layer.out.weight for layer in model.net_g.id_layers]
    assert all(out.any() for out in outs), 'the output of the cross-attention starts at zero and must have learnt'
    recognizer = model.source.of_input.embedder.network
    assert all(torch.equal(value, before[name]) for name, value in recognizer.state_dict().items())
    assert all(parameter.grad is None for parameter in recognizer.parameters())
    assert not [name for name in model.net_g.state_dict() if 'embedder' in name]


@torch.no_grad()
def test_validation_is_told_too_and_only_as_far_as_the_confidence_goes(tmp_path, embedder):
    model = build_model(input_options(3, tmp_path, embedder))
    network = model.get_bare_model()
    for part in (*(layer.out.weight for layer in network.id_layers), *network.id_style.gates.values()):
        torch.nn.init.constant_(part, 0.5)
    faces = smooth_faces(2, 64)
    told = model.infer({'lq': faces})
    model.source.of_input = InputIdentity(embedder, calibrated(tmp_path, embedder, bias=-1e9))
    doubtful = model.infer({'lq': faces})
    model.source.of_input = None
    blind = model.infer({'lq': faces})
    assert (told - blind).abs().max() > 1e-3
    assert torch.equal(doubtful, blind)


def test_references_come_before_the_input(tmp_path, embedder):
    model = build_model(input_options(2, tmp_path, embedder))
    reference = F.normalize(torch.randn(2, 1, 16), dim=2)
    told = model.source({'identity': reference, 'identity_mask': torch.ones(2, 1, dtype=torch.bool)}, 'in')
    assert told['identity'] is reference


def test_without_the_option_and_without_references_faces_are_restored_blind(tmp_path, embedder):
    opt = input_options(2, tmp_path, embedder)
    del opt['train']['identity_input']
    model = build_model(opt)
    assert not model.identify(batch_of(opt), 'in').max_confidence.any()


def test_options_that_do_not_fit_are_errors(tmp_path, embedder):
    opt = input_options(2, tmp_path, embedder)
    for network, message in (
        ({**CODEFORMER, 'vqgan_path': opt['network_g']['vqgan_path']}, 'IDCodeFormer'),
        ({**opt['network_g'], 'identity_dim': 512}, 'set network_g:identity_dim: 16'),
    ):
        with pytest.raises(OptionError, match=message):
            build_model({**opt, 'network_g': network})
    with pytest.raises(OptionError, match="'calibration' is missing"):
        build_model(input_options(2, tmp_path, embedder, calibration=None))
    with pytest.raises(OptionError, match="did you mean 'calibration'"):
        check_options(input_options(2, tmp_path, embedder, calibratio='c.json'))


@pytest.mark.shared
def test_the_shipped_calibration_trusts_real_faces_less_the_worse_they_are(shared):
    who = InputIdentity(FaceEmbedder(shared / 'weights/arcface_mbf512.onnx'), SHIPPED)
    paths = sorted((shared / 'data/faces192/val').iterdir())[:6]
    clean = [resize_square(read_picture(path, 32), 128) for path in paths]
    means = []
    for severity in (0.05, 0.5, 1.0):
        ranges = replace(ranges_at(severity), downsample_range=(1 + 29 * severity,) * 2).scaled(128)
        faces = [degrade(to_unit(face), ranges, np.random.default_rng(number)) for number, face in enumerate(clean)]
        means.append(who(torch.stack([to_tensor(face) for face in faces]))[1].mean().item())
    assert means[0] > 0.8 > means[1] > means[2] and means[2] < 0.4
