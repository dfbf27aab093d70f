"""The checkpoints of a run: from which it can go on, which are kept, and the best by validation.

A checkpoint is `models/<network>_<iteration>.pth` of every network and `training_states/<iteration>.state`. The state
is written last and removed first, so where it is, the networks it belongs to are whole.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basicsr.metrics import row_of
from basicsr.utils.checkpoint import CheckpointError, DamagedError, read_checkpoint
from basicsr.utils.files import write_text
from basicsr.utils.registry import METRIC_REGISTRY

logger = logging.getLogger('basicsr')

STATE_KEYS = {'iter', 'optimizers', 'scaler', 'extra'}
RECORD = {'metric': str, 'dataset': str, 'better': str, 'value': (int, float), 'iteration': int, 'judged': int}
"""Keys and types of `net_g_best.json`."""


def state_file(folder: Path, iteration: int) -> Path:
    """Return the training state of an iteration in a run's folder."""
    return folder / 'training_states' / f'{iteration}.state'


def network_file(folder: Path, name: str, label: int | str) -> Path:
    """Return a network's weights in a run's folder."""
    return folder / 'models' / f'{name}_{label}.pth'


def read_saved(path: Path, networks: Iterable[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Read a training state, and the network files that belong to it.

    Raises:
        DamagedError: one of them is missing, damaged, or not what a run saves.
    """
    try:
        state = read_checkpoint(path)
        _check_state(state, path)
        files = {name: network_file(path.parent.parent, name, state['iter']) for name in networks}
        contents = {name: read_checkpoint(file) for name, file in files.items()}
    except DamagedError:
        raise
    except CheckpointError as error:  # one is not there
        raise DamagedError(str(error)) from error
    for name, content in contents.items():
        if not isinstance(content.get('params'), dict):
            raise DamagedError(f"{files[name]}: no weights under 'params'")
    return state, contents


def _check_state(state: Mapping[str, Any], path: Path) -> None:
    """Raise DamagedError where a training state has not the parts that `BaseModel.save` writes."""
    if STATE_KEYS - set(state):
        raise DamagedError(f'{path}: not a training state')
    kinds = {'iter': int, 'optimizers': dict, 'scaler': dict, 'extra': dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(state[key], kind)]
    if wrong or (path.stem.isdigit() and int(path.stem) != state['iter']):
        raise DamagedError(f"{path}: '{(wrong or ['iter'])[0]}' is not what a run saves")
    for name, part in state['optimizers'].items():
        groups = part.get('param_groups') if isinstance(part, dict) and isinstance(part.get('state'), dict) else None
        if not isinstance(groups, list) or not all(
            isinstance(group, dict) and isinstance(group.get('params'), list) for group in groups
        ):
            raise DamagedError(f'{path}: what it has of {name} is no state of an optimiser')


@contextmanager
def taking_up(path: Path) -> Iterator[None]:
    """Turn errors of a model that takes a training state back into that of a damaged file."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise DamagedError(f'{path}: it holds something else than a run saves ({error})') from error


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise TypeError where what an optimizer remembers of a parameter is not finite or of another shape."""
    kinds = {frozenset(entry) for entry in optimizer.state.values()}
    if len(kinds) > 1:
        raise TypeError('parameters differ in what is remembered of them')
    for parameter, entry in optimizer.state.items():
        for key, value in entry.items():
            if not isinstance(value, Tensor):
                if not isinstance(value, (int, float, type(None))):
                    raise TypeError(f'{key} is a {type(value).__name__}')
            elif torch.broadcast_shapes(value.shape, parameter.shape) != parameter.shape or not value.isfinite().all():
                raise TypeError(f'{key} of shape {tuple(value.shape)} for a parameter {tuple(parameter.shape)}')


def newest_usable(folder: Path, use: Callable[[Path], object]) -> tuple[Path | None, list[str]]:
    """Find the newest state of a run that is whole, None if it has none; and what is wrong with newer ones.

    Args:
        folder: the run's.
        use: reads a state; its DamagedError means that the state before is tried.

    Raises:
        CheckpointError: there are states, but none is whole; or `use` said that one belongs to other options.
    """
    states = [path for path in (folder / 'training_states').glob('*.state') if path.stem.isdigit()]
    problems: list[str] = []
    for path in sorted(states, key=lambda path: int(path.stem), reverse=True):
        try:
            use(path)
        except DamagedError as error:
            problems.append(str(error))
        else:
            return path, problems
    if problems:
        raise CheckpointError(
            f'{folder}: no checkpoint to go on from is whole: {"; ".join(problems)}. Bring one back, or begin anew '
            'without --auto_resume, which sets this folder aside'
        )
    return None, []


def set_aside_later(folder: Path, start: int) -> None:
    """Rename states after iteration `start`, of a training that is not gone on with, to `<iteration>.state.undone`.

    Best weights that such a training reached after it count no more.
    """
    states = [path for path in (folder / 'training_states').glob('*.state') if path.stem.isdigit()]
    later = [path for path in states if int(path.stem) > start]
    for path in later:
        path.replace(path.with_name(f'{path.name}.undone'))
    best = folder / 'models' / 'net_g_best.json'
    if later and best.is_file() and _read_record(best).get('iteration', 0) > start:
        best.unlink()


def _read_record(path: Path) -> dict[str, Any]:
    """Read what `Best` wrote; nothing where there is no such file, or a damaged one."""
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
        wrong = [key for key, kind in RECORD.items() if not isinstance(record[key], kind) or record[key] is True]
        if wrong:
            raise ValueError(f"'{wrong[0]}' is {record[wrong[0]]!r}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        said = str(error) if isinstance(error, (OSError, ValueError)) else type(error).__name__
        logger.warning('%s: cannot be read (%s); the best weights are looked for anew', path, said)
        return {}
    return record


def rotate(folder: Path, newest: int, keep_last: int, keep_every: int | None = None) -> None:
    """Remove the checkpoints before `newest`, which is whole, but for the last ones and those at round iterations.

    Args:
        folder: the run's.
        newest: iteration of the last checkpoint; it, and any later one, stays.
        keep_last: how many stay, `newest` among them; at least 1.
        keep_every: those at multiples of it stay too.
    """
    found: dict[int, list[Path]] = {}
    for path in (*(folder / 'training_states').glob('*.state'), *(folder / 'models').glob('net_*.pth')):
        number = re.fullmatch(r'(?:net_\w+?_)?(\d+)', path.stem)
        if number and int(number[1]) <= newest:
            found.setdefault(int(number[1]), []).append(path)
    for iteration in sorted(found, reverse=True)[keep_last:]:
        if keep_every and iteration % keep_every == 0:
            continue
        for path in found[iteration]:  # the state first
            path.unlink(missing_ok=True)


class Best:
    """The best weights by validation, `models/net_g_best.pth`; `net_g_best.json` beside it says what they reached.

    Options (`val:best`): `metric`, by default the first of `val:metrics`, and `dataset`, by default the first
    validation section.

    Attributes:
        judged: the last iteration that was validated.
    """

    def __init__(self, opt: Mapping[str, Any], folder: Path) -> None:
        val = opt.get('val') or {}
        metrics, asked = val.get('metrics') or {}, val.get('best') or {}
        self.metric = asked.get('metric') or next(iter(metrics), None)
        self.dataset = asked.get('dataset') or next((name for name in opt['datasets'] if name.startswith('val')), None)
        self.active = self.metric is not None and self.dataset is not None
        kind = metrics[self.metric]['type'] if self.active else 'calculate_psnr'
        self.better = row_of(METRIC_REGISTRY.get(kind)).better
        self.path = folder / 'models' / 'net_g_best.json'
        self.record = self._read()
        self.judged = int(self.record.get('judged', 0))

    def _read(self) -> dict[str, Any]:
        """Read the record of an earlier part of the run; empty if it was judged by another metric."""
        record = _read_record(self.path)
        same = (record.get('metric'), record.get('dataset')) == (self.metric, self.dataset)
        return record if same else {}

    def see(self, means: Mapping[str, Mapping[str, float]], iteration: int, save: Callable[[Path], None]) -> None:
        """Compare a validation with the best one so far, and `save` the weights if they are better.

        Args:
            means: for each validation set the mean of each metric.
            iteration: of the weights.
            save: writes them to a path.
        """
        self.judged = iteration
        if not self.active:
            return
        value = means[str(self.dataset)][str(self.metric)]
        if self._is_better(value):
            save(self.path.with_suffix('.pth'))
            self.record = {
                'metric': self.metric,
                'dataset': self.dataset,
                'better': self.better,
                'value': value,
                'iteration': iteration,
            }
            logger.info('best so far: %s %.4f on %s', self.metric, value, self.dataset)
        if self.record:
            write_text(self.path, json.dumps({**self.record, 'judged': iteration}, indent=2) + '\n')

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        old = self.record.get('value')
        return old is None or (value > old if self.better == 'higher' else value < old)
