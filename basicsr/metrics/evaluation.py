"""An evaluation: every restored folder judged by every metric, picture by picture, and what the numbers say."""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from basicsr.metrics import METRICS
from basicsr.metrics.builders import Settings, build_scorers
from basicsr.metrics.pictures import REFUSED, Case, Cases, Folder, match, score
from basicsr.metrics.scorers import NotRunError, Scorer
from basicsr.metrics.table import EvaluationError, check_metrics
from basicsr.utils.download import sha256_of
from basicsr.utils.logger import environment
from basicsr.utils.workers import start_worker

PACKAGES = ('scikit-image', 'scipy', 'opencv-python', 'lpips', 'facexlib', 'pyiqa')
IDENTITY = ('ids', 'ids_ref', 'ids_lq')
PERCENTILES = (5, 25, 50)
LOST = 0.3  # below this cosine a face is taken for somebody else's


@dataclass
class Run:
    """Scores of one restored folder.

    Attributes:
        label: the folder's name, for tables.
        folder: it.
        scores: picture to metric to value; None where a metric has none for the picture.
        paths: picture to its files by role.
        sets: metrics of the whole set to `mean` and `count`.
        not_run: metrics of the set that could not be computed, and why.
        problems: files that could not be judged, one message each.
        changes: what was done to pictures before they were compared, and to how many.
    """

    label: str
    folder: Path
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    paths: dict[str, dict[str, Path]] = field(default_factory=dict)
    sets: dict[str, dict[str, float]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)

    def values(self, metric: str) -> dict[str, float]:
        """Picture to value, of those that have one."""
        found = {name: scores.get(metric) for name, scores in self.scores.items()}
        return {name: value for name, value in found.items() if value is not None}


@dataclass
class Evaluation:
    """All runs with what they were judged by.

    Attributes:
        runs: in the order given; the first is the baseline of the differences.
        scorers: metrics that were computed.
        not_run: metrics that could not be computed, and why.
    """

    runs: list[Run]
    scorers: list[Scorer]
    not_run: dict[str, str]

    @property
    def problems(self) -> list[str]:
        """Of all runs, each once."""
        return list(dict.fromkeys(problem for run in self.runs for problem in run.problems))

    def metrics(self) -> list[str]:
        """Names of the metrics that were computed."""
        return [scorer.metric for scorer in self.scorers]


def labels(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, or the whole path where two have one name.

    Raises:
        EvaluationError: one folder is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise EvaluationError('--restored: a folder is given twice')
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


@torch.inference_mode()
def evaluate(
    restored: Sequence[Path],
    others: Mapping[str, Path],
    metrics: Sequence[str],
    settings: Settings,
    workers: int = 0,
    resize: str | None = None,
) -> Evaluation:
    """Judge restored folders.

    Args:
        restored: folders of restored pictures.
        others: folders by role, of `gt`, `lq` and `ref`.
        metrics: names of the table.
        settings: weights and device.
        workers: processes that read pictures and compute what needs no network; no value depends on it.
        resize: `gt` or `restored`, which is brought to the size of the other where they differ; None refuses these.

    Raises:
        EvaluationError: an unknown metric, or a folder that is missing or empty.
    """
    names = check_metrics(metrics)
    runs = [Run(label, folder) for label, folder in zip(labels(restored), restored, strict=True)]
    folders = [Folder.scan(run.folder, '--restored') for run in runs]
    sides = {role: Folder.scan(folder, f'--{role}') for role, folder in others.items()}
    scorers, not_run = build_scorers(names, settings, set(sides))
    if not scorers:
        raise EvaluationError('no metric can be computed: ' + '; '.join(f'{k}: {v}' for k, v in not_run.items()))
    needed = {METRICS[scorer.metric].against for scorer in scorers} & set(sides)
    for run, folder in zip(runs, folders, strict=True):
        cases, run.problems = match(folder, sides, needed)
        run.problems += [problem for side in sides.values() for problem in side.problems]
        read = Cases(cases, computed_on_reading(scorers), resize)
        _judge(run, read, scorers, workers, len(sides['gt'].files) if 'gt' in sides else 0)
    return Evaluation(runs, scorers, not_run)


def _alone(case: Any) -> Any:
    """Return the case as it is, as the loader's collation."""
    return case


def computed_on_reading(scorers: Sequence[Scorer]) -> dict[str, Callable[[Case], float | None]]:
    """Return the functions that are computed where pictures are read."""
    return {scorer.metric: scorer.compute for scorer in scorers if scorer.by_reading}


def _judge(run: Run, cases: Cases, scorers: Sequence[Scorer], workers: int, truths: int) -> None:
    """Fill `run`; `truths`: how many ground truths there are."""
    for scorer in scorers:
        scorer.start(truths)
    seeing = {scorer.metric: scorer.compute for scorer in scorers if not scorer.by_reading}
    start = partial(start_worker, main=os.getpid())
    loader = DataLoader(cases, batch_size=None, num_workers=workers, collate_fn=_alone, worker_init_fn=start)
    for case in tqdm(loader, desc=run.label, unit='picture', disable=None):
        if case.images:
            score(case, seeing)
            order = [scorer.metric for scorer in scorers if METRICS[scorer.metric].inputs != 'set']
            run.scores[case.name] = {metric: case.scores.get(metric) for metric in order}
            run.paths[case.name] = case.paths
            run.changes.update(case.changes)
        run.problems += case.problems
    for scorer in scorers:
        try:
            result = scorer.result()
            if result and not all(map(math.isfinite, result.values())):
                raise NotRunError('its value is not finite')
            if result:
                run.sets[scorer.metric] = result
        except (NotRunError, *REFUSED) as error:
            run.not_run[scorer.metric] = str(error)


def summarise(metric: str, values: Mapping[str, float], pictures: int) -> dict[str, float]:
    """Mean with its bootstrap interval, percentiles and counts of a metric's values.

    Infinite values (the PSNR of equal pictures) are counted and left out; `without` counts pictures with no value.
    """
    finite = [value for value in values.values() if math.isfinite(value)]
    row: dict[str, float] = {'count': len(finite), 'without': pictures - len(values)}
    row |= {'infinite': len(values) - len(finite)}
    if not finite:
        return row
    mean, low, high = paired_bootstrap(finite, [0.0] * len(finite))
    row |= {'mean': mean, 'low': low, 'high': high}
    row |= {f'p{q}': float(np.percentile(finite, q)) for q in PERCENTILES}
    if metric in IDENTITY:
        row['lost'] = float(np.mean(np.array(finite) < LOST))
    return row


def differences(run: Run, baseline: Run, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the mean paired difference of each metric with its bootstrap interval, over the common pictures."""
    rows = {}
    for metric in metrics:
        ours, theirs = run.values(metric), baseline.values(metric)
        common = [name for name in ours if name in theirs and math.isfinite(ours[name]) and math.isfinite(theirs[name])]
        if common:
            mean, low, high = paired_bootstrap([ours[name] for name in common], [theirs[name] for name in common])
            rows[metric] = {'mean': mean, 'low': low, 'high': high, 'count': len(common)}
    return rows


def _versions() -> dict[str, Any]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return {**environment(), **found}


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but the single values, as plain values for JSON."""
    sums = {path: sha256_of(path) for scorer in evaluation.scorers for path in scorer.files if path.is_file()}
    runs, baseline = {}, evaluation.runs[0]
    for run in evaluation.runs:
        metrics = {}
        for metric in evaluation.metrics():
            if METRICS[metric].inputs != 'set':
                metrics[metric] = summarise(metric, run.values(metric), len(run.scores))
            elif metric in run.sets:
                metrics[metric] = run.sets[metric]
        runs[run.label] = {
            'folder': str(run.folder),
            'pictures': len(run.scores),
            'metrics': metrics,
            'not_run': run.not_run,
            'changes': dict(run.changes),
            'problems': run.problems,
        }
        if run is not baseline:
            runs[run.label]['difference_to'] = baseline.label
            runs[run.label]['differences'] = differences(run, baseline, evaluation.metrics())
    about = {
        scorer.metric: {
            'name': METRICS[scorer.metric].name,
            'better': METRICS[scorer.metric].better,
            'protocol': scorer.protocol,
            'weights': [{'file': path.name, 'sha256': sums.get(path)} for path in scorer.files],
        }
        for scorer in evaluation.scorers
    }
    return {'runs': runs, 'metrics': about, 'not_run': evaluation.not_run, 'environment': _versions()}


def paired_bootstrap(
    scores: Sequence[float], baseline: Sequence[float], rounds: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean difference of two lists of scores of the same items, and its bootstrap interval (Efron, 1979).

    Args:
        scores: one an item.
        baseline: of the same items in the same order.
        rounds: resamples.
        level: of the interval.
        seed: of the resampling.

    Returns:
        Mean of `scores - baseline`, and the lower and upper end of the percentile interval.

    Raises:
        ValueError: lists of different or no length.
    """
    if len(scores) != len(baseline) or not len(scores):
        raise ValueError(f'paired scores must be of one length, and some; not {len(scores)} and {len(baseline)}')
    differences = np.asarray(scores, float) - np.asarray(baseline, float)
    rng = np.random.default_rng(seed)
    picks = (rng.integers(len(differences), size=(100, len(differences))) for _ in range(rounds // 100))
    means = np.concatenate([differences[pick].mean(1) for pick in picks])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(differences.mean()), float(low), float(high)
