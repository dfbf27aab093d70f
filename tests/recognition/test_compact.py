"""The compact recognizer: its network, its recipe, and what it is for where its weights ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_recognizer import randomise, save_onnx, smooth_faces

from basicsr.cli.recognizer_calibrate import cosines_to_people, fit_threshold
from basicsr.inference.build_conditioner import _is_of_training
from basicsr.recognition.choose import choose_recognizer
from basicsr.recognition.compact import CompactFaceNet
from basicsr.recognition.confidence import Calibration
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.registry import RECOGNIZERS, SHIPPED
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.image import imwrite, to_image
from experiments.recognition import distill

TINY = {'widths': (4, 5, 6, 7), 'blocks': (1, 2, 1), 'hidden': (2, 3, 4), 'features': 8, 'embedding': 16, 'pool': 4}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    save_atomic(randomise(CompactFaceNet(**TINY)).state_dict(), tmp_path / 'tiny.pth')
    return tmp_path / 'tiny.pth'


def test_the_network_is_told_by_its_keys_at_any_size(tiny: Path) -> None:
    embedder = FaceEmbedder(tiny)
    entry = embedder.recognizer
    assert (entry.name, entry.size, entry.embedding, entry.space) == (SHIPPED, (64, 64), 16, 'arcface_mbf512')
    network = CompactFaceNet(**TINY).eval()
    network.load_state_dict(torch.load(tiny, weights_only=True))
    faces = smooth_faces()
    with torch.no_grad():
        torch.testing.assert_close(embedder(faces), F.normalize(network(embedder.preprocess(faces))))
    faces.requires_grad_()
    embedder(faces)[:, 0].sum().backward()
    assert faces.grad.abs().sum() > 0  # a search of codes needs it


def test_the_full_network_fits_into_its_file() -> None:
    with torch.device('meta'):
        network = CompactFaceNet()
    assert sum(value.numel() for value in network.state_dict().values()) * 2 < 2.15e6


def test_crops_of_any_side_are_the_same_part_of_the_face(tiny: Path) -> None:
    """Of a smooth picture, the crop of 64 pixels is that of 112 reduced."""
    faces = smooth_faces(2, 256)
    small = FaceEmbedder(tiny).crop(faces)
    square = RECOGNIZERS['arcface_r50']
    large = type(FaceEmbedder(tiny).crop)(square.template, square.size)(faces)
    reduced = F.interpolate(large, (64, 64), mode='bilinear', antialias=True)
    assert (small - reduced)[..., 2:-2, 2:-2].abs().mean() < 0.01


def test_the_recipe_embeds_learns_goes_on_and_writes_what_can_be_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        distill, 'CompactFaceNet', lambda embedding: CompactFaceNet(**{**TINY, 'pool': 5, 'embedding': embedding})
    )
    for number, face in enumerate(smooth_faces(4, 192)):
        imwrite(tmp_path / 'faces' / f'{number}.png', to_image(face))
    teacher = save_onnx(tmp_path / 'teacher.onnx')
    distill.embed(tmp_path / 'faces', teacher, tmp_path / 'run')
    targets = np.load(tmp_path / 'run' / distill.TARGETS)
    teachers = FaceEmbedder(teacher)
    entry = teachers.recognizer
    assert targets.shape == (4, 64) and np.allclose(np.linalg.norm(targets, axis=1), 1, atol=1e-5)
    assert entry.size == (112, 112)
    distill.train(tmp_path / 'run', 0, None, iterations=4, size=2)
    whole = torch.load(tmp_path / 'run' / distill.STATE, weights_only=True)
    (tmp_path / 'run' / distill.STATE).unlink()
    monkeypatch.setattr(distill, 'rate_at', lambda progress: 1e-3)
    distill.train(tmp_path / 'run', 0, None, iterations=2, size=2)
    distill.train(tmp_path / 'run', 0, tmp_path / 'run', iterations=4, size=2)
    parts = torch.load(tmp_path / 'run' / distill.STATE, weights_only=True)
    assert (whole['iteration'], parts['iteration']) == (4, 4)
    distill.release(tmp_path / 'run', tmp_path / 'compact.safetensors')
    embedder = FaceEmbedder(tmp_path / 'compact.safetensors')
    assert next(embedder.network.parameters()).dtype == torch.float32
    assert embedder(smooth_faces()).shape == (2, 64)


def test_going_on_is_the_same_training(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(distill, 'rate_at', lambda progress: 1e-3)
    monkeypatch.setattr(
        distill, 'CompactFaceNet', lambda embedding: CompactFaceNet(**{**TINY, 'pool': 5, 'embedding': embedding})
    )
    rng = np.random.default_rng(0)
    for run in ('whole', 'parts'):
        (tmp_path / run).mkdir()
        np.save(tmp_path / run / distill.FACES, rng.integers(0, 255, (4, 144, 144, 3), dtype=np.uint8))
        np.save(tmp_path / run / distill.TARGETS, np.eye(4, 16, dtype=np.float32))
        rng = np.random.default_rng(0)
    distill.train(tmp_path / 'whole', 0, None, iterations=3, size=2)
    distill.train(tmp_path / 'parts', 0, None, iterations=1, size=2)
    distill.train(tmp_path / 'parts', 0, None, iterations=3, size=2, workers=2)
    whole, parts = (
        torch.load(tmp_path / run / distill.STATE, weights_only=True)['network'] for run in ('whole', 'parts')
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_loss_makes_lengths_the_cosine_to_be_expected() -> None:
    """Among unit targets at angle a to the best direction, the least square error is at length cos(a)."""
    angle = 0.9
    target = torch.tensor([[np.cos(angle), np.sin(angle)], [np.cos(angle), -np.sin(angle)]], dtype=torch.float32)
    lengths = torch.linspace(0.05, 1, 96)
    losses = [float(distill.loss_of(torch.tensor([[length, 0.0]] * 2), target)[0]) for length in lengths]
    assert lengths[int(np.argmin(losses))] == pytest.approx(np.cos(angle), abs=0.02)


def test_cosines_to_people_leave_the_face_itself_out() -> None:
    clean = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]]), dim=1)
    same, different = cosines_to_people(clean, clean, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(same, torch.tensor([0.0, 0, 0.5**0.5, 0.5**0.5]))
    assert len(different) == 4


def test_a_threshold_is_fitted_and_kept(tiny: Path, tmp_path: Path) -> None:
    for number, face in enumerate(smooth_faces(4, 128)):
        imwrite(tmp_path / 'people' / 'ab'[number // 2] / f'{number}.png', to_image(face))
    threshold = fit_threshold(FaceEmbedder(tiny), tmp_path / 'people', 64, 0)
    assert -1 <= threshold <= 1 and threshold == pytest.approx(round(threshold, 2))
    Calibration('x', '0' * 64, {'norm': 1.0}, 0.0, 'y', threshold).save(tmp_path / 'c.json')
    assert Calibration.read(tmp_path / 'c.json').threshold == threshold


def test_a_stand_in_for_the_recognizer_of_the_training_comes_before_others(
    tiny: Path, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / 'weights/small').mkdir(parents=True)
    (tmp_path / 'weights/small/recognizer.safetensors').write_bytes(b'')
    monkeypatch.setattr('basicsr.recognition.registry.packaged', lambda name: tmp_path / 'weights')
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path / 'none'))
    chosen = []
    monkeypatch.setattr('basicsr.recognition.choose.FaceEmbedder', lambda path: chosen.append(Path(path).name))
    choose_recognizer(None, 'arcface_mbf512', tmp_path / 'none', 512)
    other = tmp_path / 'some/arcface/arcface_r50.pth'
    other.parent.mkdir(parents=True)
    other.write_bytes(b'')
    choose_recognizer(None, 'arcface_mbf512', tmp_path / 'some', 512)
    choose_recognizer(None, None, tmp_path / 'some', 512)
    assert chosen == ['recognizer.safetensors', 'recognizer.safetensors', 'arcface_r50.pth']
    assert _is_of_training(FaceEmbedder(tiny), 'arcface_mbf512') and not _is_of_training(
        FaceEmbedder(tiny), 'arcface_r50'
    )
