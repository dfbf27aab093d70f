"""Figures that others published: one file of tables, each with its source, and nothing of ours among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from basicsr.metrics.table import EvaluationError, check_metrics
from basicsr.utils.folders import packaged
from basicsr.utils.registry import nearest

FILE = packaged('options') / 'eval' / 'published.yaml'
EMPTY, NOT_TRANSCRIBED = '-', '?'


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper; what the keys mean stands at the top of the file.

    Attributes:
        source: what its rows are cited as.
        where: section, page or caption.
        protocol: of options/eval that comes nearest to what the source describes; None where it names no set.
        pictures: number that the source states.
        columns: as printed, each with the metric of ours that comes nearest.
        rows: method to figures as printed, digits included, in the order of the columns; `EMPTY` for an empty cell,
            `NOT_TRANSCRIBED` for a figure that was not at hand.
        remarks: what must be known, above all where the source contradicts itself.
    """

    source: str
    where: str
    protocol: str | None
    pictures: int | None
    columns: Mapping[str, str]
    rows: Mapping[str, tuple[str, ...]]
    remarks: tuple[str, ...]

    def values(self, method: str) -> dict[str, float]:
        """Column to figure of a method, without cells that have none."""
        pairs = zip(self.columns, self.rows[method], strict=True)
        return {column: float(text) for column, text in pairs if _is_figure(text)}


def load_published(path: Path = FILE) -> dict[str, PublishedTable]:
    """Return the tables of a file by name.

    Raises:
        EvaluationError: the file is wrong; the message names the table and the row or key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise EvaluationError(f'{path}: cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise EvaluationError(f'{path}: tables by name are expected')
    return {name: _table(entry, f'{path}: {name}') for name, entry in content.items()}


def _table(entry: Any, place: str) -> PublishedTable:
    known = [field.name for field in fields(PublishedTable)]
    if not isinstance(entry, dict) or set(entry) != set(known):
        raise EvaluationError(f'{place}: a table has {", ".join(known)}, and no more')
    try:
        check_metrics(list(entry['columns'].values()))
    except EvaluationError as error:
        raise EvaluationError(f'{place}: columns: {error}') from error
    rows = {method: tuple(str(figures).split()) for method, figures in entry['rows'].items()}
    for method, figures in rows.items():
        if len(figures) != len(entry['columns']) or not all(
            text in (EMPTY, NOT_TRANSCRIBED) or _is_figure(text) for text in figures
        ):
            raise EvaluationError(
                f'{place}: {method}: {len(entry["columns"])} figures, or {EMPTY}, are expected: {" ".join(figures)}'
            )
    return PublishedTable(**{**entry, 'rows': rows, 'remarks': tuple(entry['remarks'])})


def _is_figure(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def find_published(name: str) -> PublishedTable:
    """Return the table of a name.

    Raises:
        EvaluationError: there is none; the message names those that there are.
    """
    tables = load_published()
    if name not in tables:
        raise EvaluationError(f"no table '{name}'{nearest(name, tables)}; there are {', '.join(tables)}")
    return tables[name]


def published_rows(protocol: str) -> tuple[dict[str, Any], ...]:
    """Rows of `method`, `source` and `values` by column, of all tables of a protocol."""
    return tuple(
        {'method': method, 'source': table.source, 'values': table.values(method)}
        for table in load_published().values()
        if table.protocol == protocol
        for method in table.rows
    )
