"""Results of each file: a record, a summary as JSON, a table for the screen, an exit code."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from basicsr.inference.found_face import ALREADY_SHARP, LEFT_OUT, RESTORED, FoundFace
from basicsr.inference.identity_meter import FaceIdentity
from basicsr.utils.console import printable
from basicsr.utils.files import replacing

DONE = frozenset({RESTORED, ALREADY_SHARP, LEFT_OUT})


@dataclass(frozen=True)
class FaceRecord:
    """One face of a picture.

    Attributes:
        number: as in the names of its crops, and as `--draw_box` writes it.
        status: `restored`, `already_sharp`, `uncertain` or `left_out`.
        box: left, top, right and bottom in pixels of the picture; of a picture that is an aligned face, all of it.
        size: side in pixels of the picture that the aligned face covers.
        message: why it was left alone.
    """

    number: int
    status: str
    box: list[int]
    size: int
    message: str = ''


def describe_faces(faces: Sequence[FoundFace]) -> list[FaceRecord]:
    """Return a record for each face of a picture."""
    records = []
    for number, face in enumerate(faces):
        box = [0, 0, face.size, face.size] if face.face is None else face.face.box.tolist()
        records.append(FaceRecord(number, face.status, [round(value) for value in box], round(face.size), face.reason))
    return records


def why_left(faces: Sequence[FaceRecord]) -> str:
    """Name the faces that were left alone, and the reasons."""
    numbers: dict[str, list[str]] = {}
    for face in faces:
        if face.message:
            numbers.setdefault(face.message, []).append(str(face.number))
    return '; '.join(
        f'{"face" if len(group) == 1 else "faces"} {", ".join(group)} left alone: {reason}'
        for reason, group in numbers.items()
    )


@dataclass(frozen=True)
class FileRecord:
    """One file.

    Attributes:
        input: its path.
        status: `restored`, `already_sharp`, `uncertain`, `left_out`, `no_face` or `failed`; `restored_blind` where
            references were given and could have no effect.
        faces: how many were found.
        restored: how many of them were restored; the others were left alone.
        outputs: what was written, relative to the output folder.
        message: why it failed, or what else there is to say.
        identity: what became of the likeness of each face, where it was measured.
        found: each face of a picture.
    """

    input: str
    status: str
    faces: int = 0
    restored: int = 0
    outputs: list[str] = field(default_factory=list)
    message: str = ''
    identity: list[FaceIdentity] = field(default_factory=list)
    found: list[FaceRecord] = field(default_factory=list)


def write_summary(path: str | os.PathLike, records: Sequence[FileRecord], about: Mapping[str, Any]) -> None:
    """All records as JSON, after what `about` says of the run; complete or not at all.

    Bytes of file names that are no UTF-8 are written as the escapes that `json.load` turns back into them.
    """
    counts = dict(Counter(record.status for record in records))
    content = {**about, 'counts': counts, 'files': [asdict(record) for record in records]}
    text = json.dumps(content, indent=2, ensure_ascii=False) + '\n'
    with replacing(path) as partial:
        partial.write_bytes(text.encode('utf-8', 'backslashreplace'))


def format_table(records: Sequence[FileRecord], root: str | os.PathLike) -> str:
    """Return a line for each file, its path relative to `root` if it lies below, and a last line of counts."""
    rows = [('file', 'status', 'faces', 'restored', 'message')]
    for record in records:
        numbers = (str(record.faces), str(record.restored))
        rows.append((_name(record, root), record.status, *numbers, printable(record.message)))
    counts = Counter(record.status for record in records)
    total = ', '.join(f'{number} {status}' for status, number in sorted(counts.items()))
    return '\n'.join([*_aligned(rows), f'{len(records)} file(s): {total}'])


def format_identity(records: Sequence[FileRecord], root: str | os.PathLike) -> str:
    """Return a line for each measured face: cosines with its person or its input, w, and the warning."""
    rows = [('file', 'face', 'compared with', 'before', 'after', 'w', 'warning')]
    for record in records:
        for face in record.identity:
            before = '' if face.before is None else f'{face.before:.2f}'
            numbers = (before, f'{face.after:.2f}', f'{face.w:g}')
            person = printable(face.person or face.compared_with)
            rows.append((_name(record, root), str(face.face), person, *numbers, printable(face.warning)))
    return '\n'.join(_aligned(rows))


def nobody_matched(records: Sequence[FileRecord], root: str | os.PathLike) -> str:
    """Return a line on references that no restored face was taken for, with the best cosine; empty if one was."""
    faces = [(face, record) for record in records for face in record.identity]
    if any(face.person is not None for face, _ in faces):
        return ''
    similar = [(face.nearest_cosine, face, record) for face, record in faces if face.nearest_cosine is not None]
    if not similar:
        return 'the references were not used: no face was restored'
    cosine, face, record = max(similar, key=lambda each: each[0])
    nearest = f'face {face.face} of {_name(record, root)} with {face.nearest}'
    return printable(f'no face was taken for anybody of --ref; the best cosine is {cosine:.2f}, of {nearest}')


def _name(record: FileRecord, root: str | os.PathLike) -> str:
    path = Path(record.input)
    return printable(str(path.relative_to(root) if path.is_relative_to(root) and path != Path(root) else path))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the cells of each column below each other."""
    widths = [*(max(map(len, column)) for column in zip(*rows, strict=True))][:-1]
    return [
        '  '.join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]


def exit_code(records: Sequence[FileRecord]) -> int:
    """0 if there are files and every one was done, else 1."""
    return 0 if records and all(record.status in DONE for record in records) else 1
