"""Measurements of the embedded model: ways to run it, and how far single convolutions of its shapes get.

CPU time on one thread, in turns, so that other work on the machine disturbs little.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from basicsr.archs.vqgan_arch import Upsample
from basicsr.inference import FaceRestorer
from basicsr.utils.memory import give_back_freed_memory
from experiments.benchmarks.cases import Row, Setup, W, rate

Way = Callable[[], Tensor]


def cpu_times(repeats: int, ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """CPU seconds of each way, in turns, after one of each."""
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            times[name].append(time.process_time() - begin)
    return times


def as_before(network: nn.Module) -> nn.Module:
    """Return a copy that gives memory back before each enlargement, and sums the taps of each anew."""
    copied = copy.deepcopy(network)
    for layer in copied.modules():
        if isinstance(layer, Upsample):
            layer.kept = None
            layer.register_forward_pre_hook(lambda *_: give_back_freed_memory())
    copied.register_forward_hook(lambda *_: give_back_freed_memory())
    return copied


def packed(network: nn.Module) -> nn.Module:
    """Return a copy whose convolutions have their weights in oneDNN's layout beforehand."""

    def forward_of(conv: Any) -> Callable[[Tensor], Tensor]:
        weights: dict[tuple[int, ...], Tensor] = {}
        settings = conv.padding, conv.stride, conv.dilation, conv.groups

        def forward(x: Tensor) -> Tensor:
            shape = tuple(x.shape)
            if shape not in weights:
                weight = conv.weight.detach().clone()
                weights[shape] = torch.ops.mkldnn._reorder_convolution_weight(weight, *settings, shape)
            return torch.ops.mkldnn._convolution_pointwise(x, weights[shape], conv.bias, *settings, 'none', [], '')

        return forward

    copied = copy.deepcopy(network)
    for layer in copied.modules():
        if isinstance(layer, nn.Conv2d):
            setattr(layer, 'forward', forward_of(layer))  # noqa: B010 - a method, to type checkers
    return copied


class _AtW(nn.Module):
    """The network at a fixed weight, for the tracer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Faces to images."""
        return self.network(x, w=W, adain=True)[0]


def ways_to_run(network: nn.Module, face: Tensor) -> dict[str, tuple[int, Way]]:
    """Name of a way to how many faces it restores, and it; the first is how the model runs."""

    def plain(of: nn.Module, x: Tensor) -> Way:
        return lambda: of(x, w=W, adain=True)[0]

    def inference() -> Tensor:
        with torch.inference_mode():
            return network(face, w=W, adain=True)[0]

    def flushed() -> Tensor:
        torch.set_flush_denormal(True)
        try:
            return network(face, w=W, adain=True)[0]
        finally:
            torch.set_flush_denormal(False)

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # tracing is deprecated, and notes every branch
        traced: Any = torch.jit.trace(_AtW(copy.deepcopy(network)), face, check_trace=False)
        frozen = torch.jit.freeze(traced.eval())
        optimized = torch.jit.optimize_for_inference(frozen)
    plane = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    return {
        'as it is': (1, plain(network, face)),
        'memory given back, taps summed each time (before)': (1, plain(as_before(network), face)),
        'inference_mode': (1, inference),
        'NCHW': (1, plain(plane, face)),
        'denormal numbers flushed': (1, flushed),
        'batch of 2': (2, plain(network, face.repeat(2, 1, 1, 1))),
        'batch of 4': (4, plain(network, face.repeat(4, 1, 1, 1))),
        'batch of 8': (8, plain(network, face.repeat(8, 1, 1, 1))),
        'weights of convolutions packed': (1, plain(packed(network), face)),
        'traced and frozen (TorchScript)': (1, lambda: frozen(face)),
        'the same, optimize_for_inference': (1, lambda: optimized(face)),
    }


@torch.no_grad()
def embedded(setup: Setup) -> list[Row]:
    """Ways to run the embedded model, and the matrix product as a yardstick."""
    torch.set_num_threads(1)
    restorer = FaceRestorer(setup.small_model, 'cpu')
    face = torch.rand(1, 3, restorer.size, restorer.size) * 2 - 1
    network = cast(nn.Module, restorer.network)
    ways = ways_to_run(network, face)
    matrix = torch.rand(setup.matmul // 4, setup.matmul // 4)
    exact = next(iter(ways.values()))[1]()
    times = cpu_times(
        setup.repeats, {'product': lambda: matrix @ matrix, **{name: way for name, (_, way) in ways.items()}}
    )
    rows, base = [], times['as it is']
    for name, (count, way) in ways.items():
        mine = [one / count for one in times[name]]
        ratio = min(mine) / min(base), median(mine) / median(base)
        difference = float((way()[:1] - exact).abs().max())
        rows += [
            Row('embedded', name, 'CPU time of a face', 1000 * min(mine), 1000 * median(mine), 'ms'),
            Row('embedded', name, 'of the time as it is', *ratio, 'x', f'largest difference {difference:.1g}'),
        ]
    product = rate(2 * len(matrix) ** 3 / 1e9, times['product'])
    with FlopCounterMode(display=False) as counter:
        restorer.network(face, w=W, adain=True)
    speed = rate(counter.get_total_flops() / 1e9, base)
    share = speed[0] / product[0], speed[1] / product[1]
    return [
        *rows,
        Row('embedded', 'as it is', 'rate', *speed, 'GFLOP/s'),
        Row('embedded', f'product of {len(matrix)} matrices', 'rate', *product, 'GFLOP/s'),
        Row('embedded', 'as it is', 'share of the product', *share, ''),
    ]


@torch.no_grad()
def convolutions(setup: Setup) -> list[Row]:
    """Each convolution of the embedded model by itself, and all that is not convolution."""
    torch.set_num_threads(1)
    restorer = FaceRestorer(setup.small_model, 'cpu')
    face = torch.rand(1, 3, restorer.size, restorer.size) * 2 - 1
    found: dict[tuple[int, ...], list[nn.Conv2d]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        conv: Any = layer
        key = (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], inputs[0].shape[-1])
        found.setdefault(key, []).append(conv)

    handles = [
        m.register_forward_pre_hook(note)
        for m in cast(nn.Module, restorer.network).modules()
        if isinstance(m, nn.Conv2d)
    ]
    restorer.network(face, w=W, adain=True)
    for handle in handles:
        handle.remove()
    matrix = torch.rand(setup.matmul // 4, setup.matmul // 4)
    ways: dict[str, Callable[[], object]] = {
        'network': lambda: restorer.network(face, w=W, adain=True),
        'product': lambda: matrix @ matrix,
    }
    work = {}
    for (few, many, kernel, stride, side), alike in found.items():
        name = f'{few} to {many}, {kernel}x{kernel}, stride {stride}, side {side}'
        x = torch.rand(1, few, side, side).to(memory_format=torch.channels_last)
        ways[name] = lambda layer=alike[0], x=x: layer(x)
        work[name] = (len(alike), 2 * few * many * kernel**2 * (side // stride) ** 2 / 1e9)
    times = cpu_times(2 * setup.repeats, ways)
    product = rate(2 * len(matrix) ** 3 / 1e9, times['product'])
    order = sorted(work, key=lambda name: -work[name][0] * min(times[name]))
    rows = []
    for name in order[:8]:
        count, gflop = work[name]
        speed = rate(gflop, times[name])
        ratio = speed[0] / product[0], speed[1] / product[1]
        note_ = f'{count} of them, {1000 * count * min(times[name]):.1f} ms'
        rows.append(Row('convolutions', name, 'share of the product', *ratio, '', note_))
    best, middle = (sum(work[name][0] * of(times[name]) for name in work) for of in (min, median))
    total = sum(count * gflop for count, gflop in work.values())
    whole = min(times['network']), median(times['network'])
    return [
        *rows,
        Row('convolutions', 'all, one by one', 'CPU time', 1000 * best, 1000 * middle, 'ms'),
        Row(
            'convolutions',
            'all, one by one',
            'share of the product',
            total / best / product[0],
            total / middle / product[1],
            '',
        ),
        Row('convolutions', 'all, one by one', 'of the time of the network', best / whole[0], middle / whole[1], ''),
    ]
