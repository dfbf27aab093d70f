"""Contact sheet of an ablation's rows on the same faces; the faces are chosen by their place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from basicsr.metrics.pictures import Folder
from basicsr.utils.files import at_even_steps
from basicsr.utils.image import imread, sheet
from experiments.ablation.judge import Job
from experiments.references import own_references


def faces_sheet(folders: Mapping[str, Path], count: int = 6) -> np.ndarray:
    """Faces at even steps of a set: what each row makes of it, target, and (where there are any) a reference.

    Args:
        folders: row to the folder of its result, with the `job.json` of its judging.
        count: faces.
    """
    jobs = {row: Job.read(folder / 'job.json') for row, folder in folders.items()}
    first = next(iter(jobs.values()))
    columns = {}
    if all(job.checkpoint for job in jobs.values()):  # else some row shows the input
        columns['input'] = Folder.scan(first.folders['lq'], 'lq').files
    for row, job in jobs.items():
        columns[row] = Folder.scan(folders[row] / 'restored' if job.checkpoint else job.folders['lq'], row).files
    columns['target'] = Folder.scan(first.folders['gt'], 'gt').files
    chosen = at_even_steps(sorted(set.intersection(*(set(files) for files in columns.values()))), count)
    rows = [[imread(files[name]) for files in columns.values()] for name in chosen]
    titles = list(columns)
    if 'ref' in first.folders:
        references = Folder.scan(first.folders['ref'], 'ref')
        for row, name in zip(rows, chosen, strict=True):
            row += [imread(path) for path in own_references(references, name, 1)] or [np.full_like(row[-1], 255)]
        titles.append('reference')
    return sheet(rows, titles)
