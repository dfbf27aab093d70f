"""Tables of published figures beside measured ones, as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from basicsr.metrics.table import METRICS

PUBLISHED, MEASURED, OTHER = 'published', 'in-house', 'in-house, another experiment'
ARROWS = {'higher': '↑', 'lower': '↓'}
LATEX = {
    **{character: f'\\{character}' for character in '&%$#_{}'},
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '↑': r'$\uparrow$',
    '↓': r'$\downarrow$',
    **{character: f'${character}$' for character in '<>|'},
}


@dataclass(frozen=True)
class Cell:
    """Cell of a table.

    Attributes:
        text: a figure, or in a word why there is none.
        note: the whole reason and its remedy, '' for a figure.
    """

    text: str
    note: str = ''


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        method: as its source calls it.
        kind: `PUBLISHED`; `MEASURED`, on the set, number and size of pictures that it states; or `OTHER`.
        protocol: of options/eval.
        pictures: how many were judged, of how many.
        cells: by column; a column without one was neither published nor asked for.
        about: the source of a published row; weights, data and settings of a measured one; '' for one not run.
    """

    method: str
    kind: str
    protocol: str
    pictures: str
    cells: dict[str, Cell]
    about: str


@dataclass
class Comparison:
    """A table.

    Attributes:
        title: its source.
        columns: by name of the metric; published figures stand in the column of the metric that comes nearest.
        rows: published ones, each followed by the measured one.
        remarks: of the source, and what the columns hold.
    """

    title: str
    columns: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def head(self) -> list[str]:
        """The names of all columns."""
        metrics = (f'{METRICS[metric].name} {ARROWS[METRICS[metric].better]}' for metric in self.columns)
        return ['method', 'figures', 'protocol', 'pictures', *metrics]

    @property
    def notes(self) -> list[str]:
        """Reasons of cells without a figure, each once."""
        return list(dict.fromkeys(cell.note for row in self.rows for cell in row.cells.values() if cell.note))

    def lines(self, mark: Callable[[int], str]) -> list[list[str]]:
        """Return the cells of all rows as texts.

        Args:
            mark: what refers to a note by its number, from 1.
        """
        numbers = {note: number for number, note in enumerate(self.notes, 1)}
        table = []
        for row in self.rows:
            cells = [row.cells.get(column, Cell('')) for column in self.columns]
            texts = [cell.text + (f' {mark(numbers[cell.note])}' if cell.note else '') for cell in cells]
            table.append([row.method, row.kind, row.protocol, row.pictures, *texts])
        return table

    def about(self) -> list[str]:
        """Origin of the measured rows."""
        rows = [row for row in self.rows if row.kind != PUBLISHED and row.about]
        return [f'{row.method}, {row.protocol}: {row.about}' for row in rows]


def markdown(table: Comparison) -> str:
    """Return a heading, the table, its notes, where the rows come from, remarks."""

    def plain(text: str) -> str:
        return text.replace('<', '&lt;').replace('|', '\\|')

    def line(cells: Sequence[str]) -> str:
        return '| ' + ' | '.join(map(plain, cells)) + ' |'

    head = table.head
    lines = [f'## {table.title}', '', line(head), line(['---'] * len(head))]
    lines += [line(cells) for cells in table.lines(lambda number: f'[{number}]')]
    for title, texts in _sections(table):
        lines += ['', f'{title}:', '', *(f'- {plain(text)}' for text in texts)]
    return '\n'.join(lines) + '\n'


def _sections(table: Comparison) -> list[tuple[str, list[str]]]:
    """Return the lists below a table that are not empty, with their titles."""
    notes = [f'[{number}] {note}' for number, note in enumerate(table.notes, 1)]
    sections = [('Not run', notes), ('In-house rows', table.about()), ('Remarks', list(table.remarks))]
    return [(title, texts) for title, texts in sections if texts]


def comma_separated(table: Comparison) -> str:
    """One row for each row; behind the columns where it comes from, and why cells have no figure."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['method', 'figures', 'protocol', 'pictures', *table.columns, 'about', 'not_run'])
    for row, cells in zip(table.rows, table.lines(str), strict=True):
        reasons = [f'{column}: {cell.note}' for column, cell in row.cells.items() if cell.note]
        figures = [row.cells.get(column, Cell('')) for column in table.columns]
        texts = ['' if cell.note else cell.text for cell in figures]
        writer.writerow([*cells[:4], *texts, row.about, '; '.join(reasons)])
    return file.getvalue()


def latex(table: Comparison) -> str:
    """Return a `table*` that needs no package; notes, rows and remarks are below the table."""
    head = table.head
    lines = [r'\begin{table*}', r'\centering', rf'\caption{{{_tex(table.title)}}}', r'\small']
    lines += [rf'\begin{{tabular}}{{llll{"r" * len(table.columns)}}}', r'\hline', _tex_row(head), r'\hline']
    lines += [_tex_row(cells) for cells in table.lines(lambda number: f'[{number}]')]
    lines += [r'\hline', r'\end{tabular}', r'\par\raggedright\footnotesize']
    for title, texts in _sections(table):
        lines += [rf'\textit{{{title}.}}\par', *(_tex(text) + r'\par' for text in texts)]
    return '\n'.join([*lines, r'\end{table*}']) + '\n'


def _tex_row(cells: Sequence[str]) -> str:
    return ' & '.join(map(_tex, cells)) + r' \\'


def _tex(text: str) -> str:
    return ''.join(LATEX.get(character, character) for character in text)


FORMATS: dict[str, tuple[str, Callable[[Comparison], str]]] = {
    'markdown': ('.md', markdown),
    'csv': ('.csv', comma_separated),
    'latex': ('.tex', latex),
}
