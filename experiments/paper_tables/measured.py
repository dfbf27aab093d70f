"""Restored folders judged by a protocol: a cell for each metric, with a figure or with why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from basicsr.metrics import METRICS
from basicsr.metrics.builders import WITH_WEIGHTS, Settings
from basicsr.metrics.evaluation import evaluate
from basicsr.metrics.protocol import Protocol
from basicsr.metrics.report import remarks, write_report
from basicsr.metrics.table import EvaluationError
from basicsr.utils.image import imread
from experiments.paper_tables.comparison import Cell

NOT_RUN, NEVER = 'not run', 'never'


@dataclass(frozen=True)
class Data:
    """The pictures of a protocol.

    Attributes:
        root: with the folders `lq`, `gt` and `ref`.
        protocol: what they are.
    """

    root: Path
    protocol: Protocol

    @cached_property
    def folders(self) -> dict[str, Path]:
        """Existing folders by role. The references of a set of people are their other photos, see `Folder`."""
        found = {role: self.root / role for role in ('lq', 'gt', 'ref') if (self.root / role).is_dir()}
        if 'gt' in found and 'ids_ref' in self.protocol.metrics:
            found.setdefault('ref', found['gt'])
        return found

    def lacks(self, role: str) -> str:
        """Return a note that a folder is missing, and where its pictures come from."""
        first = self.protocol.download[0]
        made = f'; or: {self.protocol.inputs["command"]}' if 'command' in self.protocol.inputs else ''
        return f'no data: {self.root / role} is not there. {first["what"]}: {first["from"]}{made}'

    def never(self, metric: str) -> bool:
        """Return True if the metric needs a ground truth that the set lacks."""
        return METRICS[metric].against == 'gt' and 'gt' not in self.protocol.pictures

    def why(self, metric: str, reason: str) -> str:
        """Return a note why the evaluation could not compute a metric."""
        role = METRICS[metric].against
        if role and reason == f'needs --{role}':
            return self.lacks(role)
        if 'package' in reason:
            return f'no package: {reason}'
        hint = f'; give --weights {metric}=FILE' if metric in WITH_WEIGHTS and '--weights' not in reason else ''
        return f'no weights: {reason}{hint}'


@dataclass
class Measured:
    """Results of a protocol.

    Attributes:
        cells: by method and metric.
        pictures: judged, by method.
        sides: of the first of them, pixels, by method.
        remarks: how metrics were computed, and what is doubtful.
        problems: files that could not be judged.
    """

    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)
    sides: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def without(data: Data, metrics: Sequence[str], note: str) -> dict[str, Cell]:
    """Return the cells of a row that was not run; what could never be measured says so."""
    never = f'never: {data.protocol.title} has no ground truth; a synthetic set has one'
    return {metric: Cell(NEVER, never) if data.never(metric) else Cell(NOT_RUN, note) for metric in metrics}


def measure(
    restored: Mapping[str, Path], data: Data, metrics: Sequence[str], settings: Settings, out: Path
) -> Measured:
    """Judge the restored folders of methods, and write the report of that into `out`.

    Args:
        restored: folders by method; none is given twice.
        data: of these.
        metrics: names of the table.
        settings: weights, device, and the statistics of the reference set of the FID.
        out: for the three files of `write_report`.
    """
    if not restored:
        return Measured()
    wanted = [metric for metric in metrics if not data.never(metric)]
    try:
        evaluation = evaluate(list(restored.values()), data.folders, wanted, settings)
    except EvaluationError as error:
        return Measured({method: without(data, metrics, f'not measured: {error}') for method in restored})
    content = write_report(out, evaluation, data.protocol)
    about = content['metrics']
    result = Measured(problems=evaluation.problems)
    result.remarks = [f'{METRICS[metric].name}: {about[metric]["protocol"]}' for metric in about] + remarks(
        evaluation, None
    )
    for method, run in zip(restored, evaluation.runs, strict=True):
        judged = content['runs'][run.label]
        result.cells[method] = without(data, metrics, f'no value: {(run.problems or ["all values are infinite"])[0]}')
        reasons = {metric: data.why(metric, reason) for metric, reason in content['not_run'].items()}
        reasons |= {metric: f'no value: {reason}' for metric, reason in judged['not_run'].items()}
        result.cells[method] |= {metric: Cell(NOT_RUN, reason) for metric, reason in reasons.items()}
        for metric, row in judged['metrics'].items():
            if 'mean' in row:
                result.cells[method][metric] = Cell(f'{row["mean"]:.4g}')
        result.pictures[method] = judged['pictures']
        if run.paths:
            result.sides[method] = imread(next(iter(run.paths.values()))['restored']).shape[0]
    return result
