"""Compare the embedded model in bf16 with fp32: time of a face, share of the matrix product, and levels apart.

    python -m experiments.benchmarks.bf16 --input official/lq --faces faces/val

Ways run in turns, face by face; times are those of `FaceRestorer.restore`, and `of fp32` compares CPU times. Faces of
--faces are damaged, mildly and severely in turns. `mixed` predicts the codes in fp32; `convolutions` has those of the
generator and the fusion alone in bf16, and all between in fp32.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from basicsr.archs import CodeFormer
from basicsr.archs.vqgan_arch import Upsample
from basicsr.cli.arguments import ArgumentParser
from basicsr.inference import FaceRestorer
from basicsr.utils.image import imread, scan_images
from basicsr.utils.memory import keep_freed_memory
from experiments.benchmarks.int8 import damaged

BF16 = torch.bfloat16
WIDE = 12  # channels; convolutions to fewer stay in fp32
PRODUCT = 1024  # side of the matrices


def compute_in_bf16(layer: nn.Module) -> None:
    """Let a layer compute in bf16 between float32 neighbours."""
    layer.to(BF16)
    layer.register_forward_pre_hook(lambda _, inputs: tuple(x.to(BF16) for x in inputs))
    layer.register_forward_hook(lambda _module, _inputs, output: output.float())


def convolutions_only() -> FaceRestorer:
    """Return the embedded model with the large convolutions of generator and fusion in bf16."""
    restorer = FaceRestorer('small', 'cpu')
    network = cast(CodeFormer, restorer.network)
    parts: list[nn.Module] = [*network.generator.modules(), *network.fuse_convs_dict.modules()]
    enlarging = [layer for layer in parts if isinstance(layer, Upsample)]
    inner = {id(layer.conv) for layer in enlarging}
    convolutions = [
        layer
        for layer in parts
        if isinstance(layer, nn.Conv2d) and id(layer) not in inner and layer.kernel_size == (3, 3)
    ]
    for layer in [*enlarging, *(layer for layer in convolutions if layer.out_channels > WIDE)]:
        compute_in_bf16(layer)
    for layer in enlarging:
        layer.keep_summed_weight()
    return restorer


WAYS: dict[str, Callable[[], FaceRestorer]] = {
    'fp32': lambda: FaceRestorer('small', 'cpu'),
    'bf16': lambda: FaceRestorer('small', 'cpu', 'bf16'),
    'mixed': lambda: FaceRestorer('small', 'cpu', 'mixed'),
    'convolutions': convolutions_only,
}


def clocked(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result, the CPU time and the wall time in ms."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, 1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)


def compare(faces: Sequence[np.ndarray], w: float) -> list[str]:
    """Return a line of the table for each way."""
    restorers = {name: build() for name, build in WAYS.items()}
    matrices = {kind: torch.rand(PRODUCT, PRODUCT).to(kind) for kind in (torch.float32, BF16)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    products: dict[torch.dtype, list[float]] = {kind: [] for kind in matrices}
    apart: dict[str, list[np.ndarray]] = {name: [] for name in WAYS}
    for number, face in enumerate([faces[0], *faces]):  # the first is not counted
        results = {}
        for name, restorer in restorers.items():
            results[name], *spent = clocked(lambda r=restorer, f=face: r.restore(f, w)[0].astype(int))
            times[name] += [(spent[0], spent[1])] * bool(number)
        for kind, matrix in matrices.items():
            products[kind].append(clocked(lambda m=matrix: m @ m)[1])
        for name, image in results.items():
            apart[name] += [np.abs(image - results['fp32'])] * bool(number)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        restorers['fp32'].network(torch.zeros(1, 3, restorers['fp32'].size, restorers['fp32'].size), w=w, adain=True)
    gflop, lines = counter.get_total_flops() / 1e9, []
    for name in WAYS:
        cpu, wall = (median(column) for column in zip(*times[name], strict=True))
        of_fp32 = median(a[0] / b[0] for a, b in zip(times[name], times['fp32'], strict=True))
        kind = torch.float32 if name == 'fp32' else BF16
        share = (gflop / cpu) / (2 * PRODUCT**3 / 1e9 / median(products[kind]))
        levels, most = np.concatenate([part.ravel() for part in apart[name]]), [part.max() for part in apart[name]]
        within = [100 * float((levels <= limit).mean()) for limit in (1, 2)]
        lines.append(
            f'| {name} | {cpu:.0f} | {wall:.0f} | {of_fp32:.2f} | {share:.2f} | {levels.mean():.2f} | {within[0]:.2f} '
            f'| {within[1]:.3f} | {np.quantile(levels, 0.9999):.0f} | {levels.max()} '
            f'| {sum(one <= 2 for one in most)} of {len(most)} |'
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = ArgumentParser(description='Compare the embedded model in bf16 with fp32.')
    parser.add_argument('--input', type=Path, required=True, help='folder of damaged faces')
    parser.add_argument('--faces', type=Path, help='folder of good faces, which are damaged')
    parser.add_argument('--count', type=int, default=20, help='faces of --faces (default: 20)')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('-w', type=float, default=0.5)
    args = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    faces = [imread(path) for path in scan_images(args.input)]
    faces += damaged(args.faces, args.count, 128)[0] if args.faces else []
    print(f'{len(faces)} faces, w {args.w}, {args.threads} thread(s)')
    print('| way | CPU ms | wall ms | of fp32 | of the product | mean | within 1, % | 2, % | 99.99 % | most | faces |')
    print('|' + '---|' * 11)
    print('\n'.join(compare(faces, args.w)), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
