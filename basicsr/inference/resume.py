"""Sharing a folder among machines, keeping the summary of a run, and going on where an earlier run ended."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basicsr.inference.identity_meter import FaceIdentity
from basicsr.inference.jobs import SUMMARY, Job, is_summary
from basicsr.inference.report import DONE, FaceRecord, FileRecord, write_summary

# What does not change a result; the others are compared with those of an earlier run.
INDIFFERENT = frozenset(
    {'input_path', 'output_path', 'resume', 'shard', 'device', 'batch_size', 'weights_dir', 'max_megapixels', 'bg_tile'}
)
SAVE_EVERY = 10.0  # seconds between two writings of a summary,
SAVE_SHARE = 20  # and at least so many times as long as writing it took


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of the work.

    Args:
        number: from 1 to `count`.
        count: of parts.

    Raises:
        ValueError: numbers that do not fit.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f'part {self} must be from 1/{self.count} to {self.count}/{self.count}')

    def __str__(self) -> str:
        return f'{self.number}/{self.count}'

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/8`, the second of eight parts.

        Raises:
            ValueError: it is written otherwise, or numbers do not fit.
        """
        if not re.fullmatch(r'\d+/\d+', text):
            raise ValueError(f"'{text}' is not written as 2/8, the second of eight parts")
        number, count = map(int, text.split('/'))
        return cls(number, count)

    @property
    def summary(self) -> str:
        """The name of the summary, its own for each part."""
        return SUMMARY if self.count == 1 else f'summary_{self.number}_of_{self.count}.json'

    def part(self, jobs: Sequence[Job]) -> list[Job]:
        """Return every `count`-th job, so that parts take about as long."""
        return list(jobs[self.number - 1 :: self.count])


def read_record(entry: dict[str, Any]) -> FileRecord:
    """Read a file's entry of a summary.

    Raises:
        TypeError: keys that a record does not have, or lacks.
        KeyError: likewise.
    """
    identity = [FaceIdentity(**face) for face in entry['identity']]
    return FileRecord(**{**entry, 'identity': identity, 'found': [FaceRecord(**face) for face in entry['found']]})


def read_summaries(output: Path) -> list[tuple[dict[str, Any], list[FileRecord]]]:
    """Read the settings and records of all summaries in a folder, the newest first.

    Raises:
        ValueError: a summary cannot be read; the message names it.
    """
    found = []
    paths = [path for path in output.glob('*.json') if is_summary(path.name)]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            about = json.loads(path.read_text(encoding='utf-8'))
            found.append((about, [read_record(entry) for entry in about.pop('files')]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f'--resume: {path} is damaged or of another version ({error}); remove it, or choose another -o'
            ) from error
    return found


def finished(jobs: Sequence[Job], output: Path, flags: dict[str, Any]) -> tuple[dict[Path, FileRecord], list[str]]:
    """Find the jobs that earlier runs did, and the flags that were others then.

    A job is done if a summary says so, all its results are there, and its input is not newer than they are.

    Args:
        jobs: planned.
        output: the folder for the results.
        flags: of this run, as its summary has them under `flags`.

    Returns:
        Records by the path of the job; `name old -> new` for flags that differ.

    Raises:
        ValueError: a summary cannot be read.
    """
    kept: dict[Path, FileRecord] = {}
    changed: dict[str, None] = {}
    planned = {job.path.resolve(): job for job in jobs}
    for about, records in read_summaries(output):
        for record in records:
            job = planned.get(Path(record.input).resolve())
            if job is None or job.path in kept or not _is_done(record, job, output):
                continue
            kept[job.path] = record
            then = about.get('flags', {})
            names = [name for name in flags if name not in INDIFFERENT and name in then]
            changed |= {f'{n} {then[n]} -> {flags[n]}': None for n in names if then[n] != flags[n]}
    return kept, list(changed)


def _is_done(record: FileRecord, job: Job, output: Path) -> bool:
    if record.status not in DONE or not record.outputs:
        return False
    results = [output / name for name in record.outputs]
    if not all(path.is_file() for path in results):
        return False
    return min(path.stat().st_mtime for path in results) >= job.path.stat().st_mtime


@dataclass
class RunSummary:
    """Plan and results of a run, and its summary on the disk.

    Attributes:
        path: of the summary.
        about: what it says of the run.
        jobs: to be done.
        kept: records of earlier runs.
        records: of this one.
        next_write: when the summary is due, on the monotonic clock.
    """

    path: Path
    about: dict[str, Any]
    jobs: list[Job]
    kept: list[FileRecord] = field(default_factory=list)
    records: list[FileRecord] = field(default_factory=list)
    next_write: float = field(default_factory=lambda: time.monotonic() + SAVE_EVERY)

    def write(self, **more: str) -> None:
        """Write the summary, with more said of the run.

        Raises:
            OSError: it cannot be written.
        """
        write_summary(self.path, [*self.kept, *self.records], self.about | more)

    def note(self, record: FileRecord) -> None:
        """Take a record; write the summary now and then, so that a killed run can be resumed.

        A summary that cannot be written is left to the end of the run, where that is said.
        """
        self.records.append(record)
        begin = time.monotonic()
        if begin < self.next_write:
            return
        try:
            self.write()
        except OSError:
            self.next_write = math.inf
            return
        end = time.monotonic()
        self.next_write = end + max(SAVE_EVERY, SAVE_SHARE * (end - begin))
