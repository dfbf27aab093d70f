"""One graph of the network for every w and any number of faces: compiled, exported, and as ONNX."""

from __future__ import annotations

import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from drawing import fill, image
from small import CODEFORMER, VQGAN

from basicsr.archs import CodeFormer, build_network
from basicsr.cli import export as export_onnx
from basicsr.cli.export import Restoration
from basicsr.utils.checkpoint import save_atomic

WEIGHTS = (0.0, 0.5, 1.0)


@pytest.fixture(scope='module')
def network() -> CodeFormer:
    return fill(build_network(CODEFORMER)).eval()


@pytest.fixture(scope='module')
def checkpoint(network, tmp_path_factory):
    path = tmp_path_factory.mktemp('export') / 'net.pth'
    save_atomic({'params': network.state_dict(), 'network': CODEFORMER}, path)
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


def test_exported_program_takes_any_w_and_any_number_of_faces(network):
    program = export_onnx.trace(Restoration(network))
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
    another = fill(build_network(CODEFORMER), salt=1)
    save_atomic({'params': another.state_dict(), 'network': CODEFORMER}, tmp_path / 'net.pth')
    monkeypatch.setattr(export_onnx, 'export', lambda module, path: shutil.copy(onnx_file, path))
    assert export_onnx.main(['--model', str(tmp_path / 'net.pth'), '--output', str(tmp_path / 'net.onnx')]) == 1
    assert 'do not use the file' in capsys.readouterr().err


def test_what_is_no_codeformer_is_not_exported(tmp_path, capsys):
    save_atomic(build_network(VQGAN).state_dict(), tmp_path / 'vqgan.pth')
    assert export_onnx.main(['--model', str(tmp_path / 'vqgan.pth'), '--output', str(tmp_path / 'x.onnx')]) == 2
    assert 'not a CodeFormer' in capsys.readouterr().err
    assert not (tmp_path / 'x.onnx').exists()
