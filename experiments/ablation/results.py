"""The rows of an ablation's results, in a CSV file that is rewritten whole after each."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from basicsr.metrics.table import EvaluationError
from basicsr.utils.files import replacing

Result = dict[str, str]
KEY = ('row', 'set', 'w', 'seed')
FIRST = (*KEY, 'references', 'parts', 'status', 'reason', 'pictures', 'problems')
LAST = (
    'not_run', 'data', 'iterations', 'train_seconds', 'judge_seconds', 'checkpoint', 'sha256', 'judge', 'commit',
    'torch', 'platform', 'fingerprint',
)  # fmt: skip
DONE, FAILED = 'done', 'failed'


def key_of(result: Mapping[str, str]) -> tuple[str, ...]:
    """Return the key of a result."""
    return tuple(result[name] for name in KEY)


def read_results(path: Path) -> list[Result]:
    """Return the rows of a file; none where there is no file.

    Raises:
        EvaluationError: a column without a name, or a line with more or fewer cells than columns: files joined by hand.
    """
    if not path.exists():
        return []
    with path.open(newline='', encoding='utf-8') as file:
        head, *lines = [*csv.reader(file)] or [[]]
    for number, line in enumerate(lines, 2):
        if len(line) != len(head) or '' in head:
            raise EvaluationError(
                f'{path}, line {number}: {len(line)} cells for {len(head)} columns, {head.count("")} without a name; '
                'delete the file, and all is judged anew'
            )
    return [dict(zip(head, line, strict=True)) for line in lines]


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write the rows, whole or not at all; cells that a row lacks are empty."""
    columns = list(dict.fromkeys(name for result in results for name in result))
    middle = [name for name in columns if name not in (*FIRST, *LAST)]
    with replacing(path) as partial, partial.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, [*FIRST, *middle, *LAST])
        writer.writeheader()
        writer.writerows(results)


class Results:
    """Results by key, kept in a file.

    Args:
        path: of the CSV.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = {key_of(result): result for result in read_results(path)}

    def is_done(self, result: Mapping[str, str]) -> bool:
        """Return True if there is a good result of the same key and fingerprint."""
        known = self.rows.get(key_of(result), {})
        return known.get('status') == DONE and known.get('fingerprint') == result['fingerprint']

    def put(self, result: Result) -> None:
        """Add a result, in place of an earlier one of its key."""
        self.rows[key_of(result)] = result
        write_results(self.path, list(self.rows.values()))
