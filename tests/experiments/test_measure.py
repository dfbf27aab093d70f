"""scripts/measure_auto.py and scripts/measure_sizes.py: the tables of the documents, on stand-ins for the network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_faces import aligned_face
from small_recognizer import save_tiny

from basicsr.recognition.choose import embed_faces
from basicsr.recognition.confidence import Calibration
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.download import sha256_of
from basicsr.utils.image import imread, imwrite
from experiments.measurements import auto_fidelity as measure_auto
from experiments.measurements import sizes as measure_sizes

SIDE = 64


class Blend:
    """A stand-in for FaceRestorer: the face itself at w = 1 or where it is told who it is, blurred at w = 0."""

    size, device, takes_identity, told_by, description = SIDE, 'cpu', True, (None, 16), 'a stand-in'
    needs_photos = False

    def __init__(self, *_) -> None:
        self.told: list[torch.Tensor] = []

    def restore(self, faces, w=0.8, adain=True, identity=None, mask=None, id_scale=1.0):
        faces = [faces] if isinstance(faces, np.ndarray) else faces
        if identity is not None:
            self.told.append(identity)
        blend = 1 if identity is not None else w
        sized = [cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for face in faces]
        blurred = [cv2.GaussianBlur(face, (0, 0), 3) for face in sized]
        return [cv2.addWeighted(face, blend, blur, 1 - blend, 0) for face, blur in zip(sized, blurred, strict=True)]


def cells(output: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in output.splitlines() if line[0] == '|']
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Pairs of two faces without damage, of Ann and of Bob, and a second photograph of each."""
    face = aligned_face(SIDE)
    pictures = {'ann/1': face, 'bob/1': face[:, ::-1].copy(), 'ann/2': 255 - face, 'bob/2': face[::-1].copy()}
    for name, picture in pictures.items():
        imwrite(tmp_path / 'people' / f'{name}.png', picture)
        for role in ('lq', 'gt') if name.endswith('1') else ():
            imwrite(tmp_path / 'pairs' / role / f'{name}.png', picture)
    return tmp_path


def auto_options(root: Path) -> list[str]:
    weights = str(save_tiny(root / 'tiny.pth'))
    folders = ['--pairs', str(root / 'pairs'), '--ref', str(root / 'people')]
    calibration = root / 'calibration.json'
    Calibration('tiny', sha256_of(weights), {'norm': 0.0}, 0.0, 'nothing').save(calibration)  # confidence 0.5
    return [*folders, '--calibration', str(calibration), '--recognizer', weights, '--judge', weights]


def test_auto_is_measured_blind_and_told_of_others(faces, monkeypatch, capsys):
    network = Blend()
    monkeypatch.setattr(measure_auto, 'FaceRestorer', lambda *_: network)
    options = auto_options(faces)
    assert measure_auto.main(options) == 0
    rows = cells(capsys.readouterr().out)
    assert rows['input'] == rows['blind, w = 1'] == rows['told, w = 0'] == rows['told, `-w auto`']
    assert rows['blind, `-w auto`'] == rows['blind, w = 0.5']
    assert rows['input'][0] == '1.000' > rows['blind, w = 0.5'][0] > rows['blind, w = 0'][0]
    embedder = FaceEmbedder(options[-1])
    other = embed_faces(embedder, [imread(faces / 'people' / f'{name}.png') for name in ('ann/2', 'bob/2')])
    assert network.told and all(torch.allclose(told.view(2, -1), other, atol=1e-5) for told in network.told)


def test_auto_names_a_picture_without_counterpart_and_one_without_reference(faces, monkeypatch, capsys):
    monkeypatch.setattr(measure_auto, 'FaceRestorer', Blend)
    (faces / 'people' / 'bob' / '2.png').unlink()
    assert measure_auto.main(auto_options(faces)) == 1
    assert 'no photograph of the person in bob/1' in capsys.readouterr().err
    (faces / 'pairs' / 'gt' / 'ann' / '1.png').unlink()
    assert measure_auto.main(auto_options(faces)) == 1
    assert 'nothing of the name ann/1' in capsys.readouterr().err


def test_faces_are_judged_at_one_size_whatever_they_were_reduced_to(faces, monkeypatch, capsys):
    monkeypatch.setattr(measure_sizes, 'FaceRestorer', Blend)
    weights = str(save_tiny(faces / 'tiny.pth'))
    options = ['--input', str(faces / 'people'), '--output', str(faces / 'out'), '--judge', weights]
    assert measure_sizes.main([*options, '--sizes', '16', '48', '--at', '64', '--limit', '2']) == 0
    rows = cells(capsys.readouterr().out)
    assert list(rows) == ['IDS, PSNR (dB)', '---', 'as it is', 'restored']
    (small, large), blurred = ([list(map(float, cell.split(', '))) for cell in rows[kind]] for kind in list(rows)[2:])
    assert small[0] < large[0] and small[1] < large[1] and blurred[1][1] < large[1]
    written = {path.relative_to(faces / 'out').as_posix() for path in (faces / 'out').rglob('*.png')}
    folders = ('gt', '16_as_it_is', '16_restored', '48_as_it_is', '48_restored')
    assert written == {f'{folder}/{name}/1.png' for folder in folders for name in ('ann', 'bob')}
    assert {imread(faces / 'out' / name).shape for name in written} == {(64, 64, 3)}


def test_pictures_of_another_run_are_not_measured(faces, monkeypatch, capsys):
    monkeypatch.setattr(measure_sizes, 'FaceRestorer', Blend)
    assert measure_sizes.main(['--input', str(faces / 'people'), '--output', str(faces / 'pairs')]) == 1
    assert 'pairs: not empty' in capsys.readouterr().err


def test_no_faces_to_measure_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure_sizes, 'FaceRestorer', Blend)
    assert measure_sizes.main(['--input', str(tmp_path), '--output', str(tmp_path / 'out')]) == 1
    assert f'{tmp_path} holds no picture' in capsys.readouterr().err
