"""One graph of the network for every w and any number of faces: compiled, exported, and as ONNX for the hosts."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
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
from basicsr.inference.face_restorer import find_model, load_restorer
from basicsr.inference.onnx_export import DIALECTS, Restoration, trace
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.folders import weights_folder
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


def test_a_codeformerplusplus_is_exported(tmp_path):
    prior = {**PERSONAL, 'img_size': 32, 'ch_mult': [1, 2], 'attn_resolutions': []}
    options = {'type': 'CodeFormerPlusPlus', 'prior': prior, 'tgrn': {'width': 8}}
    save_atomic({'params': fill(build_network(options)).state_dict(), 'network': options}, tmp_path / 'net.pth')
    arguments = ['--model', str(tmp_path / 'net.pth'), '--output', str(tmp_path / 'net.onnx'), '--dialect', 'rope']
    assert export_onnx.main(arguments) == 0


def test_what_is_no_codeformer_is_not_exported(tmp_path, capsys):
    save_atomic(build_network(VQGAN).state_dict(), tmp_path / 'vqgan.pth')
    assert export_onnx.main(['--model', str(tmp_path / 'vqgan.pth'), '--output', str(tmp_path / 'x.onnx')]) == 2
    assert 'not a CodeFormer' in capsys.readouterr().err
    assert not (tmp_path / 'x.onnx').exists()


@pytest.fixture(scope='module')
def rope(checkpoint, tmp_path_factory):
    """The file that the command writes for Rope, in float16."""
    path = tmp_path_factory.mktemp('rope') / 'codeformer.onnx'
    arguments = ['--model', str(checkpoint), '--output', str(path), '--dialect', 'rope', '--half']
    assert export_onnx.main(arguments) == 0
    return path


@pytest.fixture(scope='module')
def facefusion(tmp_path_factory):
    """The file that the command of the guide writes: the embedded model for facefusion."""
    page = (ROOT / 'docs' / 'integrations.md').read_text(encoding='utf-8')
    command, *arguments = shlex.split(re.search(r'^id-codeformer export .*--dialect facefusion.*$', page, re.M)[0])
    assert command == 'id-codeformer'
    folder, said = tmp_path_factory.mktemp('facefusion'), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(folder)
        assert main(arguments) == 0
    assert 'largest difference' in said.getvalue()
    assert sorted(file.name for file in folder.iterdir()) == ['codeformer.hash', 'codeformer.onnx']
    return folder / 'codeformer.onnx'


def portrait(side):
    """A face of 512 pixels that is of whole grey levels when it is reduced to `side`: its blocks are alike."""
    return aligned_face(side).repeat(512 // side, 0).repeat(512 // side, 1)


def expected(network):
    """What a network makes of the portrait at w = 0.5, enlarged to 512 pixels, in grey levels."""
    with torch.no_grad():
        face = network(to_tensor(aligned_face(network.img_size))[None], w=0.5, adain=True)[0][0]
    assert face.shape == (3, 2 * network.img_size, 2 * network.img_size)
    enlarged = cv2.resize(face.permute(1, 2, 0).numpy(), (512, 512), interpolation=cv2.INTER_CUBIC)
    return (enlarged.clip(-1, 1) + 1) * 127.5


def test_facefusion_runs_the_embedded_model_in_its_dialect(facefusion):
    """A BGR crop of 512 pixels in; the first output, at 512 pixels; and the sum that it checks before."""
    content = facefusion.read_bytes()
    assert facefusion.with_name('codeformer.hash').read_text() == format(zlib.crc32(content), '08x')
    assert str(ROOT).encode() not in content  # nor other names of this machine's folders
    session = onnxruntime.InferenceSession(str(facefusion), providers=['CPUExecutionProvider'])
    assert {item.name: (item.type, item.shape) for item in session.get_inputs()} == {
        'input': ('tensor(float)', [1, 3, 512, 512]),
        'weight': ('tensor(double)', [1]),
    }
    embedded = load_restorer(find_model('small', weights_folder())[0])
    bgr = cv2.cvtColor(portrait(embedded.img_size), cv2.COLOR_RGB2BGR)
    batch = ((bgr[..., ::-1] / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float32)
    image = session.run(None, {'input': batch, 'weight': np.array([0.5]).astype(np.double)})[0][0]
    levels = np.round((np.clip(image, -1, 1) + 1) / 2 * 255).transpose(1, 2, 0)
    wanted = expected(embedded)
    assert levels.shape == wanted.shape
    assert np.abs(levels - wanted).max() <= 2


def test_rope_runs_its_dialect_in_half_precision(rope, network, checkpoint):
    """Bound buffers: float32 at both ends, the weight as float64."""
    assert not rope.with_name('codeformer.hash').exists()
    assert rope.stat().st_size < 0.6 * checkpoint.stat().st_size
    session = onnxruntime.InferenceSession(str(rope), providers=['CPUExecutionProvider'])
    x = torch.from_numpy(portrait(network.img_size)).permute(2, 0, 1)[None].float().div(127.5).sub(1).contiguous()
    y = torch.empty(1, 3, 512, 512)
    binding = session.io_binding()
    binding.bind_input('x', 'cpu', 0, np.float32, tuple(x.shape), x.data_ptr())
    binding.bind_cpu_input('w', np.array([0.5], np.double))
    binding.bind_output('y', 'cpu', 0, np.float32, tuple(y.shape), y.data_ptr())
    session.run_with_iobinding(binding)
    levels = y[0].clamp(-1, 1).add(1).mul(127.5).permute(1, 2, 0).numpy()
    assert np.median(np.abs(levels - expected(network))) < 2  # rounding may choose another code somewhere


def test_the_dialects_are_those_of_the_guide():
    page = (ROOT / 'docs' / 'integrations.md').read_text(encoding='utf-8')
    assert set(DIALECTS) - {'plain'} <= set(re.findall(r'`--dialect (\w+)`', page))
