"""The recognizer that ships: its network against the original, its conversion, and when it is chosen."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.data import astronaut
from small_recognizer import smooth_faces

from basicsr.archs.factory import read_network
from basicsr.cli.recognizer_calibrate import cosines_to_people, fit_threshold
from basicsr.inference.build_conditioner import CALIBRATIONS
from basicsr.recognition.choose import choose_recognizer, embed_faces
from basicsr.recognition.confidence import Calibration
from basicsr.recognition.dlib_resnet import Residual
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.registry import RECOGNIZERS, SHIPPED
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.download import sha256_of
from basicsr.utils.image import imwrite, resized, to_image
from experiments.recognition import convert_dlib, judge

ROOT = Path(__file__).parents[2]

# Of dlib 20.0.1 with face_recognition_resnet_model_v1, on the portrait below: the first numbers of its descriptor.
DESCRIPTOR = [-0.04501, 0.0531, -0.01332, 0.06943, -0.13986, 0.02157, -0.02379, -0.10977]


@pytest.fixture(scope='module')
def embedder() -> FaceEmbedder:
    return FaceEmbedder(SHIPPED)


def portrait() -> np.ndarray:
    return resized(np.ascontiguousarray(astronaut()[40:190, 150:300]), 150, 150)


@torch.no_grad()
def test_descriptors_are_those_of_dlib(embedder):
    """Up to the rounding of the weights to float16; the embedding is the whitened unit vector."""
    network = embedder.network
    assert isinstance(network.whiten, torch.nn.Linear)
    found = []
    network.embed.register_forward_hook(lambda module, inputs, output: found.append(output))
    x = torch.from_numpy(portrait()).permute(2, 0, 1)[None].float()
    whitened = network(x)
    np.testing.assert_allclose(found[0][0, : len(DESCRIPTOR)], DESCRIPTOR, atol=5e-4)
    torch.testing.assert_close(whitened, network.whiten(F.normalize(found[0])))


def test_it_is_found_by_its_name_and_has_a_gradient(embedder):
    assert embedder.name == SHIPPED and embedder.recognizer.licence.startswith('CC0') and embedder.dim == 128
    faces = smooth_faces().requires_grad_()
    vectors = embedder(faces)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(faces)))
    vectors[:, 0].sum().backward()
    assert faces.grad is not None and faces.grad.abs().sum() > 0  # a search of codes needs it


def test_a_block_adds_what_is_smaller_with_zeros():
    block = Residual(2, 4, True)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.conv2.bias.fill_(1.0)
        x = torch.ones(1, 2, 8, 8)
        y = block(x)  # the convolution makes 3x3 of it, the average 4x4
    assert y.shape == (1, 4, 4, 4)
    assert y[0, :2, :3, :3].eq(2).all() and y[0, 2:, :3, :3].eq(1).all()
    assert y[0, :2, 3].eq(1).all() and y[0, 2:, 3].eq(0).all()


def test_layers_are_read_as_dlib_writes_them(tmp_path):
    def integer(value: int) -> bytes:
        data = abs(value).to_bytes(max(1, (abs(value).bit_length() + 7) // 8), 'little')
        return bytes([len(data) | (0x80 if value < 0 else 0)]) + data

    def tensor(values: list[float]) -> bytes:
        sizes = b''.join(map(integer, (len(values), 1, 1, 1)))
        return integer(2) + sizes + struct.pack(f'<{len(values)}f', *values)

    assert convert_dlib.integer(integer(-70_000) + b'rest', 0) == (-70_000, 4)
    data = b'\x01\x05con_4' + tensor([1, 2, 3]) + b'..' + b'\x01\x07affine_' + tensor([4.5]) + b'.'
    data += b'\x01\x04fc_2' + integer(128) + integer(256) + tensor([5] * 300)
    found = [(kind, values.tolist()) for kind, values in convert_dlib.layers(data)]
    assert found == [('conv', [1, 2, 3]), ('affine', [4.5]), ('linear', [5] * 300)]
    with pytest.raises(ValueError, match='version 3'):
        list(convert_dlib.layers(b'\x01\x05con_4' + integer(3)))
    (tmp_path / 'other.dat').write_bytes(data)
    argv = ['--source', str(tmp_path / 'other.dat'), '--faces', str(tmp_path), '--target', str(tmp_path / 'x.st')]
    assert convert_dlib.main(argv) == 1 and not (tmp_path / 'x.st').exists()


def test_whitening_takes_off_the_mean_and_evens_out_the_spread():
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(400, 5, generator=generator) * torch.tensor([1.0, 2, 3, 4, 5]) + 10 * k for k in range(2)]
    weight, bias = convert_dlib.whitening(sets, shrinkage=0)
    white = [F.linear(vectors, weight, bias) for vectors in sets]
    torch.testing.assert_close(white[0].mean(0), -white[1].mean(0), atol=1e-3, rtol=0)
    spread = sum(vectors.T @ vectors / len(vectors) / 2 for vectors in white)
    torch.testing.assert_close(spread, torch.eye(5), atol=1e-3, rtol=0)
    weak = convert_dlib.whitening(sets, shrinkage=1)[0]
    assert torch.linalg.eigvalsh(weak).max() < torch.linalg.eigvalsh(weight).max()


def test_cosines_to_people_leave_the_face_itself_out() -> None:
    clean = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]]), dim=1)
    same, different = cosines_to_people(clean, clean, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(same, torch.tensor([0.0, 0, 0.5**0.5, 0.5**0.5]))
    assert len(different) == 4


def test_a_threshold_is_fitted_and_kept(embedder, tmp_path: Path) -> None:
    for number, face in enumerate(smooth_faces(4, 128)):
        imwrite(tmp_path / 'people' / 'ab'[number // 2] / f'{number}.png', to_image(face))
    threshold = fit_threshold(embedder, tmp_path / 'people', 64, 0)
    assert -1 <= threshold <= 1 and threshold == pytest.approx(round(threshold, 2))
    Calibration('x', '0' * 64, {'norm': 1.0}, 0.0, 'y', threshold).save(tmp_path / 'c.json')
    assert Calibration.read(tmp_path / 'c.json').threshold == threshold


def test_it_is_taken_where_nothing_else_is_there(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path))
    chosen = choose_recognizer(None, 'arcface_mbf512', tmp_path, 512)
    assert chosen is not None and chosen.name == SHIPPED
    monkeypatch.setattr('basicsr.recognition.registry.packaged', lambda name: tmp_path / 'lost')
    assert choose_recognizer(None, None, tmp_path, 512) is None
    with pytest.raises(CheckpointError, match='install the package anew'):
        FaceEmbedder(SHIPPED)


@pytest.mark.shared
def test_people_are_told_apart(embedder, shared):
    """Two photographs each of eleven people: their own is nearer than anybody else's for nine in ten."""
    from basicsr.utils.image import imread

    folders = [sub for name in ('celebref512', 'multi_id') for sub in sorted((shared / 'data' / name).iterdir())]
    photos = [sorted(folder.iterdir())[place] for place in (0, 1) for folder in folders]
    vectors = embed_faces(embedder, [imread(path) for path in photos])
    cosines = vectors[: len(folders)] @ vectors[len(folders) :].T
    own = torch.eye(len(folders), dtype=torch.bool)
    assert (cosines.argmax(1) == torch.arange(len(folders))).float().mean() >= 0.9
    assert cosines[own].mean() > 0.6 and cosines[~own].mean() < 0.25


def test_the_file_the_calibration_and_the_small_model_belong_together(embedder):
    """A file converted anew needs all three anew."""
    digest = sha256_of(embedder.path)
    assert digest == RECOGNIZERS[SHIPPED].sha256
    assert Calibration.read(CALIBRATIONS / f'{SHIPPED}.json').recognizer_sum == digest
    network = read_network(ROOT / 'weights/small/codeformer_128.safetensors')[0]
    assert (network['recognizer'], network['identity_dim']) == (SHIPPED, embedder.dim)


def test_recognizers_are_judged_side_by_side(tmp_path: Path, capsys) -> None:
    """People told apart, and what a reference gains: the search brings a face nearer for its own recognizer."""
    for person, face in zip('ab', smooth_faces(2, 128), strict=True):
        for number, light in enumerate((1.0, 0.9)):
            imwrite(tmp_path / person / f'{number}.png', to_image(light * face))
    judge.main(['people', SHIPPED, '--faces', str(tmp_path)])
    rows = [line.split('|')[1:] for line in capsys.readouterr().out.splitlines()]
    assert [row[1].strip() for row in rows[1:]] == ['clean', 'mild', 'severe'] and float(rows[1][2]) > 0.9 > float(
        rows[1][3]
    )
    flags = ['--faces', str(tmp_path), '--judge', SHIPPED, '--a_person', '1', '--steps', '2']
    judge.main(['references', SHIPPED, *flags])
    found = capsys.readouterr().out.splitlines()[-1].split('|')
    assert found[2].strip() == '2' and float(found[7]) > 0.02


def test_its_crop_is_that_of_its_training():
    entry = RECOGNIZERS[SHIPPED]
    eyes = entry.template[:2].mean(0)
    assert entry.size == (150, 150) and eyes == pytest.approx([73.8, 45.0], abs=0.5)
