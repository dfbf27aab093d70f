"""The files of an evaluation: per_image.csv, summary.json and report.html."""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from basicsr.metrics import METRICS
from basicsr.metrics.charts import colour, histogram, scatter
from basicsr.metrics.evaluation import IDENTITY, Evaluation, Run, summary
from basicsr.metrics.protocol import Protocol
from basicsr.utils.files import csv_text, replacing, write_text
from basicsr.utils.image import imread

WORST = 12
THUMBNAIL = 160  # longer side, pixels
# The first of these that was computed is the quality of the scatter plot.
QUALITY = ('musiq', 'maniqa', 'niqe', 'lpips_alex', 'lpips_vgg', 'dists', 'feature', 'psnr', 'ssim', 'psnr_y', 'ssim_y')
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1080px;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.6em 0}th,td{border:1px solid #ccc;padding:.25em .6em;text-align:right}
th:first-child,td:first-child{text-align:left}th{background:#f3f3f3}svg text{font-size:12px}
.key{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em}.worst{display:inline-block;margin:.4em;
text-align:center;font-size:12px}.worst img{width:110px;height:110px;object-fit:contain;background:#eee}
.warn{background:#fff4d6;padding:.5em 1em;border-left:4px solid #e6a700}
td.text{text-align:left;max-width:520px;overflow-wrap:anywhere}
"""


def write_csv(path: Path, evaluation: Evaluation) -> None:
    """One row for each restored picture; an empty cell where a metric has no value."""
    metrics = [metric for metric in evaluation.metrics() if METRICS[metric].inputs != 'set']
    with (
        replacing(path) as partial,
        partial.open('w', newline='', encoding='utf-8', errors='backslashreplace') as file,
    ):
        writer = csv.writer(file)
        writer.writerow(['restored', 'picture', *metrics])
        for run in evaluation.runs:
            for name, scores in run.scores.items():
                cells = [scores[metric] for metric in metrics]
                figures = ('' if cell is None else f'{cell:.6g}' for cell in cells)
                writer.writerow([csv_text(run.label), csv_text(name), *figures])


def report_on(evaluation: Evaluation, protocol: Protocol | None = None) -> dict[str, Any]:
    """Return the content of summary.json."""
    content = summary(evaluation)
    content['remarks'] = remarks(evaluation, protocol)
    if protocol is not None:
        content['protocol'] = {'name': protocol.name, 'title': protocol.title}
    return content


def write_report(
    out: Path, evaluation: Evaluation, protocol: Protocol | None = None, content: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write the three files into a folder; what the summary holds.

    Args:
        out: made where missing.
        evaluation: the results.
        protocol: whose name and published rows are shown beside them.
        content: what `report_on` made of them, if that was called before.
    """
    content = report_on(evaluation, protocol) if content is None else content
    write_csv(out / 'per_image.csv', evaluation)
    write_text(out / 'summary.json', json.dumps(content, indent=2, allow_nan=False) + '\n')
    write_text(out / 'report.html', page(content, evaluation, protocol))
    return content


def remarks(evaluation: Evaluation, protocol: Protocol | None) -> list[str]:
    """List remarks: pictures converted or resized, or a number of them not the protocol's or too small for FID."""
    lines = []
    for run in evaluation.runs:
        lines += [f'{run.label}: {count} pictures were judged with: {what}' for what, count in run.changes.items()]
        expected = protocol.pictures.get('restored') if protocol else None
        if expected is not None and len(run.scores) != expected:
            lines.append(f'{run.label}: {len(run.scores)} pictures were judged; the protocol has {expected}')
        fid = run.sets.get('fid', {})
        if fid and fid['count'] <= fid['features']:
            few = f'{fid["count"]:.0f} pictures for {fid["features"]:.0f} features'
            lines.append(f'{run.label}: FID of {few}: biased upwards, comparable at this number of pictures only')
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text: bool = False) -> str:
    """Return a table of texts that are HTML already; `text` sets the cells flush left."""
    kind = ' class="text"' if text else ''
    top = ''.join(f'<th>{cell}</th>' for cell in head)
    body = ''.join('<tr>' + ''.join(f'<td{kind}>{cell}</td>' for cell in row) + '</tr>' for row in rows)
    return f'<table><tr>{top}</tr>{body}</table>'


def _figure(row: Mapping[str, Any]) -> str:
    if 'mean' not in row:
        return 'equal pictures' if row.get('infinite') else 'no value'
    text = f'{row["mean"]:.4g}'
    if 'low' in row:
        text += f'<br><small>{row["low"]:.4g} to {row["high"]:.4g}</small>'
    return text


def _head(metric: str) -> str:
    return escape(METRICS[metric].name) + (' ↑' if METRICS[metric].better == 'higher' else ' ↓')


def _means(content: Mapping[str, Any]) -> str:
    runs = content['runs']
    rows = []
    for metric in content['metrics']:
        cells = [_figure(run['metrics'][metric]) if metric in run['metrics'] else 'not run' for run in runs.values()]
        rows.append([_head(metric), *cells])
    heads = [f'{escape(label)}<br><small>{run["pictures"]} pictures</small>' for label, run in runs.items()]
    return _table(['metric', *heads], rows)


def _differences(content: Mapping[str, Any]) -> str:
    parts = []
    for label, run in content['runs'].items():
        if not run.get('differences'):
            continue
        rows = [
            [_head(metric), f'{row["mean"]:+.4g}', f'{row["low"]:+.4g} to {row["high"]:+.4g}', str(row['count'])]
            for metric, row in run['differences'].items()
        ]
        parts.append(f'<h3>{escape(label)} less {escape(run["difference_to"])}</h3>')
        parts.append(_table(['metric', 'mean difference', '95 % interval', 'pictures'], rows))
    return '<h2>Paired differences</h2>' + ''.join(parts) if parts else ''


def _identity(content: Mapping[str, Any], evaluation: Evaluation, metric: str) -> str:
    names = {'mean': 'mean', 'p5': '5 %', 'p25': '25 %', 'p50': '50 %', 'lost': 'share below 0.3'}
    rows = [
        [escape(label), *(f'{run["metrics"][metric][key]:.4g}' for key in names)]
        for label, run in content['runs'].items()
        if 'mean' in run['metrics'][metric]
    ]
    values = {run.label: list(run.values(metric).values()) for run in evaluation.runs if run.values(metric)}
    if not values:
        return ''
    title = escape(METRICS[metric].name)
    chart = histogram(values, METRICS[metric].name)
    return f'<h2>Distribution of {title}</h2>{_table(["restored", *names.values()], rows)}{_legend(evaluation)}{chart}'


def _legend(evaluation: Evaluation) -> str:
    keys = (
        f'<span class="key" style="background:{colour(number)}"></span>{escape(run.label)}'
        for number, run in enumerate(evaluation.runs)
    )
    return f'<p>{"".join(keys)}</p>'


def _quality(evaluation: Evaluation, metric: str) -> str:
    quality = next((name for name in QUALITY if name in evaluation.metrics()), None)
    if quality is None:
        return ''
    runs = {}
    for run in evaluation.runs:
        first, second = run.values(quality), run.values(metric)
        runs[run.label] = {n: (first[n], second[n]) for n in second if n in first and math.isfinite(first[n])}
    if not any(runs.values()):
        return ''
    chart = scatter(runs, (METRICS[quality].name, METRICS[metric].name))
    return f'<h2>Quality against identity</h2>{_legend(evaluation)}{chart}'


def thumbnail(path: Path) -> str:
    """Return a picture file as a data address of a small JPEG."""
    image = imread(path)
    factor = THUMBNAIL / max(image.shape[:2])
    if factor < 1:
        size = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode('.jpg', cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))[1]
    return 'data:image/jpeg;base64,' + base64.b64encode(encoded.tobytes()).decode()


def _worst(run: Run, metric: str) -> str:
    ranked = sorted(run.values(metric).items(), key=lambda item: item[1])[:WORST]
    cells = []
    for name, value in ranked:
        paths = run.paths[name]
        roles = [role for role in ('lq', 'restored', 'gt', 'ref0') if role in paths]
        images = ''.join(
            f'<img src="{thumbnail(paths[role])}" alt="{role} of {escape(name)}" title="{role}">' for role in roles
        )
        cells.append(f'<div class="worst">{images}<br>{escape(name)}: {value:.3f} ({", ".join(roles)})</div>')
    return f'<h3>{escape(run.label)}</h3>{"".join(cells)}' if cells else ''


def _published(protocol: Protocol) -> str:
    rows = [
        [escape(str(row['method'])), *(f'{row["values"].get(m, "")}' for m in protocol.columns), escape(row['source'])]
        for row in protocol.published
    ]
    if not rows:
        return ''
    heads = [escape(METRICS[m].name) if m in METRICS else escape(m) for m in protocol.columns]
    table = _table(['method', *heads, 'source'], rows)
    return f'<h2>Published figures, not measured here</h2><p>{escape(protocol.note)}</p>{table}'


def _trouble(content: Mapping[str, Any], evaluation: Evaluation) -> str:
    lines = [f'{metric}: not run: {reason}' for metric, reason in content['not_run'].items()]
    for label, run in content['runs'].items():
        lines += [f'{label}: {metric}: not run: {reason}' for metric, reason in run['not_run'].items()]
    lines += content['remarks']
    lines += evaluation.problems
    if not lines:
        return ''
    items = ''.join(f'<li>{escape(line)}</li>' for line in lines)
    return f'<div class="warn"><b>Not run, left out, or not as expected</b><ul>{items}</ul></div>'


def page(content: Mapping[str, Any], evaluation: Evaluation, protocol: Protocol | None) -> str:
    """Return the report as one HTML page that needs nothing else."""
    title = f'Evaluation: {protocol.title}' if protocol else 'Evaluation'
    parts = [f'<h1>{escape(title)}</h1>', _trouble(content, evaluation), '<h2>Means</h2>', _means(content)]
    parts.append('<p><small>Below each mean its 95 % bootstrap interval over the pictures.</small></p>')
    parts.append(_differences(content))
    identity = next((metric for metric in IDENTITY if metric in evaluation.metrics()), None)
    if identity is not None:
        parts += [_identity(content, evaluation, identity), _quality(evaluation, identity)]
        parts.append(f'<h2>The {WORST} worst by {escape(METRICS[identity].name)}</h2>')
        parts += [_worst(run, identity) for run in evaluation.runs]
    if protocol is not None:
        parts.append(_published(protocol))
    rows = [
        [
            _head(metric),
            escape(about['protocol']),
            '<br>'.join(f'{escape(w["file"])} {w["sha256"]}' for w in about['weights']),
        ]
        for metric, about in content['metrics'].items()
    ]
    parts += ['<h2>How it was measured</h2>', _table(['metric', 'protocol', 'weights, SHA-256'], rows, text=True)]
    rows = [[escape(str(key)), escape(str(value))] for key, value in content['environment'].items()]
    parts.append(_table(['environment', ''], rows, text=True))
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<style>{STYLE}</style></head><body>{"".join(parts)}</body></html>\n'
    )
