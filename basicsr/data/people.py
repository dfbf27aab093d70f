"""People of a folder: the person on each picture, by sub-folders or by a list."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from basicsr.data.common import DataError, table_keys
from basicsr.utils.image import is_image_file

logger = logging.getLogger(__name__)


def people_of(paths: Sequence[Path], root: Path, file: str | Path | None = None) -> list[str | None]:
    """Return the person on each picture; None for pictures that the list does not name.

    Args:
        paths: the pictures, below `root`.
        root: their folder; without a list it holds one sub-folder for each person.
        file: a list of `file` (the path below `root`, with or without extension; its last part where that is unique)
            and `person`: a CSV with these two columns, or a text of lines `file person` as CelebA has it.

    Raises:
        DataError: a picture outside the sub-folders; or a list that cannot be read, names a picture twice with
            different people, or names none of the pictures.
    """
    if file is None:
        return [_folder_of(path, root) for path in paths]
    table = _read(Path(file))
    people = [next((table[key] for key in keys if key in table), None) for keys in table_keys(paths, root)]
    named = sum(person is not None for person in people)
    if not named:
        raise DataError(f'{file}: names none of the {len(paths)} pictures in {root}; its first is {next(iter(table))}')
    if named < len(paths):
        logger.info('%s names %d of the %d pictures in %s; the others are left out', file, named, len(paths), root)
    return people


def _folder_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts
    if len(parts) < 2:
        raise DataError(
            f'{path}: lies in no folder of a person; sort the pictures into {root}/<person>/, or name a list of file '
            'and person (identities; id-codeformer data group makes one)'
        )
    return parts[0]


def _read(file: Path) -> dict[str, str]:
    """Return the person by the path of the picture, without extension."""
    table: dict[str, str] = {}
    try:
        rows = list(_csv_rows(file) if file.suffix.lower() == '.csv' else _text_rows(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'{file}: cannot be read as a list of file and person ({error})') from error
    for name, person in rows:
        key = str(PurePosixPath(name).with_suffix('')) if is_image_file(name) else name
        if table.setdefault(key, person) != person:
            raise DataError(f"{file}: {name} is both '{table[key]}' and '{person}'; keep one line")
    if not table:
        raise DataError(f'{file}: an empty list; it needs file and person of every picture')
    return table


def _csv_rows(file: Path) -> Iterator[tuple[str, str]]:
    with file.open(newline='', encoding='utf-8-sig') as lines:
        reader = csv.DictReader(lines)
        if not {'file', 'person'} <= set(reader.fieldnames or ()):
            raise DataError(f"{file}: its columns are {reader.fieldnames}; it needs 'file' and 'person'")
        for number, row in enumerate(reader, 2):
            if not row['file'] or not row['person']:
                raise DataError(f'{file}: row {number} lacks file or person')
            yield row['file'], row['person']


def _text_rows(file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(file.read_text(encoding='utf-8').splitlines(), 1):
        words = line.rsplit(maxsplit=1)
        if len(words) == 1:
            raise DataError(f"{file}: line {number} is '{line[:80]}', not 'file person'")
        if words:
            yield words[0].strip(), words[1]
