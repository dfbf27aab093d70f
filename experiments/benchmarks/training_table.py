"""Measurements of training: throughput and memory by option, and how it scales to two processes.

python scripts/benchmark.py --only options,processes
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import default_collate

from basicsr.cli.arguments import ArgumentParser
from basicsr.data import build_dataset
from basicsr.models import base_model, build_model
from basicsr.recognition.mobilefacenet import MobileFaceNet
from basicsr.utils import dist
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.numerics import computes_bf16
from experiments.benchmarks.cases import ROOT, Row, Setup, small_options
from experiments.benchmarks.memory import LiveStorage

PLAIN, LIKENESS = 'CodeFormer_128_stage2', 'ID_CodeFormer_128_stage2'
FP32: Mapping[str, object] = {'train:precision': 'fp32'}


def variants(setup: Setup, faces: int) -> list[tuple[str, str, dict[str, object], int]]:
    """Name, option file, changes and batches an iteration of the rows of the table; the first is the baseline."""
    recognizer = setup.folder / 'recognizer.pth'
    save_atomic(MobileFaceNet().state_dict(), recognizer)
    size, half = 'datasets:train:batch_size_per_gpu', faces // 2

    def likeness(count: int) -> dict[str, object]:
        return {size: faces, 'train:identity_opt:weights': recognizer, 'train:identity_opt:sub_batch': count}

    rows: list[tuple[str, str, dict[str, object], int]] = [
        (f'batch {faces}', PLAIN, {size: faces}, 1),
        (f'batch {half}', PLAIN, {size: half}, 1),
        (f'batch {half}, accumulate 2', PLAIN, {size: half, 'train:accumulate': 2}, 2),
        (f'batch {faces}, grad_checkpointing', PLAIN, {size: faces, 'train:grad_checkpointing': True}, 1),
        (f'batch {faces}, identity loss on all', LIKENESS, likeness(faces), 1),
        (f'batch {faces}, identity loss, sub_batch {half}', LIKENESS, likeness(half), 1),
        (
            f'batch {faces}, identity loss, sub_batch {half}, grad_checkpointing',
            LIKENESS,
            {**likeness(half), 'train:grad_checkpointing': True},
            1,
        ),
    ]
    if computes_bf16('cpu'):
        rows.append((f'batch {faces}, bf16', PLAIN, {size: faces, 'train:precision': 'bf16'}, 1))
    return rows


def build(setup: Setup, name: str, changes: Mapping[str, object]) -> tuple[Any, dict[str, Any]]:
    """Return the model of an option file with changes, and a batch of its data."""
    options = small_options(setup, name, {**FP32, **changes})
    section = options['datasets']['train']
    data = build_dataset(section)
    batch = default_collate([data[index] for index in range(section['batch_size_per_gpu'])])
    return build_model(options, 'cpu'), batch


def options(setup: Setup) -> list[Row]:
    """Faces a CPU second and memory of a stage II iteration, by option."""
    faces, rows, base = 2 if setup.is_tiny else 8, [], 0.0
    for case, name, changes, batches in variants(setup, faces):
        model, batch = build(setup, name, changes)
        counter, iterations = LiveStorage(), itertools.count(1)
        with counter:  # weights that are there already are added below
            model.optimize_parameters([batch] * batches, next(iterations))
        held = sum(p.numel() * p.element_size() for p in model.net_g.parameters()) / 1e9
        times = []
        for _ in range(max(1, setup.repeats // 2)):
            begin = time.process_time()
            model.optimize_parameters([batch] * batches, next(iterations))
            times.append((time.process_time() - begin) / (batches * len(batch['gt'])))
        base = base or min(times)
        rows += [
            Row('options', case, 'faces a CPU second', 1 / min(times), 1 / median(times), '1/s'),
            Row('options', case, 'of the time of the first row', min(times) / base, median(times) / base, 'x'),
            Row('options', case, 'memory at the peak', counter.peak / 1e9 + held, counter.peak / 1e9 + held, 'GB'),
        ]
    if not computes_bf16('cpu'):
        nan = float('nan')
        rows.append(Row('options', f'batch {faces}, bf16', 'not run', nan, nan, '', 'this processor has no bf16'))
    return rows


def processes(setup: Setup) -> list[Row]:
    """Time iterations of one and of two gloo processes, each with its own batch and thread."""
    found: dict[int, dict[str, float]] = {}
    for count in (1, 2):
        out = setup.folder / f'{count}_processes.json'
        command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={count}']
        command += ['-m', 'experiments.benchmarks.training_table', '--folder', str(setup.folder), '--out', str(out)]
        command += ['--faces', '1' if setup.is_tiny else '4', '--repeats', str(setup.repeats)]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment)
        found[count] = json.loads(out.read_text(encoding='utf-8'))
    gain, in_cpu = (2 * found[1][name] / found[2][name] for name in ('seconds', 'cpu'))
    share = found[2]['averaging'] / found[2]['cpu']
    return [
        *(
            Row('processes', f'{count} of gloo', f'{kind} time of an iteration', 1000 * one[key], 1000 * one[key], 'ms')
            for count, one in found.items()
            for kind, key in (('wall', 'seconds'), ('CPU', 'cpu'))
        ),
        Row('processes', '2 of gloo', 'faces a second, to 1 process', gain, gain, 'x', 'wall'),
        Row('processes', '2 of gloo', 'faces a CPU second of each, to 1 process', in_cpu, in_cpu, 'x'),
        Row('processes', '2 of gloo', 'averaging of gradients, of the CPU time', share, share, ''),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one process of `processes`, which torchrun starts."""
    parser = ArgumentParser(description='Time iterations of a process among others.')
    parser.add_argument('--folder', type=Path, required=True, help='with the faces of the benchmark')
    parser.add_argument('--out', type=Path, required=True, help='file for the times of rank 0')
    parser.add_argument('--faces', type=int, default=4)
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    dist.join(cuda=False)
    folder = args.folder / f'rank{dist.get_rank()}'
    (folder / 'faces').parent.mkdir(exist_ok=True)
    if not (folder / 'faces').exists():
        (folder / 'faces').symlink_to(args.folder / 'faces')
    model, batch = build(Setup(folder), PLAIN, {'datasets:train:batch_size_per_gpu': args.faces})
    spent, average = [0.0], base_model.average_gradients

    def timed(parameters: Any) -> None:
        begin = time.process_time()
        average(parameters)
        spent[0] += time.process_time() - begin

    base_model.average_gradients = timed
    turns = []
    for iteration in range(1, args.repeats + 2):
        spent[0], begin, cpu = 0.0, time.perf_counter(), time.process_time()
        model.optimize_parameters([batch], iteration)
        turns.append((time.perf_counter() - begin, time.process_time() - cpu, spent[0]))
    best = (min(times) for times in zip(*turns[1:], strict=True))  # the first warms up
    if dist.get_rank() == 0:
        args.out.write_text(json.dumps(dict(zip(('seconds', 'cpu', 'averaging'), best, strict=True))), encoding='utf-8')
    dist.leave()
    return 0


if __name__ == '__main__':
    sys.exit(main())
