"""Performance page, made from the figures that scripts/benchmark.py collects."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from basicsr.utils.files import write_text

TEXTS = {
    'forward': (
        'One face through the network at w = 0.8, beside the product of two square matrices of the same precision, '
        'run in turns. The rate of the network counts the work of the published network as it is written down; less '
        'is computed, because the convolution after each enlargement is done at the smaller size. The share is the '
        'quotient of the two rates above it.'
    ),
    'memory': 'The most that a process holds which loads the network and restores one face.',
    'plusplus': (
        'One face through CodeFormer++ and through its prior at w = 0.8, in turns, and the most memory a process holds.'
    ),
    'batch': 'Faces a second when several go through the network at a time.',
    'profile': 'Where the time of the network goes, by operation.',
    'degradation': (
        'Samples of stage III (two damaged copies of a face of 512 pixels, from a PNG file) in one process with one '
        'thread, and the same samples made plainly (`experiments/benchmarks/plain_degradation.py`).'
    ),
    'training': (
        'Iterations of the option files in `options/small`, run in turns, without the time to load their samples. The '
        'recognizer of the identity loss is a MobileFaceNet.'
    ),
    'picture': 'A photo with one face: detection, restoration, enlargement, pasting.',
    'video': 'A clip with one face: decoding, detection, restoration, pasting and encoding, side by side.',
    'embedded': (
        'Ways to run the embedded model (128 pixels in, 256 out, w = 0.8) in turns on one thread, in CPU time. `as it '
        'is` is what commands do.'
    ),
    'convolutions': (
        'The convolutions of the embedded model one by one on one thread: the rate that oneDNN reaches beside that '
        'of a matrix product. The eight that take the most time, and all.'
    ),
    'files': 'A folder of aligned faces of 64 pixels through a tiny network: reading, restoring, writing, the summary.',
    'pairs': '`id-codeformer evaluate` with PSNR and SSIM on pairs of 64 pixels.',
    'references': 'Photographs of `--ref`: looked at and embedded at the first start, found on the disk at the second.',
    'large': 'A large JPEG with a face and the embedded model, to PNG: the whole command.',
    'shards': (
        'A folder of aligned faces of 192 pixels and the embedded model, whole commands, one thread each: one process, '
        'two shards of it one after the other on the same core, which is what two machines would take, and at once on '
        'a core each, where they share caches and memory. The time is that of the slower shard.'
    ),
    'png': 'A noisy photograph of 1024x1024 pixels as PNG.',
    'x264': 'A moving, noisy picture of 2560x1440 pixels as H.264.',
    'waiting': 'A face through the embedded model on all threads, by how long those wait that have nothing to do.',
    'options': (
        'A stage II iteration of `options/small` (128 pixels) by option. Memory is the storage alive at the '
        'peak of an iteration, weights included.'
    ),
    'processes': (
        'Stage II at 128 pixels, 4 faces a process, one thread each. Gradients are averaged by one all-reduce after '
        'the backward pass, so that nothing overlaps; its share is the most that an overlap could gain. CPU time '
        'leaves out waiting, and other work on the machine.'
    ),
    'start': (
        'The whole command `inference_codeformer.py --has_aligned`, files in the cache of the disk, and the import of '
        'PyTorch, which is a part of it.'
    ),
}
TARGETS = {
    ('forward', 'fp32', 'share of the product'): ('at least', 0.80),
    ('forward', 'bf16', 'share of the product'): ('at least', 0.60),
    ('memory', 'fp32', 'peak'): ('at most', 1.6),
    ('plusplus', 'fp32', 'of the time of CodeFormer'): ('at most', 1.6),
    ('plusplus', 'fp32', 'peak'): ('at most', 2.5),
    ('degradation', 'joint, 512', 'of the plain rate'): ('at least', 1.8),
    ('training', 'stage 2, 128, identity loss on 2 of 8', 'of the plain time'): ('at most', 1.6),
    ('video', '512, bf16', 'network busy'): ('at least', 0.9),
    ('embedded', 'as it is', 'share of the product'): ('at least', 0.7),
    ('files', '2000 to 500 files', 'of the time of a file'): ('at most', 1.2),
    ('pairs', '2000 to 500 files', 'of the time of a file'): ('at most', 1.2),
    ('large', '64 megapixels, enlarged 1 times', 'peak'): ('at most', 2.0),
    ('start', 'small model', 'whole command, one face'): ('at most', 1.0),
    ('shards', '2 shards in turn', 'of the CPU time of one process'): ('at most', 0.55),
}


def latest(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Of each measurement the rows of its last run, in the order of `TEXTS`."""
    chosen = []
    for measurement in TEXTS:
        mine = [row for row in rows if row['measurement'] == measurement]
        newest: dict[tuple[str, str], Mapping[str, str]] = {}
        for row in mine:
            if (row['case'], row['figure']) in newest:  # a further run
                newest = {}
            newest[row['case'], row['figure']] = row
        chosen += newest.values()
    return chosen


def verdict(row: Mapping[str, str]) -> str:
    """Return the target of a row and whether its best figure reaches it, or nothing."""
    target = TARGETS.get((row['measurement'], row['case'], row['figure']))
    if target is None:
        return ''
    words, bound = target
    best = float(row['best'])
    reached = best >= bound if words == 'at least' else best <= bound
    return f'{words} {bound:g}: {"reached" if reached else "missed"}'


def number(text: str) -> str:
    """Three significant digits."""
    value = float(text)
    if math.isnan(value) or value == 0:
        return text
    return f'{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}'


def write_page(source: Path, page: Path) -> None:
    """Write the page from a CSV file of `scripts/benchmark.py`."""
    with source.open(newline='', encoding='utf-8') as file:
        rows = latest(list(csv.DictReader(file)))
    lines = [
        '# Performance',
        '',
        'Made by `python scripts/benchmark.py` from `performance.csv`, where the commits are. On the CPU; '
        'networks of the published sizes with random weights, unless a row says otherwise. Each figure is the best of '
        'several, with the median behind it; `load` is the work that was on the machine before.',
    ]
    for measurement, text in TEXTS.items():
        mine = [row for row in rows if row['measurement'] == measurement]
        if not mine:
            continue
        about = mine[0]
        lines += ['', f'## {measurement.capitalize()}', '', text, '']
        lines += [
            f'{about["machine"]}; torch {about["torch"]}; {about["date"]}; load {about["load"] or "unknown"}.',
            '',
        ]
        lines += ['| case | figure | best | median | | target | note |', '|---|---|---|---|---|---|---|']
        for row in mine:
            cells = [row['case'], row['figure'], number(row['best']), number(row['median']), row['unit'], verdict(row)]
            lines.append(f'| {" | ".join([*cells, row["note"]])} |')
    write_text(page, '\n'.join(lines) + '\n')
