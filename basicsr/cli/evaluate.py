"""Judge restored faces: figures for each picture, a summary, and a report to look at.

    id-codeformer evaluate --restored results/a results/b --gt datasets/val/gt --lq datasets/val/lq \
        --metrics psnr,ssim,niqe,ids --out results/evaluation

Pictures belong together by their path below the folder, without the extension; `<name>_00`, as inference writes the
faces of `<name>`, belongs to `<name>`. Several restored folders are compared
picture by picture, the first being the baseline. Written are OUT/per_image.csv, OUT/summary.json and OUT/report.html.
The exit code is 1 where a file could not be judged or has no partner; every such file is named. It is 2 where nothing
could be judged.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from basicsr.cli.arguments import ArgumentParser
from basicsr.metrics import METRICS
from basicsr.metrics.builders import WITH_WEIGHTS, Settings
from basicsr.metrics.evaluation import evaluate
from basicsr.metrics.pictures import RESIZABLE
from basicsr.metrics.protocol import load_protocol
from basicsr.metrics.report import report_on, write_report
from basicsr.metrics.table import EvaluationError
from basicsr.recognition.registry import SHIPPED
from basicsr.utils.files import user_path
from basicsr.utils.registry import nearest


def weights_of(text: str) -> tuple[str, str]:
    """METRIC=FILE of the command line."""
    metric, equals, path = text.partition('=')
    if not (equals and path):
        raise argparse.ArgumentTypeError(f"'{text}': write METRIC=FILE")
    if metric not in WITH_WEIGHTS:
        raise argparse.ArgumentTypeError(f"no weights for '{metric}'{nearest(metric, WITH_WEIGHTS)}")
    return metric, user_path(path)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    result = ArgumentParser(description='Judge folders of restored faces.')
    result.add_argument('--restored', type=Path, nargs='+', required=True, help='folders; the first is the baseline')
    result.add_argument('--gt', type=Path, help='ground truth')
    result.add_argument('--lq', type=Path, help='low-quality inputs, for ids_lq and the report')
    result.add_argument('--ref', type=Path, help='references: <name>.*, <name>/*, or the photos of the same folder')
    result.add_argument('--metrics', help=f"of {', '.join(METRICS)}; by default the protocol's")
    result.add_argument('--protocol', type=user_path, help='a name of options/eval, or a YAML file')
    result.add_argument(
        '--recognizer',
        type=user_path,
        default=SHIPPED,
        help=f'face recognizer, another than that of the training loss (default: {SHIPPED}, which ships)',
    )
    result.add_argument(
        '--weights', type=weights_of, action='append', default=[], help='METRIC=FILE, for metrics with weights'
    )
    result.add_argument('--fid_statistics', type=Path, help='of the reference set of fid: .npz or .pth (default: FFHQ)')
    result.add_argument(
        '--resize',
        choices=RESIZABLE,
        help='where sizes differ, bring the ground truth or the restored picture to the size of the other, by area or '
        'bicubic (default: such pictures are not judged)',
    )
    result.add_argument('--device', help='cpu, cuda or cuda:1; by default a GPU where there is one')
    result.add_argument('--workers', type=int, default=0, help='processes that read pictures')
    result.add_argument('-o', '--output', '--out', dest='out', type=Path, default=Path('results/evaluation'))
    return result


def device_of(name: str | None) -> torch.device:
    """Return the device of a name.

    Raises:
        EvaluationError: there is none of that name.
    """
    try:
        device = torch.device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EvaluationError(f'--device {name}: {str(error).splitlines()[0]}') from error
    return device


def show(content: Mapping[str, Any]) -> None:
    """Print the means of a summary, and what was not run."""
    for label, run in content['runs'].items():
        print(f'{label}: {run["pictures"]} pictures')
        for metric, row in run['metrics'].items():
            interval = f'  ({row["low"]:.4g} to {row["high"]:.4g})' if 'low' in row else ''
            print(f'  {METRICS[metric].name}: ' + (f'{row["mean"]:.4g}{interval}' if 'mean' in row else 'no value'))
        for metric, reason in run['not_run'].items():
            print(f'  {METRICS[metric].name}: not run: {reason}')
    for metric, reason in content['not_run'].items():
        print(f'{METRICS[metric].name}: not run: {reason}')
    for remark in content['remarks']:
        print(f'note: {remark}')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # names of files may have letters that the screen has not
    torch.backends.cudnn.allow_tf32 = False  # the same figures on every device
    try:
        protocol = load_protocol(args.protocol) if args.protocol else None
        asked = args.metrics.split(',') if args.metrics else list(protocol.metrics if protocol else ())
        others = {role: getattr(args, role) for role in ('gt', 'lq', 'ref') if getattr(args, role)}
        settings = Settings(device_of(args.device), args.recognizer, dict(args.weights), args.fid_statistics)
        make_output(args.out)
        names = [name.strip() for name in asked]
        evaluation = evaluate(args.restored, others, names, settings, max(0, args.workers), args.resize)
    except (EvaluationError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    content = report_on(evaluation, protocol)
    show(content)
    problems = evaluation.problems
    try:
        write_report(args.out, evaluation, protocol, content)
        print(f'report: {args.out / "report.html"}')
    except OSError as error:  # the figures are on the screen
        problems = [*problems, f'{args.out}: the report cannot be written ({error})']
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if problems else 0


def make_output(folder: Path) -> None:
    """Make the output folder before the work begins.

    Raises:
        EvaluationError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EvaluationError(f'-o {folder}: cannot be written to ({error.strerror}); choose another folder') from error
