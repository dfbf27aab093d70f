"""Protocols of evaluation: which pictures, made how, judged by what, and what was published about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from basicsr.metrics.published import published_rows
from basicsr.metrics.table import EvaluationError, check_metrics
from basicsr.utils.folders import packaged
from basicsr.utils.registry import nearest

FOLDER = packaged('options') / 'eval'


@dataclass(frozen=True)
class Protocol:
    """A file of options/eval.

    Attributes:
        name: of the file.
        title: for people.
        download: what to fetch, with its terms.
        pictures: how many there are, by role (`restored`, `gt`, `lq`, `ref`).
        naming: how files are named.
        inputs: how low-quality inputs come about: `given` with the set, or `synthetic` with a seed and ranges.
        metrics: that the set is judged by.
        w: fidelity weight of the rows that are restored here, one for all of them.
        fid_reference: what the FID compares with.
        note: what must be known about the published figures.
        published: rows of `method`, `source` and `values` by column; figures of others, which stand in published.yaml
            under the protocol's name.
    """

    name: str
    title: str
    download: tuple[Mapping[str, Any], ...]
    pictures: Mapping[str, int | None]
    naming: str
    inputs: Mapping[str, Any]
    metrics: tuple[str, ...]
    w: float
    fid_reference: str
    note: str = ''
    published: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def columns(self) -> list[str]:
        """Of the published rows, in their order."""
        return list(dict.fromkeys(key for row in self.published for key in row['values']))


def load_protocol(name: str) -> Protocol:
    """Return a protocol by its name in options/eval, or by the path of a file.

    Raises:
        EvaluationError: there is none, or the file is wrong; the message names the key.
    """
    path = Path(name) if name.endswith(('.yml', '.yaml')) else FOLDER / f'{name}.yml'
    if not path.is_file():
        raise EvaluationError(f"no protocol '{name}'{nearest(name, (file.stem for file in FOLDER.glob('*.yml')))}")
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EvaluationError(f'{path}: not valid YAML: {error}') from error
    if not isinstance(content, dict):
        raise EvaluationError(f'{path}: a protocol is a mapping of keys to values')
    known = [entry.name for entry in fields(Protocol) if entry.name not in ('name', 'published')]
    for key in content:
        if key not in known:
            where = '; figures of others stand in options/eval/published.yaml' if key == 'published' else ''
            raise EvaluationError(f"{path}: unknown key '{key}'{nearest(key, known)}{where}")
    missing = [key for key in known[:-1] if key not in content]
    if missing:
        raise EvaluationError(f'{path}: {", ".join(missing)} missing')
    content |= {key: tuple(content.get(key) or ()) for key in ('download', 'metrics')}
    check_metrics(content['metrics'])
    if isinstance(content['w'], bool) or not isinstance(content['w'], (int, float)) or not 0 <= content['w'] <= 1:
        raise EvaluationError(f'{path}: w is a number from 0 to 1, not {content["w"]!r}')
    return Protocol(path.stem, **content, published=published_rows(path.stem))
