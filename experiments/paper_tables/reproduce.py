"""Tables of the papers: published figures, and beside them what can be measured here.

    python scripts/reproduce_tables.py --table id_codeformer_1 --data datasets --recognizer weights/arcface/FILE

Inputs are DATA/<protocol>/lq, ground truths DATA/<protocol>/gt, references DATA/<protocol>/ref, by the protocols of
options/eval. Methods of this project are restored into OUT/restored, once for the same weights and settings; pictures
that other methods restored are given (--restored METHOD=DIR). Where nothing could be measured a note says why, and what
to do. OUT/<table>.md, .csv and .tex are written. The exit code is 1 where pictures could not be judged or restored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from basicsr.cli.arguments import ArgumentParser
from basicsr.cli.evaluate import device_of
from basicsr.data import DataError
from basicsr.metrics import METRICS
from basicsr.metrics.builders import WITH_WEIGHTS, Settings
from basicsr.metrics.published import EMPTY, NOT_TRANSCRIBED, find_published
from basicsr.metrics.table import EvaluationError, check_metrics
from basicsr.utils.files import write_text
from experiments.paper_tables.comparison import FORMATS, MEASURED, OTHER, PUBLISHED, Cell, Comparison, Row
from experiments.paper_tables.measured import measure, without
from experiments.paper_tables.pictures import Missing, Pictures
from experiments.paper_tables.plans import LFW, PLANS, SYNTHETIC

SIDE = 512  # pixels, of all published sets


class Reproduction:
    """One table, as the command line asks for it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        plan, self.published = PLANS[args.table], find_published(args.table)
        self.protocols = [*plan.protocols, *([SYNTHETIC] if args.synthetic_lfw else [])]
        self.pictures = Pictures(args, plan.ours, self.protocols)
        given = [
            name for name in (*self.pictures.restored, *self.pictures.weights) if not self.pictures.is_family(name)
        ]
        self.methods = list(dict.fromkeys([*self.published.rows, *plan.ours, *given]))
        extra = check_metrics(args.metrics.split(',')) if args.metrics else plan.extra
        self.columns = list(dict.fromkeys([*self.published.columns.values(), *extra]))
        weights = {name: path for name, path in args.weights if name in WITH_WEIGHTS}
        self.settings = Settings(device_of(args.device), args.recognizer, weights, args.fid_statistics)
        self.out = args.out / 'evaluation' / args.table
        self.problems = self.pictures.problems

    def run(self) -> Comparison:
        """Return the table; pictures that could not be judged or restored are in `problems`."""
        source = self.published
        table = Comparison(f'{source.source} ({source.where})', self.columns, remarks=list(source.remarks))
        printed = {METRICS[metric].name: name for name, metric in source.columns.items() if name != metric}
        table.remarks += [f'The column {name} has what is published as "{text}".' for name, text in printed.items()]
        if LFW in self.protocols and SYNTHETIC not in self.protocols:
            table.remarks.append(
                f'PSNR, SSIM, LPIPS and identity cannot be measured on {LFW}, which has no ground truth. '
                f'--synthetic_lfw measures them on {SYNTHETIC}, made from its pictures, as rows of that name.'
            )
        for name in self.protocols:
            self._measure(name, table)
        return table

    def _measure(self, name: str, table: Comparison) -> None:
        """Add the rows of a protocol; published ones among those of the first."""
        data = self.pictures.data(name)
        folders, abouts, notes = {}, {}, {}
        for method in self.methods:
            try:
                folders[method], abouts[method] = self.pictures.of(method, data)
            except Missing as reason:
                notes[method] = str(reason)
        done = measure(folders, data, self.columns, self.settings, self.out / name)
        expected = data.protocol.pictures['restored']
        for method in self.methods:
            if name == self.protocols[0] and method in self.published.rows:
                table.rows.append(self._published(method))
            count, side = done.pictures.get(method, 0), done.sides.get(method, SIDE)
            alike = name == self.published.protocol and count in (0, expected) and side == SIDE
            cells = done.cells.get(method) or without(data, self.columns, notes[method])
            about = f'{abouts[method]}; {count} pictures of {side} pixels' if method in abouts else ''
            kind = MEASURED if alike else OTHER
            table.rows.append(Row(method, kind, name, f'{count} of {expected or "any"}', cells, about))
        table.remarks += [f'{name}: {remark}' for remark in done.remarks]
        self.problems += done.problems

    def _published(self, method: str) -> Row:
        source = self.published
        figures = zip(source.columns.values(), source.rows[method], strict=True)
        words = {EMPTY: 'left empty', NOT_TRANSCRIBED: 'not transcribed'}
        cells = {metric: Cell(words.get(text, text)) for metric, text in figures}
        protocol, count = source.protocol or 'not stated', source.pictures or 'not stated'
        return Row(method, PUBLISHED, protocol, str(count), cells, source.source)


def named(text: str) -> tuple[str, str]:
    """NAME=VALUE of the command line."""
    name, equals, value = text.partition('=')
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"'{text}': write NAME=VALUE")
    return name, value


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    result = ArgumentParser(description='Print tables of papers with published and measured figures.')
    add = result.add_argument
    add('--table', required=True, choices=list(PLANS))
    add('--data', type=Path, default=Path('datasets'), help='folder with <protocol>/lq, gt and ref')
    add('--weights', type=named, action='append', default=[], metavar='NAME=FILE', help='of a method, or of a metric')
    add('--restored', type=named, action='append', default=[], metavar='METHOD=DIR', help='pictures, or <protocol>/')
    add('--recognizer', help='weights of the face recognizer that judges; another than that of the training loss')
    add('--reference_recognizer', help="the networks' own recognizer, where files do not name it")
    add('--fid_statistics', type=Path, help='of FFHQ: .npz or .pth (default: in the weights folder)')
    add(
        '--metrics', help="columns beside the published ones; by default the plan's (experiments/paper_tables/plans.py)"
    )
    add('--synthetic_lfw', action='store_true', help='rows of lfw_synthetic too, made where they are not in --data')
    add('--size', type=int, default=512, help='side of the pictures that --synthetic_lfw makes, pixels')
    add('-w', '--w', type=float, help="fidelity weight of our restorations (default: the protocol's, 0.5)")
    add('--adain', action=argparse.BooleanOptionalAction, default=True, help='as inference does')
    add('--format', choices=list(FORMATS), default='markdown', help='what is printed; all are written')
    add('--device', help='cpu, cuda or cuda:1; by default a GPU where there is one')
    add('--out', type=Path, default=Path('results/tables'))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parser().parse_args(argv)
    torch.backends.cudnn.allow_tf32 = False  # the same figures on every device
    try:
        reproduction = Reproduction(args)
        table = reproduction.run()
    except (EvaluationError, DataError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    texts = {name: (ending, write(table)) for name, (ending, write) in FORMATS.items()}
    for ending, text in texts.values():
        write_text(args.out / f'{args.table}{ending}', text)
    print(texts[args.format][1], end='')
    for problem in reproduction.problems:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if reproduction.problems else 0
