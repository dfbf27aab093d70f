"""The table and the plots of an ablation, from its results and the scores of single pictures."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from basicsr.metrics import METRICS
from basicsr.metrics.charts import scatter
from basicsr.metrics.evaluation import PERCENTILES, paired_bootstrap
from basicsr.metrics.report import QUALITY
from basicsr.utils.files import replacing, write_text
from experiments.ablation.charts import boxes, standalone
from experiments.ablation.plan import PARTS, Plan
from experiments.ablation.results import DONE, Result

DIGITS = {'psnr': 2, 'psnr_y': 2, 'niqe': 3, 'niqe_192': 3, 'feature': 3, 'fid': 2, 'deg': 2, 'lmd': 3}
DIFFERENCE = ('set', 'row', 'w', 'baseline', 'metric', 'mean', 'low', 'high', 'pictures', 'seeds')
Scores = Mapping[str, Mapping[str, float]]  # metric to picture to value


@dataclass
class Entry:
    """Results of one row at one w on one set, over its seeds.

    Attributes:
        row: its name.
        w: as text.
        results: that succeeded, one a seed.
        scores: metric to picture to value, one a seed.
    """

    row: str
    w: str
    results: list[Result]
    scores: list[Scores]

    @property
    def label(self) -> str:
        """Row and w."""
        return f'{self.row}, w = {self.w}' if self.w else self.row

    @property
    def is_trained(self) -> bool:
        """True if its seeds are of trainings: pictures and checkpoints that were given have none."""
        return bool(self.results[0].get('iterations'))

    def mean(self, column: str) -> tuple[float, float] | None:
        """Mean and deviation (of a sample; NaN for one) over the seeds; None where a seed has no value."""
        cells = [result.get(column) or '' for result in self.results]
        if not all(cells):
            return None
        values = np.array([float(cell) for cell in cells])
        return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float('nan')

    def pictures(self, metric: str) -> dict[str, float]:
        """Each picture's mean over the seeds; pictures that one of them has no finite value of are left out."""
        found = [scores.get(metric, {}) for scores in self.scores]
        common = [name for name in found[0] if all(math.isfinite(each.get(name, math.nan)) for each in found)]
        return {name: float(np.mean([each[name] for each in found])) for name in common}


def read_scores(path: Path) -> dict[str, dict[str, float]]:
    """Metric to picture to value of a `per_image.csv`."""
    with path.open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    metrics = [name for name in (rows[0] if rows else {}) if name in METRICS]
    return {metric: {row['picture']: float(row[metric]) for row in rows if row[metric]} for metric in metrics}


def collect(results: Sequence[Result], folders: Mapping[tuple[str, ...], Path], rows: Sequence[str]) -> list[Entry]:
    """Return the entries of one set's results, in the order of `rows`.

    Args:
        results: that succeeded.
        folders: where the scores of each result are, in the order of `results`'s keys.
        rows: names.
    """
    entries: dict[tuple[str, str], Entry] = {}
    for result in sorted(results, key=lambda each: (rows.index(each['row']), each['w'], int(each['seed']))):
        entry = entries.setdefault((result['row'], result['w']), Entry(result['row'], result['w'], [], []))
        entry.results.append(result)
        entry.scores.append(read_scores(folders[result['row'], result['set'], result['w'], result['seed']]))
    return list(entries.values())


def base_of(entry: Entry, entries: Sequence[Entry], baseline: str) -> Entry | None:
    """Return the baseline's entry at the same w, else its first."""
    bases = [other for other in entries if other.row == baseline]
    return next((base for base in bases if base.w == entry.w), bases[0] if bases else None)


def with_seeds_of(entry: Entry, other: Entry) -> Entry:
    """Return an entry of those seeds alone that the other was trained with, too; all of it, where that leaves none."""
    if not entry.is_trained or not other.is_trained:
        return entry
    seeds = {result['seed'] for result in other.results}
    both = zip(entry.results, entry.scores, strict=True)
    kept = [(result, scores) for result, scores in both if result['seed'] in seeds]
    return replace(entry, results=[r for r, _ in kept], scores=[s for _, s in kept]) if kept else entry


def differences(name: str, entries: Sequence[Entry], plan: Plan) -> list[dict[str, str]]:
    """Return the paired differences to the baselines, of every metric of single pictures, with bootstrap intervals.

    Rows are compared by the seeds that both were trained with.
    """
    rows = []
    for whole, baseline in product(entries, plan.baselines):
        base = base_of(whole, entries, baseline)
        if base is None or base is whole:
            continue
        entry, base = with_seeds_of(whole, base), with_seeds_of(base, whole)
        for metric in plan.metrics:
            ours, theirs = entry.pictures(metric), base.pictures(metric)
            common = [picture for picture in ours if picture in theirs]
            if not common:
                continue
            mean, low, high = paired_bootstrap([ours[p] for p in common], [theirs[p] for p in common])
            figures = [f'{value:.6g}' for value in (mean, low, high)]
            about = [name, entry.row, entry.w, base.label, metric]
            seeds = str(len(entry.results))
            rows.append(dict(zip(DIFFERENCE, [*about, *figures, str(len(common)), seeds], strict=True)))
    return rows


def _cell(entry: Entry, column: str, digits: int) -> str:
    figure = entry.mean(column)
    if figure is None:
        return 'not run'
    mean, deviation = figure
    return f'{mean:.{digits}f}' + ('' if math.isnan(deviation) else f' ± {deviation:.{digits}f}')


def _interval(figures: Sequence[float]) -> str:
    """Mean, lower and upper end; nothing where there are none."""
    return '{:+.4f} ({:+.4f} to {:+.4f})'.format(*figures) if figures else ''


def _identity(plan: Plan) -> str | None:
    return next((metric for metric in ('ids', 'ids_ref', 'ids_lq') if metric in plan.metrics), None)


def table(name: str, entries: Sequence[Entry], found: Sequence[Mapping[str, str]], plan: Plan) -> str:
    """One set's table in Markdown: what a row has, its means, the distribution of identity, the difference in it."""
    identity, several = _identity(plan), len({entry.w for entry in entries if entry.w}) > 1
    with_parts = any(entry.results[0]['parts'] for entry in entries)
    columns = [metric for metric in plan.metrics if METRICS[metric].inputs != 'set' or metric == 'fid']
    head = ['configuration', *(['w'] if several else []), *(PARTS.values() if with_parts else [])]
    head += [f'{METRICS[metric].name} {"↑" if METRICS[metric].better == "higher" else "↓"}' for metric in columns]
    spread = [f'{identity}_p{q}' for q in PERCENTILES] + [f'{identity}_lost'] if identity else []
    head += [f'{q} %' for q in PERCENTILES] + ['< 0.3'] if identity else []
    varied = any(entry.mean('identity_variance') for entry in entries)
    head += ['identity variance'] if varied else []
    told = any(entry.mean('towards') for entry in entries)
    head += ['towards whom it is told of (95 %)'] if told else []
    head += [f'{METRICS[identity].name} less that of {base} (95 %)' for base in plan.baselines] if identity else []
    about = {(row['row'], row['w'], row['baseline']): row for row in found if row['metric'] == identity}
    lines = []
    for entry in entries:
        has = entry.results[0]['parts'].split(';')
        cells = [entry.row, *([entry.w] if several else [])]
        cells += ['✓' if part in has else '' for part in PARTS] if with_parts else []
        cells += [_cell(entry, metric, DIGITS.get(metric, 4)) for metric in columns]
        cells += [_cell(entry, column, 3) for column in spread]
        cells += [_cell(entry, 'identity_variance', 4) if entry.mean('identity_variance') else ''] if varied else []
        moves = [entry.mean(f'towards{end}') for end in ('', '_low', '_high')]
        cells += [_interval([move[0] for move in moves if move])] if told else []
        for baseline in plan.baselines if identity else ():
            base = base_of(entry, entries, baseline)
            row = about.get((entry.row, entry.w, base.label)) if base else None
            cells.append(_interval([float(row[key]) for key in ('mean', 'low', 'high')] if row else []))
        lines.append(f'| {" | ".join(cells)} |')
    weights = ', '.join(dict.fromkeys(entry.w for entry in entries if entry.w))
    pictures = max(entry.results[0]['pictures'] for entry in entries)
    title = f'**{name}** ({pictures} faces' + (f', w = {weights})' if weights and not several else ')')
    return '\n'.join([title, '', f'| {" | ".join(head)} |', '|' + '---|' * len(head), *lines, ''])


def _remarks(results: Sequence[Result]) -> list[str]:
    """List failures, and what was not run with its rows; each once."""
    failed: dict[str, None] = {}
    not_run: dict[str, dict[str, None]] = {}
    for result in results:
        if result['status'] != DONE:
            failed[f'- {result["row"]}, seed {result["seed"]}: failed: {result["reason"]}'] = None
        for reason in filter(None, result.get('not_run', '').split(' | ')):
            not_run.setdefault(reason, {})[result['row']] = None
    return [*failed, *(f'- not run: {reason} ({", ".join(rows)})' for reason, rows in not_run.items())]


def _plots(prefix: Path, name: str, entries: Sequence[Entry], plan: Plan) -> list[Path]:
    """Quantiles of the identity, and identity against quality with a dot a seed."""
    identity = _identity(plan)
    entries = [entry for entry in entries if identity and entry.pictures(identity)]
    if identity is None or not entries:
        return []
    labels = {entry.label: entry for entry in entries}
    values = {label: list(entry.pictures(identity).values()) for label, entry in labels.items()}
    charts = {'identity': boxes(values, METRICS[identity].name)}
    quality = next((metric for metric in QUALITY if all(entry.mean(metric) for entry in entries)), None)
    if quality is not None:
        dots = {
            label: {f'seed {r["seed"]}': (float(r[quality]), float(r[identity])) for r in entry.results}
            for label, entry in labels.items()
        }
        charts['quality'] = scatter(dots, (METRICS[quality].name, METRICS[identity].name), numbered=True)
    paths = []
    for kind, chart in charts.items():
        paths.append(prefix.with_name(f'{prefix.name}_{name}_{kind}.svg'))
        write_text(paths[-1], standalone(chart, list(labels), name))
    return paths


def write_tables(prefix: Path, results: Sequence[Result], folders: Mapping[tuple[str, ...], Path], plan: Plan) -> str:
    """Write PREFIX.md, PREFIX_differences.csv and the plots PREFIX_<set>_identity.svg and _quality.svg.

    Args:
        prefix: path without extension.
        results: of the plan's rows.
        folders: key of a result to its `per_image.csv`.
        plan: what was to be done.

    Returns:
        The Markdown.
    """
    found, parts = [], []
    for name in plan.sets:
        good = [result for result in results if result['set'] == name and result['status'] == DONE]
        if not good:
            continue
        entries = collect(good, folders, list(plan.rows))
        here = differences(name, entries, plan)
        found += here
        plots = _plots(prefix, name, entries, plan)
        shown = ''.join(f'![{path.stem}]({path.name})\n' for path in plots)
        parts += [table(name, entries, here, plan), shown]
    remarks = _remarks(results)
    text = '\n'.join(filter(None, [plan.about, *parts, *remarks])) + '\n'
    target = prefix.with_name(f'{prefix.name}_differences.csv')
    with replacing(target) as partial, partial.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, DIFFERENCE)
        writer.writeheader()
        writer.writerows(found)
    write_text(prefix.with_name(f'{prefix.name}.md'), text)
    return text
