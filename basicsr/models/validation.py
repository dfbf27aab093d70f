"""Validation of any stage: metrics of every picture to a CSV file, some pictures to a grid."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from basicsr.metrics import calculate_metric
from basicsr.models.base_model import BaseModel
from basicsr.utils.image import imwrite, to_image

logger = logging.getLogger('basicsr')


def validate(
    model: BaseModel, loader: Iterable[Mapping[str, Any]], folder: Path, name: str, about: Mapping[str, Any]
) -> tuple[dict[str, float], np.ndarray | None]:
    """Judge a model on a validation set.

    Writes `validation_<name>.csv` (one row a call: `about` and the mean of each metric) in `folder`, and below its
    `visualization/`: `grid_<name>_<iter>.png`, and with `val:save_img` every output.

    Args:
        model: any stage.
        loader: batches of `PairedImageDataset` (`lq`, `gt`, `lq_path`).
        folder: the run's.
        name: of the set, a section of the options' `datasets`.
        about: what the row begins with: `iter`, for the names of files too, and whatever else tells it from others.

    Returns:
        The mean of each metric, and the grid (rows of low quality, output, target) as RGB uint8.
    """
    opt = model.opt.get('val') or {}
    root, iteration = Path(model.opt['datasets'][name]['dataroot_lq']), about['iter']
    metrics = opt.get('metrics') or {}
    values: dict[str, list[float]] = {metric: [] for metric in metrics}
    rows: list[np.ndarray] = []
    was_training = [network for network in model.networks.values() if network.training]
    for network in was_training:
        network.eval()
    with torch.no_grad():
        for batch in map(model.to_device, loader):
            outputs = model.infer(batch)
            for lq, output, gt, path in zip(batch['lq'], outputs, batch['gt'], batch['lq_path'], strict=True):
                trio = [to_image(x) for x in (lq, output, gt)]
                for metric, section in metrics.items():
                    values[metric].append(calculate_metric({'img': trio[1], 'img2': trio[2]}, section))
                if len(rows) < opt.get('grid', 8) and len({image.shape for image in trio}) == 1:
                    rows.append(np.hstack(trio))
                if opt.get('save_img'):
                    place = Path(path).relative_to(root).with_suffix('')
                    imwrite(folder / 'visualization' / name / place / f'{iteration}.png', trio[1])
    for network in was_training:
        network.train()
    means = {metric: float(np.mean(numbers)) for metric, numbers in values.items() if numbers}
    _append_row(folder / f'validation_{name}.csv', {**about, **means})
    grid = None
    if rows and len({row.shape for row in rows}) == 1:
        grid = np.vstack(rows)
        imwrite(folder / 'visualization' / f'grid_{name}_{iteration}.png', grid)
    logger.info('validation %s, iteration %s: %s', name, iteration, _text(means))
    return means, grid


def _append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row; a damaged file, or one with other columns, of a run whose metrics were changed, is set aside first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not _goes_on(path, list(row)):
        names = (f'{path.stem}_before_{row["iter"]}{mark}.csv' for mark in ('', *(f'_{n}' for n in range(2, 1000))))
        aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
        path.rename(aside)
        logger.warning('%s: damaged, or of other metrics; it is kept as %s', path, aside.name)
    new = not path.exists()
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def _goes_on(path: Path, columns: list[str]) -> bool:
    """Return True if a table has these columns, and every row is whole."""
    try:
        text = path.read_text(encoding='utf-8')
        rows = list(csv.reader(io.StringIO(text, newline='')))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return text.endswith('\n') and rows[0] == columns and all(len(row) == len(columns) for row in rows)


def _text(values: Mapping[str, float]) -> str:
    return ', '.join(f'{name} {value:.4f}' for name, value in values.items()) or 'no metrics asked for'
