"""Restorations beside published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import CODEFORMER, make_faces

from basicsr.archs import build_network
from basicsr.cli import verify
from basicsr.inference import FaceRestorer
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.image import imread, imwrite


def save_network(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    save_atomic({'params_ema': build_network(CODEFORMER).state_dict(), 'network': CODEFORMER}, path)
    return str(path)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Pairs by a network of ours: at two w by the restorer, and one in [0, 1] by the bare network."""
    faces = make_faces(tmp_path / 'pairs/lq', 2)
    restorer = FaceRestorer(save_network(tmp_path / 'right.pth', 1), device='cpu')
    for w in (0, 0.5):
        for path in faces.iterdir():
            imwrite(tmp_path / f'pairs/w{w}' / path.name, restorer.restore(imread(path), w=w)[0])
    face = imread(faces / '000.png')
    imwrite(tmp_path / 'pairs/spandrel/lq.png', face)
    with torch.inference_mode():
        unit = torch.from_numpy(face).permute(2, 0, 1)[None] / 255
        output = restorer.network(unit, w=0.5, adain=True)[0][0].clamp(0, 1) * 255
    imwrite(tmp_path / 'pairs/spandrel/w0.5_input_in_0_1.png', output.round().byte().permute(1, 2, 0).numpy())
    return tmp_path / 'pairs'


def test_the_same_weights_make_the_published_pictures(pairs: Path, capsys: pytest.CaptureFixture) -> None:
    assert verify.main([str(pairs), '--model', str(pairs.parent / 'right.pth'), '--device', 'cpu']) == 0
    said = capsys.readouterr().out
    assert '5 of 5 are the published pictures' in said and said.count('0.000 levels on average') == 5


def test_other_weights_do_not(pairs: Path, capsys: pytest.CaptureFixture) -> None:
    wrong = save_network(pairs.parent / 'wrong.pth', 2)
    assert verify.main([str(pairs), '--model', wrong, '--device', 'cpu']) == 1
    assert '0 of 5 are the published pictures' in capsys.readouterr().out


def test_what_cannot_be_compared_is_named_and_the_others_go_on(pairs: Path, capsys: pytest.CaptureFixture) -> None:
    (pairs / 'lq/001.png').unlink()
    imwrite(pairs / 'w0/000.png', imread(pairs / 'w0/000.png')[:32, :32])
    assert verify.main([str(pairs), '--model', str(pairs.parent / 'right.pth'), '--device', 'cpu']) == 1
    captured = capsys.readouterr()
    assert 'w0.5/001.png: error: ' in captured.err and 'w0/000.png: error: ' in captured.err
    assert '2 of 5 are the published pictures' in captured.out


@pytest.mark.parametrize('found', ['nothing', 'no folder'])
def test_no_pairs_and_no_weights_are_errors(found: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path))
    if found == 'nothing':
        (tmp_path / 'pairs').mkdir()
    assert verify.main([str(tmp_path / 'pairs')]) == 2
    assert 'pairs' in capsys.readouterr().err


@pytest.mark.shared
def test_official_weights_make_the_official_pictures(shared: Path, capsys: pytest.CaptureFixture) -> None:
    """For whoever has them in the weights folder."""
    from basicsr.utils.folders import weights_folder

    if not (weights_folder() / 'CodeFormer/codeformer.pth').is_file():
        pytest.skip('the official weights are not in the weights folder')
    assert verify.main([str(shared / 'data/official'), '--device', 'cpu']) == 0, capsys.readouterr().out
