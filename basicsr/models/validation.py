"""Validation of any stage: metrics of every picture to a CSV file, some pictures to a grid."""

from __future__ import annotations

import csv
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
    model: BaseModel, loader: Iterable[Mapping[str, Any]], iteration: int, folder: Path, name: str
) -> tuple[dict[str, float], np.ndarray | None]:
    """Judge a model on a validation set.

    Writes `validation_<name>.csv` (one row a call: iteration and the mean of each metric) in `folder`, and below its
    `visualization/`: `grid_<name>_<iteration>.png`, and with `val:save_img` every output.

    Args:
        model: any stage.
        loader: batches of `PairedImageDataset` (`lq`, `gt`, `lq_path`).
        iteration: for the names.
        folder: the run's.
        name: of the set.

    Returns:
        The mean of each metric, and the grid (rows of low quality, output, target) as RGB uint8.
    """
    opt = model.opt.get('val') or {}
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
                    imwrite(folder / 'visualization' / name / Path(path).stem / f'{iteration}.png', trio[1])
    for network in was_training:
        network.train()
    means = {metric: float(np.mean(numbers)) for metric, numbers in values.items() if numbers}
    _append_row(folder / f'validation_{name}.csv', {'iter': iteration, **means})
    grid = None
    if rows and len({row.shape for row in rows}) == 1:
        grid = np.vstack(rows)
        imwrite(folder / 'visualization' / f'grid_{name}_{iteration}.png', grid)
    logger.info('validation %s, iteration %d: %s', name, iteration, _text(means))
    return means, grid


def _append_row(path: Path, row: Mapping[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def _text(values: Mapping[str, float]) -> str:
    return ', '.join(f'{name} {value:.4f}' for name, value in values.items()) or 'no metrics asked for'
