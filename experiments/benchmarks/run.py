"""Measure how fast the project is on this machine, on the CPU, and write performance.md from the figures.

    python scripts/benchmark.py
    python scripts/benchmark.py --only forward,memory
    python scripts/benchmark.py --only none        # the page again, from the figures that are there

Each measurement runs in a process of its own and adds rows to performance.csv, beside this file. Networks are those of
the published sizes with random weights, unless a row says otherwise.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import multiprocessing
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from basicsr.cli.arguments import ArgumentParser
from basicsr.utils.files import replacing
from basicsr.utils.logger import environment
from basicsr.utils.memory import keep_freed_memory
from experiments.benchmarks import cases, choices, embedded, many_files, training_table
from experiments.benchmarks.cases import TINY, Row, Setup
from experiments.benchmarks.page import write_page

HERE = Path(__file__).resolve().parent

T = TypeVar('T')
MEASUREMENTS: dict[str, Callable[[Setup], list[Row]]] = {
    **cases.MEASUREMENTS,
    **{
        work.__name__: work
        for work in (
            embedded.embedded,
            embedded.convolutions,
            many_files.files,
            many_files.pairs,
            many_files.references,
            many_files.large,
            many_files.shards,
            choices.png,
            choices.x264,
            choices.waiting,
            training_table.options,
            training_table.processes,
        )
    },
}
FIXED = ('load', 'commit', 'torch', 'machine', 'date')


def alone(work: Callable[..., T], *args: Any) -> T:
    """`work(*args)` in a fresh process, which keeps freed memory as the commands do."""
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context, initializer=keep_freed_memory) as pool:
        return pool.submit(work, *args).result()


def machine() -> str:
    """Return the processor and how many cores of it there are."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.machine())
    amx = ', AMX' if any('amx_bf16' in line for line in lines if line.startswith('flags')) else ''
    return f'{model}{amx}, {torch.get_num_threads()} threads'


def known() -> dict[str, str]:
    """Return the figures that all rows of a run share."""
    about = environment()
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {'commit': (about['commit'] or 'unknown')[:12], 'torch': about['torch'], 'machine': machine(), 'date': date}


def append_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a CSV file, whole or not at all."""
    old: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(newline='', encoding='utf-8') as file:
            old = list(csv.DictReader(file))
    with replacing(path) as partial, partial.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, [*(one.name for one in fields(Row)), *FIXED])
        writer.writeheader()
        writer.writerows([*old, *rows])


def names(text: str) -> list[str]:
    """Return the value of --only."""
    chosen = [] if text == 'none' else text.split(',')
    for name in chosen:
        if name not in MEASUREMENTS:
            raise argparse.ArgumentTypeError(f"no measurement '{name}'; there are {', '.join(MEASUREMENTS)}, or none")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, 1 if a measurement failed."""
    parser = ArgumentParser(description='Measure how fast the project is here, on the CPU.')
    parser.add_argument('--only', type=names, default=list(MEASUREMENTS), help=f'some of {",".join(MEASUREMENTS)}')
    parser.add_argument('--csv', type=Path, default=HERE / 'performance.csv')
    parser.add_argument('--page', type=Path, default=HERE / 'performance.md')
    parser.add_argument('--repeats', type=int, default=5, help='of each timing (default: 5)')
    parser.add_argument('--tiny', action='store_true', help='try the script: sizes whose figures mean nothing')
    args = parser.parse_args(argv)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(Path(folder), repeats=args.repeats)
        if args.tiny:
            setup = Setup(Path(folder), TINY, 2, 64, (1, 2), 4, (('tiny', '', 'fp32'),))
        if args.only:
            setup.prepare()
        for name in args.only:
            load = f'{os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else ''
            try:
                rows = alone(MEASUREMENTS[name], setup)
            except (OSError, RuntimeError, ValueError, KeyError, subprocess.CalledProcessError) as error:
                failed = True
                rows = [Row(name, '', 'failed', float('nan'), float('nan'), '', ' '.join(str(error).split())[:200])]
            append_rows(args.csv, [{**asdict(row), 'load': load, **known()} for row in rows])
            for row in rows:
                print(
                    f'{row.measurement:12} {row.case:18} {row.figure:26} {row.best:9.3f} {row.median:9.3f} {row.unit}'
                )
    write_page(args.csv, args.page)
    return int(failed)
