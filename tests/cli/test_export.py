"""One graph of the network for every w and any number of faces: compiled, exported, and as ONNX for each host."""

from __future__ import annotations

import re
import shlex
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from drawing import fill, image
from small import CODEFORMER, VQGAN
from small_faces import aligned_face

from basicsr.archs import CodeFormer, build_network
from basicsr.cli import export as export_onnx
from basicsr.cli.main import main
from basicsr.inference.onnx_export import DIALECTS, Restoration, trace
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.image import to_tensor

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = (0.0, 0.5, 1.0)
PERSONAL = {**CODEFORMER, 'type': 'IDCodeFormer', 'identity_dim': 16, 'identity_tokens': 2, 'out_scale': 2}


@pytest.fixture(scope='module')
def network() -> CodeFormer:
    """An IDCodeFormer of 64 pixels that gives twice its side, as the embedded model is one."""
    return fill(build_network(PERSONAL)).eval()


@pytest.fixture(scope='module')
def checkpoint(network, tmp_path_factory):
    path = tmp_path_factory.mktemp('export') / 'net.pth'
    save_atomic({'params': network.state_dict(), 'network': PERSONAL}, path)
    return path


@torch.inference_mode()
def test_w_as_a_tensor_equals_w_as_a_number(network):
    outputs = [network(image(1, 2, 64), w=w)[0] for w in WEIGHTS]
    for w, output in zip(WEIGHTS, outputs, strict=True):
        torch.testing.assert_close(network(image(1, 2, 64), w=torch.tensor(w))[0], output)
    assert (outputs[0] - outputs[2]).abs().max() > 0.01


def test_compiled_network_is_one_graph_for_every_w(network):
    torch.compiler.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(network, backend=count, fullgraph=True)
    with torch.no_grad():
        for w in WEIGHTS:
            expected = network(image(2, 2, 64), w=w, adain=True)
            found = compiled(image(2, 2, 64), w=torch.tensor(w), adain=True)
            torch.testing.assert_close(found, expected)
    assert len(graphs) == 1


def test_compiled_network_has_the_gradients_of_the_plain_one():
    torch.compiler.reset()
    gradients = []
    for prepare in (lambda net: net, lambda net: torch.compile(net, backend='aot_eager', fullgraph=True)):
        network = fill(build_network(CODEFORMER))
        prepare(network)(image(3, 1, 64), w=torch.tensor(1.0))[0].square().mean().backward()
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()])
    torch.testing.assert_close(*gradients)
    assert any(gradient.any() for gradient in gradients[0])


@pytest.mark.parametrize(
    'options',
    [CODEFORMER, PERSONAL, {**PERSONAL, 'condition_transformer': False, 'style_grid': 4}],
    ids=['CodeFormer', 'IDCodeFormer', 'styled'],
)
def test_exported_program_takes_any_w_and_any_number_of_faces(options):
    network = fill(build_network(options)).eval()
    program = trace(Restoration(network))
    for count, w in ((1, 0.0), (3, 1.0)):
        found = program.module()(image(4, count, 64), torch.tensor(w))
        with torch.no_grad():
            expected = network(image(4, count, 64), w=w, adain=True)[:2]
        torch.testing.assert_close(found, expected)


@pytest.fixture(scope='module')
def onnx_file(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp('onnx') / 'net.onnx'
    assert export_onnx.main(['--model', str(checkpoint), '--output', str(path)]) == 0
    return path


def test_onnx_file_agrees_with_the_network(network, onnx_file):
    assert [file.name for file in onnx_file.parent.iterdir()] == ['net.onnx']
    session = onnxruntime.InferenceSession(str(onnx_file), providers=['CPUExecutionProvider'])
    for count in (1, 2, 3):
        for w in WEIGHTS:
            x = image(count, count, 64)
            found, _ = session.run(None, {'x': x.numpy(), 'w': np.array(w, np.float32)})
            with torch.no_grad():
                expected = network(x, w=w, adain=True)[0]
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-3)


def test_a_file_that_disagrees_is_an_error(onnx_file, tmp_path, capsys, monkeypatch):
    another = fill(build_network(PERSONAL), salt=1)
    save_atomic({'params': another.state_dict(), 'network': PERSONAL}, tmp_path / 'net.pth')
    monkeypatch.setattr(export_onnx, 'export', lambda module, path: shutil.copy(onnx_file, path))
    assert export_onnx.main(['--model', str(tmp_path / 'net.pth'), '--output', str(tmp_path / 'net.onnx')]) == 1
    assert 'do not use the file' in capsys.readouterr().err


def test_a_codeformerplusplus_is_exported(tmp_path):
    options = {'type': 'CodeFormerPlusPlus', 'prior': PERSONAL, 'tgrn': {'width': 8}}
    save_atomic({'params': fill(build_network(options)).state_dict(), 'network': options}, tmp_path / 'net.pth')
    arguments = ['--model', str(tmp_path / 'net.pth'), '--output', str(tmp_path / 'net.onnx'), '--dialect', 'rope']
    assert export_onnx.main(arguments) == 0


def test_what_is_no_codeformer_is_not_exported(tmp_path, capsys):
    save_atomic(build_network(VQGAN).state_dict(), tmp_path / 'vqgan.pth')
    assert export_onnx.main(['--model', str(tmp_path / 'vqgan.pth'), '--output', str(tmp_path / 'x.onnx')]) == 2
    assert 'not a CodeFormer' in capsys.readouterr().err
    assert not (tmp_path / 'x.onnx').exists()


@pytest.fixture(scope='module')
def hosted(checkpoint, tmp_path_factory):
    """By dialect, the file of the command; that of Rope in float16."""
    folder, files = tmp_path_factory.mktemp('hosted'), {}
    for dialect, flags in (('facefusion', []), ('rope', ['--half'])):
        files[dialect] = folder / dialect / 'codeformer.onnx'
        arguments = ['--model', str(checkpoint), '--output', str(files[dialect]), '--dialect', dialect, *flags]
        assert export_onnx.main(arguments) == 0
    return files


@pytest.fixture(scope='module')
def portrait():
    """A face of 512 pixels, of which blocks of 8 by 8 are alike: reduced to 64 pixels, it is of whole grey levels."""
    return aligned_face(64).repeat(8, 0).repeat(8, 1)


@pytest.fixture(scope='module')
def expected(network):
    """What the network makes of it at w = 0.5, enlarged to 512 pixels, in grey levels."""
    with torch.no_grad():
        face = network(to_tensor(aligned_face(64))[None], w=0.5, adain=True)[0][0]
    assert face.shape == (3, 128, 128)
    enlarged = cv2.resize(face.permute(1, 2, 0).numpy(), (512, 512), interpolation=cv2.INTER_CUBIC)
    return (enlarged.clip(-1, 1) + 1) * 127.5


def test_facefusion_runs_its_dialect(hosted, portrait, expected):
    """A BGR crop of 512 pixels in; the first output, at 512 pixels; and the sum that it checks before."""
    path = hosted['facefusion']
    assert path.with_name('codeformer.hash').read_text() == format(zlib.crc32(path.read_bytes()), '08x')
    assert str(ROOT).encode() not in path.read_bytes()  # nor other names of this machine's folders
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    assert {item.name: (item.type, item.shape) for item in session.get_inputs()} == {
        'input': ('tensor(float)', [1, 3, 512, 512]),
        'weight': ('tensor(double)', [1]),
    }
    bgr = cv2.cvtColor(portrait, cv2.COLOR_RGB2BGR)
    batch = ((bgr[..., ::-1] / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float32)
    image = session.run(None, {'input': batch, 'weight': np.array([0.5]).astype(np.double)})[0][0]
    levels = np.round((np.clip(image, -1, 1) + 1) / 2 * 255).transpose(1, 2, 0)
    assert levels.shape == expected.shape
    assert np.abs(levels - expected).max() <= 2


def test_rope_runs_its_dialect_in_half_precision(hosted, portrait, expected):
    """Bound buffers: float32 at both ends, the weight as float64."""
    path = hosted['rope']
    assert not path.with_name('codeformer.hash').exists()
    assert path.stat().st_size < 0.6 * hosted['facefusion'].stat().st_size
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    x = torch.from_numpy(portrait).permute(2, 0, 1)[None].float().div(127.5).sub(1).contiguous()
    y = torch.empty(1, 3, 512, 512)
    binding = session.io_binding()
    binding.bind_input('x', 'cpu', 0, np.float32, tuple(x.shape), x.data_ptr())
    binding.bind_cpu_input('w', np.array([0.5], np.double))
    binding.bind_output('y', 'cpu', 0, np.float32, tuple(y.shape), y.data_ptr())
    session.run_with_iobinding(binding)
    levels = y[0].clamp(-1, 1).add(1).mul(127.5).permute(1, 2, 0).numpy()
    assert np.median(np.abs(levels - expected)) < 2  # rounding may choose another code somewhere


def test_the_dialects_are_those_of_the_guide():
    page = (ROOT / 'docs' / 'integrations.md').read_text(encoding='utf-8')
    assert set(DIALECTS) - {'plain'} <= set(re.findall(r'`--dialect (\w+)`', page))


def test_the_command_of_the_guide_exports_the_embedded_model(tmp_path, monkeypatch, capsys):
    page = (ROOT / 'docs' / 'integrations.md').read_text(encoding='utf-8')
    command, *arguments = shlex.split(re.search(r'^id-codeformer export .*--dialect facefusion.*$', page, re.M)[0])
    monkeypatch.chdir(tmp_path)
    assert command == 'id-codeformer'
    assert main(arguments) == 0
    assert 'largest difference' in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ['codeformer.hash', 'codeformer.onnx']
