"""Measurements of many and of large files: time and memory by number, and what a second run finds on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.data import astronaut

from basicsr.archs import build_network
from basicsr.faces.detection import build_detector
from basicsr.inference.reference_cache import ReferenceCache, Seen
from basicsr.inference.references import ReferenceReader
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.mobilefacenet import MobileFaceNet
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.image import imwrite
from experiments.benchmarks.cases import ROOT, TINY, Row, Setup

RUN = """
import json, sys, time
from importlib import import_module
from basicsr.inference import report, resume
from basicsr.utils.memory import peak_memory
writings, write = [], resume.write_summary
resume.write_summary = lambda *args: (writings.append(1), write(*args))
code = import_module(sys.argv[1]).main(sys.argv[2:])
print(json.dumps({'code': code, 'cpu': time.process_time(), 'peak': peak_memory() / 1e9, 'writings': len(writings)}))
"""
FEW_AND_MANY = {False: (500, 2000), True: (2, 4)}  # by `Setup.is_tiny`


def run_command(module: str, *arguments: object) -> dict[str, float]:
    """Run a command in a fresh process.

    Args:
        module: of the command.
        arguments: of it.

    Returns:
        Its exit code, CPU seconds, most memory in GB, and how often it wrote a summary.

    Raises:
        RuntimeError: its exit code is not 0.
    """
    command = [sys.executable, '-c', RUN, module, *map(str, arguments)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    result = json.loads(done.stdout.splitlines()[-1])
    if result['code']:
        raise RuntimeError(f'{module}: exit code {result["code"]}: {done.stderr[-200:]}')
    return result


def small_faces(folder: Path, count: int) -> Path:
    """Write `count` pictures of 64 pixels."""
    rng = np.random.default_rng(0)
    for number in range(count):
        y, x = rng.integers(0, 60, 2)
        imwrite(folder / f'{number:05d}.png', astronaut()[y : y + 64, 180 + x : 244 + x])
    return folder


def by_number(measurement: str, runs: Sequence[tuple[int, dict[str, float]]]) -> list[Row]:
    """Return the rows of one, few and many files: time of a file, and growth of the memory."""
    (_, start), *others = runs
    rows, costs = [], []
    for count, run in others:
        costs.append(1000 * (run['cpu'] - start['cpu']) / (count - 1))
        case = f'{count} files'
        rows += [
            Row(
                measurement, case, 'CPU time of a file', costs[-1], costs[-1], 'ms', 'without the start of the command'
            ),
            Row(measurement, case, 'peak', run['peak'], run['peak'], 'GB'),
        ]
        if run['writings']:
            rows.append(Row(measurement, case, 'summary written', run['writings'], run['writings'], 'times'))
    (few, first), (many, last) = others
    ratio, growth = costs[1] / costs[0], 1e6 * (last['peak'] - first['peak']) / (many - few)
    return [
        *rows,
        Row(measurement, f'{many} to {few} files', 'of the time of a file', ratio, ratio, 'x'),
        Row(measurement, f'{many} to {few} files', 'memory of a further file', growth, growth, 'kB'),
    ]


def files(setup: Setup) -> list[Row]:
    """Return the time and memory of a folder of aligned faces, with a tiny network."""
    model, runs = setup.folder / 'tiny.pth', []
    save_atomic({'params': build_network(TINY).state_dict(), 'network': TINY}, model)
    for count in (1, *FEW_AND_MANY[setup.is_tiny]):
        source, out = small_faces(setup.folder / f'in_{count}', count), setup.folder / f'out_{count}'
        flags = ('--has_aligned', '--force', '--device', 'cpu', '--model', model)
        runs.append((count, run_command('basicsr.cli.restore', '-i', source, '-o', out, *flags)))
    return by_number('files', runs)


def pairs(setup: Setup) -> list[Row]:
    """Return the time and memory of `evaluate` on pairs of small pictures."""
    runs = []
    for count in (2, *FEW_AND_MANY[setup.is_tiny]):
        folder = small_faces(setup.folder / f'pairs_{count}', count)
        truth = small_faces(setup.folder / f'truths_{count}', count)
        arguments = ('--restored', folder, '--gt', truth, '--metrics', 'psnr,ssim', '-o', setup.folder / 'judged')
        runs.append((count, run_command('basicsr.cli.evaluate', *arguments)))
    return by_number('pairs', runs)


def references(setup: Setup) -> list[Row]:
    """Return the time of a photograph of `--ref` at the first start, and at the second."""
    people, photos, kept = (2, 2, 8) if setup.is_tiny else (4, 10, 2000)
    weights = setup.folder / 'recognizer.pth'
    save_atomic(MobileFaceNet().state_dict(), weights)
    embedder = FaceEmbedder(weights)
    cache = ReferenceCache('benchmark', setup.folder / 'cache')
    read = ReferenceReader(build_detector(), embedder, cache=cache)
    for number in range(people * photos):
        moved = np.roll(astronaut(), number % photos, axis=1)
        imwrite(setup.folder / 'people' / f'{number // photos}' / f'{number}.png', moved)
    first = _cpu_ms(read, setup.folder / 'people', people * photos)
    vector = embedder(torch.rand(1, 3, 128, 128))[0]
    for number in range(kept):
        path = setup.folder / 'many' / f'{number // 10}' / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'looked at before')
        cache.write(path, Seen(vector))
    again = _cpu_ms(read, setup.folder / 'many', kept)
    size = sum(file.stat().st_size for file in cache.folder.rglob('*.safetensors')) / (kept + people * photos) / 1e3
    return [
        Row(
            'references', 'first start', 'CPU time of a photograph', first, first, 'ms', f'{people} x {photos}, 512x512'
        ),
        Row('references', 'second start', 'CPU time of a photograph', again, again, 'ms', f'{kept // 10} x 10'),
        Row('references', 'on disk', 'a photograph', size, size, 'kB'),
    ]


def _cpu_ms(read: ReferenceReader, folder: Path, photos: int) -> float:
    """CPU milliseconds a photograph of reading a folder of people."""
    begin = time.process_time()
    read([folder])
    return 1000 * (time.process_time() - begin) / photos


def large(setup: Setup) -> list[Row]:
    """Return the most memory of a command that restores a large picture with a face."""
    megapixels = 1.0 if setup.is_tiny else 64.0
    side = round((megapixels * 1e6) ** 0.5)
    soft = cv2.GaussianBlur(cv2.resize(astronaut(), (512, 512)), (0, 0), 2)
    picture = cv2.resize(cv2.GaussianBlur(soft, (0, 0), 60), (side, side))
    inset = cv2.resize(soft, (side // 4, side // 4), interpolation=cv2.INTER_CUBIC)
    picture[side // 8 : side // 8 + len(inset), side // 8 : side // 8 + len(inset)] = inset
    path, rows = setup.folder / 'large.jpg', []
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    del picture
    for upscale in (1,) if setup.is_tiny else (1, 2):
        flags = ('--upscale', upscale, '--max_megapixels', 300, '--force', '--device', 'cpu', '--model', 'small')
        run = run_command('basicsr.cli.restore', '-i', path, '-o', setup.folder / f'large_{upscale}', *flags)
        case = f'{megapixels:g} megapixels, enlarged {upscale} times'
        rows += [
            Row('large', case, 'peak', run['peak'], run['peak'], 'GB'),
            Row('large', case, 'CPU time', run['cpu'], run['cpu'], 's'),
        ]
    return rows


def shards(setup: Setup) -> list[Row]:
    """Return the times of a folder in one process, in two shards one after the other, and in two at once."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    if len(cores) < 2:
        return [
            Row('shards', '2 shards in turn', 'not run', float('nan'), float('nan'), '', 'needs Linux and two cores')
        ]
    count, folder = (2 if setup.is_tiny else 200), setup.folder / 'sharded'
    for number in range(count):
        imwrite(folder / f'{number:03d}.png', np.roll(astronaut()[:192, 128:320], number, axis=1))
    first, second = cores[:2]
    alone, at_once = _sharded(setup, (first, '1/1')), _sharded(setup, (first, '1/2'), (second, '2/2'))
    in_turn = [max(times) for times in zip(*(_sharded(setup, (first, part)) for part in ('1/2', '2/2')), strict=True)]
    rows = [
        Row('shards', '1 process', kind, value, value, 's', f'{count} faces')
        for kind, value in zip(('wall time', 'CPU time'), alone, strict=True)
    ]
    for case, times in {'2 shards in turn': in_turn, '2 shards at once': at_once}.items():
        for kind, whole, value in zip(('wall time', 'CPU time'), alone, times, strict=True):
            rows += [
                Row('shards', case, kind, value, value, 's', 'of the slower one'),
                Row('shards', case, f'of the {kind} of one process', value / whole, value / whole, 'x'),
            ]
    return rows


def _sharded(setup: Setup, *parts: tuple[int, str]) -> tuple[float, float]:
    """Start a command for each core and shard; return wall and CPU seconds of the slowest."""
    out, jobs, begin = setup.folder / f'results_{len(parts)}', [], time.perf_counter()
    for core, shard in parts:
        command = ['taskset', '-c', str(core), sys.executable, str(ROOT / 'inference_codeformer.py')]
        command += ['-i', str(setup.folder / 'sharded'), '-o', str(out), '--has_aligned', '--force', '--device', 'cpu']
        command += ['--model', setup.small_model, '--shard', shard]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment)
        jobs.append(job)
    spent = []
    for job in jobs:
        _, status, usage = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
        spent.append(usage.ru_utime + usage.ru_stime)
    if any(job.returncode for job in jobs):
        raise RuntimeError('a shard failed')
    return time.perf_counter() - begin, max(spent)
