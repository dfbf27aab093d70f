"""Small recognizers with drawn weights, as files, and faces to look at."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from basicsr.recognition.iresnet import IResNet
from basicsr.utils.checkpoint import save_atomic

TINY = {'blocks': (1, 1, 1, 1), 'widths': (4, 4, 8, 8), 'embedding': 16}


def randomise(network: nn.Module, seed: int = 3) -> nn.Module:
    """Weights and norm statistics drawn so that nothing is at its trivial value."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith('running_var') or (value.ndim == 1 and name.endswith('weight')):
                value.copy_(1 + 0.1 * noise.clamp(-3, 3))
            else:
                value.copy_(noise / max(1, value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1 * noise)
    return network.eval()


def save_tiny(path: Path, seed: int = 3) -> Path:
    """Return an IResNet of four blocks and 16 numbers."""
    save_atomic(randomise(IResNet(**TINY), seed).state_dict(), path)
    return path


def save_onnx(
    path: Path,
    batch: int | str = 1,
    size: tuple[int, int] = (112, 112),
    embedding: int = 64,
    normalises: bool = False,
    shape: tuple[int, ...] | str = (1, -1),
) -> Path:
    """Return a recognition graph of convolution, norm, PReLU, reshape and Gemm, as exporters write it.

    Args:
        path: where to.
        batch: of the input, a number or a name.
        size: of the input.
        embedding: numbers in the output.
        normalises: begin with Sub and Mul on the pixels, as MXNet's models do.
        shape: that the reshape flattens to; `dynamic` computes it from the input.
    """
    generator = torch.Generator().manual_seed(4)
    draw = lambda *sides: torch.randn(*sides, generator=generator) * 0.3  # noqa: E731
    width, flat = 6, 6 * (size[0] // 16) * (size[1] // 16)
    weights = {
        'kernel': draw(width, 3, 16, 16) * 0.1, 'bias': draw(width), 'scale': 1 + draw(width), 'shift': draw(width),
        'mean': draw(width), 'var': draw(width).square() + 0.5, 'slope': draw(width, 1, 1),
        'matrix': draw(embedding, flat), 'offset': draw(embedding),
    }  # fmt: skip
    node = helper.make_node
    nodes, pixels = [], 'pixels'
    if normalises:
        weights |= {'half': torch.tensor(127.5), 'factor': torch.tensor(1 / 127.5)}
        nodes += [node('Sub', ['pixels', 'half'], ['centred']), node('Mul', ['centred', 'factor'], ['scaled'])]
        pixels = 'scaled'
    nodes += [
        node('Conv', [pixels, 'kernel', 'bias'], ['a'], kernel_shape=[16, 16], strides=[16, 16]),
        node('BatchNormalization', ['a', 'scale', 'shift', 'mean', 'var'], ['b']),
        node('PRelu', ['b', 'slope'], ['c']),
    ]
    if shape == 'dynamic':
        weights |= {'zero': torch.tensor(0), 'rest': torch.tensor([-1])}
        nodes += [
            node('Shape', ['c'], ['sides']),
            node('Gather', ['sides', 'zero'], ['first']),
            node('Unsqueeze', ['first'], ['one'], axes=[0]),
            node('Concat', ['one', 'rest'], ['shape'], axis=0),
        ]
    else:
        weights['shape'] = torch.tensor(shape)
    nodes += [
        node('Reshape', ['c', 'shape'], ['d']),
        node('Gemm', ['d', 'matrix', 'offset'], ['embedding'], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        'recognizer',
        [helper.make_tensor_value_info('pixels', TensorProto.FLOAT, [batch, 3, *size])],
        [helper.make_tensor_value_info('embedding', TensorProto.FLOAT, [batch, embedding])],
        [numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 11)], ir_version=7)
    onnx.save(model, str(path))
    return path


def smooth_faces(count: int = 2, side: int = 96, seed: int = 0) -> Tensor:
    """Smooth pictures (N,3,side,side) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator) * 2 - 1
    return nn.functional.interpolate(coarse, size=(side, side), mode='bicubic').clamp(-1, 1)
