"""ONNX Runtime restores as torch does, from a file that is exported once."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from drawing import fill, image
from small import CODEFORMER
from small_faces import aligned_face

from basicsr.archs import build_network
from basicsr.cli import export as export_onnx
from basicsr.cli.main import main
from basicsr.inference import FaceRestorer, onnx_network
from basicsr.inference.face_restorer import load_restorer
from basicsr.inference.onnx_export import PLAIN
from basicsr.inference.onnx_network import OnnxError, choose_providers
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.image import imread, imwrite

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = (0.0, 0.5, 1.0)
PERSONAL = {**CODEFORMER, 'type': 'IDCodeFormer', 'identity_dim': 16, 'identity_tokens': 2, 'out_scale': 2}


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    """An empty cache for all tests, so that there is one export."""
    folder = tmp_path_factory.mktemp('cache')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_network, 'cache_folder', lambda: folder)
        yield folder


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('net') / 'net.pth'
    save_atomic({'params': fill(build_network(PERSONAL)).state_dict(), 'network': PERSONAL}, path)
    return path


@pytest.fixture(scope='module')
def restorer(cache, checkpoint) -> FaceRestorer:
    return FaceRestorer(checkpoint, device='cpu', backend='onnx', batch_size=2)


@pytest.fixture(scope='module')
def onnx_file(restorer, cache) -> Path:
    """The file that was exported, in the plain dialect."""
    (file,) = cache.rglob('*.onnx')
    return file


def test_results_are_those_of_torch(restorer, checkpoint):
    other = FaceRestorer(checkpoint, device='cpu')
    assert restorer.description.endswith('fp32 on ONNX Runtime (CPU)')
    assert not restorer.takes_identity
    faces = [aligned_face(size) for size in (64, 128, 256)]
    for w in WEIGHTS:
        for found, expected in zip(restorer.restore(faces, w=w), other.restore(faces, w=w), strict=True):
            assert found.shape == (128, 128, 3)
            assert np.abs(found.astype(int) - expected).max() <= 2


def test_onnx_file_agrees_with_the_network(onnx_file, checkpoint):
    """Any number of faces, any w, as the hosts of the plain dialect feed it."""
    network = load_restorer(checkpoint)
    session = onnxruntime.InferenceSession(str(onnx_file), providers=['CPUExecutionProvider'])
    for count in (1, 2, 3):
        for w in WEIGHTS:
            x = image(count, count, 64)
            found, _ = session.run(None, {'x': x.numpy(), 'w': np.array(w, np.float32)})
            with torch.no_grad():
                expected = network(x, w=w, adain=True)[0]
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-3)


def test_the_command_exports_that_file_and_what_disagrees_is_an_error(
    onnx_file, checkpoint, tmp_path, capsys, monkeypatch
):
    """What the command would export is what the cache holds, which is therefore not exported twice."""

    def export(module, path):
        assert module.dialect == PLAIN and module.adain and not module.half_inside and not module.training
        shutil.copy(onnx_file, path)

    another = fill(build_network(PERSONAL), salt=1)
    save_atomic({'params': another.state_dict(), 'network': PERSONAL}, tmp_path / 'net.pth')
    monkeypatch.setattr(export_onnx, 'export', export)
    output = tmp_path / 'out' / 'net.onnx'
    output.parent.mkdir()
    assert export_onnx.main(['--model', str(checkpoint), '--output', str(output)]) == 0
    assert [file.name for file in output.parent.iterdir()] == ['net.onnx']
    assert export_onnx.main(['--model', str(tmp_path / 'net.pth'), '--output', str(output)]) == 1
    assert 'do not use the file' in capsys.readouterr().err


def test_the_command_restores_from_the_cache(restorer, cache, checkpoint, tmp_path, monkeypatch, capsys):
    files = [*cache.rglob('*.onnx')]
    assert len(files) == 1
    monkeypatch.setattr(onnx_network, 'export', None)
    page = (ROOT / 'docs' / 'export.md').read_text(encoding='utf-8')
    command = shlex.split(re.search(r'^id-codeformer (restore .*--backend onnx.*)$', page, re.MULTILINE)[1])
    imwrite(tmp_path / 'photo.jpg', aligned_face(128))
    monkeypatch.chdir(tmp_path)
    for backend in ('onnx', 'torch'):
        arguments = ['-o', backend, '--backend', backend, '--model', str(checkpoint), '--device', 'cpu']
        assert main([*command, *arguments, '--has_aligned', '-w', '0.5']) == 0
    assert 'on ONNX Runtime (CPU)' in capsys.readouterr().out
    results = [imread(next((tmp_path / name / 'restored_faces').glob('*.png'))) for name in ('torch', 'onnx')]
    assert np.abs(results[0].astype(int) - results[1]).max() <= 2


def test_what_it_cannot_do_is_refused(restorer, checkpoint, tmp_path, capsys):
    with pytest.raises(ValueError, match='restores blind, without identity and search; use backend torch'):
        restorer.restore(aligned_face(64), identity=torch.ones(1, 16))
    for options, message in (
        ({'precision': 'bf16'}, 'computes in fp32'),
        ({'texture': 0.5}, 'has 1 only'),
        ({'backend': 'tvm'}, 'use torch, onnx'),
    ):
        with pytest.raises(ValueError, match=message):
            FaceRestorer(checkpoint, **{'device': 'cpu', 'backend': 'onnx', **options})
    imwrite(tmp_path / 'face.png', aligned_face(64))
    arguments = ['restore', '-i', str(tmp_path / 'face.png'), '-o', str(tmp_path / 'out'), '--backend', 'onnx']
    for flags in (['--ref', str(tmp_path / 'face.png')], ['--identity', 'input']):
        assert main([*arguments, *flags]) == 2
        assert f'error: {flags[0]}' in capsys.readouterr().err


def test_other_weights_are_exported_anew_and_what_differs_is_no_result(cache, tmp_path, monkeypatch):
    """The file of one network in place of another's is found out before it gets its name."""
    another = tmp_path / 'another.pth'
    save_atomic({'params': fill(build_network(PERSONAL), salt=1).state_dict(), 'network': PERSONAL}, another)
    first, *_ = cache.rglob('*.onnx')
    monkeypatch.setattr(onnx_network, 'export', lambda module, path: path.write_bytes(first.read_bytes()))
    with pytest.raises(OnnxError, match='the exported network differs by'):
        FaceRestorer(another, device='cpu', backend='onnx')
    assert [*cache.rglob('*.onnx')] == [first]


def test_a_damaged_file_of_the_cache_is_named(restorer, cache, checkpoint):
    path = next(cache.rglob('*.onnx'))
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(OnnxError, match=r'cannot load it .*; delete it to export again'):
        FaceRestorer(checkpoint, device='cpu', backend='onnx')
    path.write_bytes(whole)


def test_providers_are_those_that_are_there_in_order(monkeypatch):
    there = ['CPUExecutionProvider', 'OpenVINOExecutionProvider', 'AzureExecutionProvider', 'CUDAExecutionProvider']
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: there)
    names = [name.removesuffix('ExecutionProvider') for name, _ in choose_providers('auto')]
    assert names == ['CUDA', 'OpenVINO', 'CPU']
    assert choose_providers('cuda:1')[0][1]['device_id'] == '1'
    assert [name for name, _ in choose_providers('cpu')] == ['CPUExecutionProvider']
    with pytest.raises(ValueError, match="device 'mps': backend onnx takes auto, cpu, cuda"):
        choose_providers('mps')
    there.pop()
    with pytest.raises(ValueError, match='has no CUDAExecutionProvider; install onnxruntime-gpu'):
        choose_providers('cuda')
