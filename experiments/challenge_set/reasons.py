"""Reasons for a photo in the challenge set: measured, declared, rare; for
scripts/build_challenge_set.py.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from basicsr.data.common import DataError
from experiments.challenge_set.photos import Photo

SHARES = {'glasses': 0.005, 'hat': 0.02, 'earring': 0.002}  # of the picture, from which a thing counts as there
OCCLUDED = 0.15  # of the oval of the face
AGES = (18, 40, 60)  # between the groups, years


def select(photos: Sequence[Photo], turn: float, nod: float, unlike: float) -> None:
    """Add the reasons that follow from what was measured.

    Args:
        photos: all.
        turn, nod: from which a pose counts, see `pose`.
        unlike: share of the photos, those of the least likeness, that count as unlike the person.
    """
    likeness = sorted(p.measured['likeness'] for p in photos if 'likeness' in p.measured)
    limit = likeness[min(int(unlike * len(likeness)), len(likeness) - 1)] if likeness else -np.inf
    for photo in photos:
        known = photo.measured
        found = {
            'pose': known.get('turn', 0) >= turn or known.get('nod', 0) >= nod,
            'undetected': 'turn' not in known,
            **{name: known.get(name, 0) >= share for name, share in SHARES.items()},
            'occluded': known.get('occluded', 0) >= OCCLUDED,
            'unlike': known.get('likeness', np.inf) < limit,
        }
        photo.reasons += [reason for reason, there in found.items() if there]


def read_table(path: Path, column: str | None = None) -> dict[str, dict[str, str]]:
    """Return the rows of a CSV by its column `file`, paths without extension.

    Raises:
        DataError: no such table: it lacks that column, or `column`; or a row has no file, or more than the header.
    """
    table: dict[str, dict[str, str]] = {}
    wanted = {'file', *([column] if column else [])}
    try:
        with path.open(newline='', encoding='utf-8-sig') as lines:
            reader = csv.DictReader(lines, restval='')
            if not wanted <= set(reader.fieldnames or ()):
                raise DataError(f'{path}: its columns are {reader.fieldnames}; it needs {" and ".join(sorted(wanted))}')
            for number, row in enumerate(reader, 2):
                if not row['file'] or None in row:
                    raise DataError(f'{path}: row {number} lacks the file, or has more columns than the header')
                table[Path(row['file']).with_suffix('').as_posix()] = row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'{path}: cannot be read as a table ({error})') from error
    return table


def declare(photos: Sequence[Photo], path: Path) -> None:
    """Add the reasons of a list of `file` and `reason` (several joined by ';').

    Raises:
        DataError: it names a photo that is not there, or lacks a column.
    """
    table = read_table(path, 'reason')
    by_name = {photo.name: photo for photo in photos}
    for name, row in table.items():
        if name not in by_name:
            raise DataError(f'{path}: {row["file"]} is not among the {len(photos)} photos')
        reasons = [reason.strip() for reason in row['reason'].split(';') if reason.strip()]
        by_name[name].reasons += [reason for reason in reasons if reason not in by_name[name].reasons]


def spread(photos: Sequence[Photo], path: Path, count: int, seed: int) -> None:
    """Fill up each group of the labels to `count` selected photos, as far as there are so many.

    Args:
        photos: with their other reasons.
        path: CSV of `file` and labels; the numbers of a column `age` are taken in groups.
        count: of photos of each group.
        seed: of the draw among those that have no other reason.

    Raises:
        DataError: it lacks the column `file`, or an age is no number.
    """
    rng = np.random.default_rng(seed)
    groups: dict[str, list[Photo]] = defaultdict(list)
    table = read_table(path)
    for photo in photos:
        for column, value in table.get(photo.name, {}).items():
            if column == 'age' and value:
                value = _age_group(value, f'{path}: {photo.name}')
            if column != 'file' and value:
                groups[f'{column} {value}'].append(photo)
    for name, members in sorted(groups.items()):
        rest = [photo for photo in members if not photo.reasons]
        lacking = max(0, count - (len(members) - len(rest)))
        for index in rng.permutation(len(rest))[:lacking]:
            rest[index].reasons.append(f'spread: {name}')


def _age_group(value: str, where: str) -> str:
    try:
        age = int(float(value))
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: the age '{value}' is no number; leave it empty where it is not known") from error
    low = max((limit for limit in AGES if age >= limit), default=0)
    high = min((limit for limit in AGES if age < limit), default=None)
    return f'{low}-{high - 1}' if high else f'{low}+'
