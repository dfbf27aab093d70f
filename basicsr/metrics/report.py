"""The files of an evaluation: per_image.csv, summary.json and report.html."""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader

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
TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, keep_trailing_newline=True)


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


def _distribution(content: Mapping[str, Any], metric: str) -> list[list[str]]:
    """Return label, mean, quantiles and share of lost faces of each run."""
    keys = ('mean', 'p5', 'p25', 'p50', 'lost')
    found = {label: run['metrics'][metric] for label, run in content['runs'].items()}
    return [[label, *(f'{row[key]:.4g}' for key in keys)] for label, row in found.items() if 'mean' in row]


def _histogram(evaluation: Evaluation, metric: str) -> str:
    values = {run.label: list(run.values(metric).values()) for run in evaluation.runs if run.values(metric)}
    return histogram(values, METRICS[metric].name) if values else ''


def _scatter(evaluation: Evaluation, metric: str) -> str:
    """Return the chart of quality against identity; '' where no metric of quality has values."""
    quality = next((name for name in QUALITY if name in evaluation.metrics()), None)
    if quality is None:
        return ''
    runs = {}
    for run in evaluation.runs:
        first, second = run.values(quality), run.values(metric)
        runs[run.label] = {n: (first[n], second[n]) for n in second if n in first and math.isfinite(first[n])}
    return scatter(runs, (METRICS[quality].name, METRICS[metric].name)) if any(runs.values()) else ''


def thumbnail(path: Path) -> str:
    """Return a picture file as a data address of a small JPEG."""
    image = imread(path)
    factor = THUMBNAIL / max(image.shape[:2])
    if factor < 1:
        size = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode('.jpg', cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))[1]
    return 'data:image/jpeg;base64,' + base64.b64encode(encoded.tobytes()).decode()


def _worst(run: Run, metric: str) -> list[dict[str, Any]]:
    """Return name, value and pictures by role of the faces with the least values."""
    ranked = sorted(run.values(metric).items(), key=lambda item: item[1])[:WORST]
    faces = []
    for name, value in ranked:
        paths = run.paths[name]
        pictures = {role: thumbnail(paths[role]) for role in ('lq', 'restored', 'gt', 'ref0') if role in paths}
        faces.append({'name': name, 'value': value, 'pictures': pictures})
    return faces


def _trouble(content: Mapping[str, Any], evaluation: Evaluation) -> list[str]:
    """Return what was not run, left out, or not as expected."""
    lines = [f'{metric}: not run: {reason}' for metric, reason in content['not_run'].items()]
    for label, run in content['runs'].items():
        lines += [f'{label}: {metric}: not run: {reason}' for metric, reason in run['not_run'].items()]
    return lines + content['remarks'] + evaluation.problems


def page(content: Mapping[str, Any], evaluation: Evaluation, protocol: Protocol | None) -> str:
    """Return the report as one HTML page that needs nothing else, by the template `report.html`."""
    identity = next((metric for metric in IDENTITY if metric in evaluation.metrics()), None)
    charts: dict[str, Any] = {}
    if identity is not None:
        charts['distribution'] = _distribution(content, identity)
        charts['histogram'] = _histogram(evaluation, identity)
        charts['scatter'] = _scatter(evaluation, identity)
        charts['worst'] = {run.label: _worst(run, identity) for run in evaluation.runs}
    return TEMPLATES.get_template('report.html').render(
        title=f'Evaluation: {protocol.title}' if protocol else 'Evaluation',
        **charts,
        content=content,
        runs=evaluation.runs,
        protocol=protocol,
        trouble=_trouble(content, evaluation),
        identity=identity,
        worst_count=WORST,
        metrics=METRICS,
        colour=colour,
    )
