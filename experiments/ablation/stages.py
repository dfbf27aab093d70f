"""Trainings of an ablation: each in a process of its own, named by its options, so that equal ones are one."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basicsr.models.schema import check_options
from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.files import write_text
from basicsr.utils.options import OptionError, dump_options, load_options
from basicsr.utils.registry import nearest
from experiments.ablation.plan import Plan, PlanError, Row

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = 'experiments'  # where basicsr/train.py puts runs, below the working folder
COLUMNS = ('stage', 'row', 'seed', 'seconds', 'code', 'reason')


class FailedError(IDCodeFormerError):
    """A process that did not do its work; the message is its reason."""


@dataclass(frozen=True)
class Training:
    """A stage with all its options.

    Attributes:
        name: of the run below experiments/: the option file's, the seed, and digits of all options. Equal options (with
            those of the stages before) give one name, changed ones another.
        options: resolved.
    """

    name: str
    options: Mapping[str, Any]

    @property
    def checkpoint(self) -> Path:
        """Written at the end of the run, and only then."""
        return Path(EXPERIMENTS) / self.name / 'models' / 'net_g_latest.pth'


def _has(options: Mapping[str, Any], change: str) -> bool:
    """Return True if the key of a `section:key=value` stands in options."""
    section: Any = options
    for key in change.partition('=')[0].split(':'):
        if not isinstance(section, Mapping) or key not in section:
            return False
        section = section[key]
    return True


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Options with the runs that they name called as they are called here."""
    if isinstance(value, Mapping):
        return {key: _renamed(entry, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [_renamed(entry, names) for entry in value]
    if isinstance(value, str):
        folder, _, rest = value.removeprefix(f'{EXPERIMENTS}/').partition('/')
        if value.startswith(f'{EXPERIMENTS}/') and folder in names:
            return f'{EXPERIMENTS}/{names[folder]}/{rest}'
    return value


def trainings_of(row: Row, seed: int, shared: Sequence[str]) -> list[Training]:
    """Return the stages of a row with their options.

    Args:
        row: of stages.
        seed: of those that state none.
        shared: changes to every stage whose option file has the key.

    Raises:
        PlanError: options that are wrong, or a stage that none of the later ones goes on from.
    """
    done: list[Training] = []
    names: dict[str, str] = {}
    for stage in row.stages:
        try:
            own = load_options(stage.opt)
            options = load_options(stage.opt, [*(c for c in shared if _has(own, c)), *stage.force_yml])
            original = str(options.get('name'))
            options = _renamed({**options, 'manual_seed': seed if stage.seed is None else stage.seed}, names)
            check_options(options)
        except OptionError as error:
            raise PlanError(f'row {row.name}: {stage.opt}: {error}') from error
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
        name = names[original] = f'{original}_s{options["manual_seed"]}_{digest}'
        done.append(Training(name, {**options, 'name': name}))
    for place, (stage, training) in enumerate(zip(row.stages[:-1], done[:-1], strict=True)):
        if not any(f'{EXPERIMENTS}/{training.name}/' in json.dumps(later.options) for later in done[place + 1 :]):
            raise PlanError(
                f'row {row.name}: no later stage goes on from {stage.opt}; change path:pretrain_network_g by force_yml'
            )
    return done


def check_shared(plan: Plan) -> None:
    """Every shared change is for some stage of the plan, if it has any.

    Raises:
        PlanError: one is for none, which a mistyped key would be.
    """
    files = {stage.opt for row in plan.rows.values() for stage in row.stages}
    try:
        options = [load_options(file) for file in files]
    except OptionError as error:
        raise PlanError(str(error)) from error
    for change in plan.force_yml if options else ():
        if not any(_has(entry, change) for entry in options):
            key = change.partition('=')[0]
            known = {':'.join(path) for entry in options for path in _paths(entry)}
            raise PlanError(f"force_yml: '{key}' stands in no option file of the plan{nearest(key, known)}")


def _paths(options: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for key, value in options.items():
        found += [(key, *rest) for rest in _paths(value)] if isinstance(value, Mapping) else [(key,)]
    return found


def parts_of(trainings: Sequence[Training]) -> tuple[str, ...]:
    """Return the parts, of `plan.PARTS`, that a row was trained with, without stage I, which the rows share."""
    network = trainings[-1].options['network_g']
    own = [entry.options for entry in trainings if entry.options['network_g']['type'] != 'VQAutoEncoder']
    conditioned = network['type'] == 'IDCodeFormer'
    found = {
        'identity_loss': any(options['train'].get('identity_opt') for options in own),
        'transformer': conditioned and network.get('condition_transformer', True),
        'ia_cft': conditioned and network.get('ia_cft', True),
    }
    return tuple(name for name, there in found.items() if there)


def run_process(command: Sequence[str], log: Path) -> tuple[int, str]:
    """Run a process to its end, its output appended to a file; return its exit code, and why it failed.

    Whatever ends this process (Ctrl-C, SIGTERM) is passed on to that one, and its end awaited: a training saves then.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('ab') as file:
        start = file.tell()
        # Of a session of its own, so that Ctrl-C reaches it once: a second signal would end a training unsaved.
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code == 0:
        return 0, ''
    with log.open('rb') as file:
        file.seek(start)
        lines = [line for line in file.read().decode('utf-8', 'replace').split('\n') if line.strip()]
    said = [line.partition(' ERROR: ')[2] for line in lines if ' ERROR: ' in line] or lines[-1:]
    what = f'killed by {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'
    return code, f'{what}: {said[-1].strip()[:400]}' if said else what


class Trainer:
    """Trains what is not trained yet.

    Args:
        out: the ablation's folder; it keeps the option files, logs, and `stages.csv` with a row for each process.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.record = out / 'stages.csv'
        self.failed: dict[str, str] = {}

    def train(self, training: Training, row: str, seed: int) -> None:
        """Train a stage unless that was done; one that was begun goes on.

        Raises:
            FailedError: it failed, now or earlier in this process.
        """
        if training.checkpoint.is_file():
            return
        if training.name in self.failed:
            raise FailedError(self.failed[training.name])
        file = self.out / 'options' / f'{training.name}.yml'
        write_text(file, dump_options(training.options))
        log = self.out / 'logs' / f'{training.name}.log'
        print(f'row {row}, seed {seed}: training {training.name} (what it says is in {log})', flush=True)
        command = [sys.executable, str(ROOT / 'basicsr' / 'train.py'), '-opt', str(file), '--auto_resume']
        begun, code, reason = time.monotonic(), -1, 'the ablation was ended'
        try:
            code, reason = run_process(command, log)
        finally:
            seconds = round(time.monotonic() - begun, 1)
            self._note([training.name, row, seed, seconds, code, reason])
        if code:
            self.failed[training.name] = f'stage {training.name}: {reason}'
            raise FailedError(self.failed[training.name])

    def _note(self, entry: Sequence[Any]) -> None:
        new = not self.record.exists()
        with self.record.open('a', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows([COLUMNS, entry] if new else [entry])

    def seconds(self, trainings: Sequence[Training]) -> float:
        """Return the seconds of the stages, interrupted and failed tries included."""
        if not self.record.exists():
            return 0.0
        names = {training.name for training in trainings}
        with self.record.open(newline='', encoding='utf-8') as file:
            return sum(float(entry['seconds']) for entry in csv.DictReader(file) if entry['stage'] in names)
