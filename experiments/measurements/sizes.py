"""Measure from what size on restoring a clean face harms it: faces reduced, and restored or not, as a Markdown table.

    python scripts/measure_sizes.py --input datasets/faces --output results/sizes --limit 19 \
        --judge weights/arcface/mobilefacenet_casia128.pth

Each face is reduced by area, and enlarged by bicubic interpolation as it is, and after its restoration, whether or not
inference would leave it alone. Both are judged against the face itself at that size. OUTPUT has all pictures, and the
report of the evaluation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from basicsr.cli.arguments import ArgumentParser
from basicsr.inference import FaceRestorer
from basicsr.metrics import METRICS
from basicsr.metrics.builders import Settings
from basicsr.metrics.evaluation import evaluate
from basicsr.metrics.pictures import Folder
from basicsr.metrics.report import write_report
from basicsr.utils.files import at_even_steps
from basicsr.utils.image import imread, imwrite, resized

KINDS = ('as_it_is', 'restored')
METRIC_NAMES = ('ids', 'psnr', 'niqe')


def make_pictures(
    faces: Folder, names: Sequence[str], out: Path, sizes: Sequence[int], at: int, network: FaceRestorer
) -> None:
    """Write OUT/gt, and OUT/SIZE_as_it_is and OUT/SIZE_restored of each size, all of `at` pixels a side."""
    for name in names:
        face = imread(faces.files[name])
        imwrite(out / 'gt' / f'{name}.png', resized(face, at, at))
        for size in sizes:
            small = resized(face, size, size)
            for kind, shown in zip(KINDS, (small, network.restore(small)[0]), strict=True):
                imwrite(out / f'{size}_{kind}' / f'{name}.png', resized(shown, at, at))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Measure what restoring does to clean faces of several sizes.')
    parser.add_argument('--input', type=Path, required=True, help='clean aligned faces')
    parser.add_argument('--output', type=Path, required=True, help='folder of the pictures and the report')
    parser.add_argument('--judge', help='weights of a recognizer, for the identity')
    parser.add_argument('--niqe', help='weights of the NIQE')
    parser.add_argument('--sizes', type=int, nargs='+', default=[48, 64, 96, 128], help='pixels a side')
    parser.add_argument('--at', type=int, default=256, help='pixels a side at which they are judged')
    parser.add_argument('--model', default='small', help='auto, official, small, or a file')
    parser.add_argument('--limit', type=int, default=sys.maxsize, help='so many faces, at even steps')
    parser.add_argument('--device', default='auto')
    args = parser.parse_args(argv)
    if min(args.limit, args.at, *args.sizes) < 1:
        parser.error('--limit, --at and --sizes must be 1 or more')
    try:
        if args.output.exists() and any(args.output.iterdir()):
            raise ValueError(f'--output {args.output}: not empty; choose another folder, or remove it')
        network = FaceRestorer(args.model, args.device)
        faces = Folder.scan(args.input, '--input')
        make_pictures(faces, at_even_steps(list(faces.files), args.limit), args.output, args.sizes, args.at, network)
        folders = [args.output / f'{size}_{kind}' for kind in KINDS for size in args.sizes]
        settings = Settings(torch.device(network.device), args.judge, {'niqe': args.niqe} if args.niqe else {})
        evaluation = evaluate(folders, {'gt': args.output / 'gt'}, METRIC_NAMES, settings)
        content = write_report(args.output, evaluation)
    except (OSError, ValueError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for metric, reason in evaluation.not_run.items():
        print(f'note: {METRICS[metric].name} not run: {reason}', file=sys.stderr)
    names = evaluation.metrics()
    print(f'| {", ".join(METRICS[name].name for name in names)} | ' + ' | '.join(map(str, args.sizes)) + ' |')
    print('|---|' + '---|' * len(args.sizes))
    for kind in KINDS:
        runs = [content['runs'][f'{size}_{kind}']['metrics'] for size in args.sizes]
        cells = [', '.join(f'{run[name]["mean"]:.3f}' for name in names) for run in runs]
        print(f'| {kind.replace("_", " ")} | ' + ' | '.join(cells) + ' |')
    for problem in evaluation.problems:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if evaluation.problems else 0
