"""The manifest of downloadable weights files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

import yaml

from basicsr.utils.download import defect, download
from basicsr.utils.folders import packaged
from basicsr.utils.registry import nearest


@dataclass(frozen=True)
class WeightsFile:
    """One entry of the manifest.

    Attributes:
        file: where it goes, relative to the weights folder.
        url: where it comes from.
        licence: its terms of use.
        used_by: which part of the project reads it.
        sha256: its sum, or None where the project's authors could not verify one.
        sha256_prefix: the first digits of its sum, where only these are published.
        size: in bytes, or None where it is not known.
        mirrors: other addresses of the same file.
    """

    file: str
    url: str
    licence: str
    used_by: str
    sha256: str | None = None
    sha256_prefix: str | None = None
    size: int | None = None
    mirrors: tuple[str, ...] = ()

    @property
    def pinned(self) -> str | None:
        """The digits that the sum must start with."""
        return self.sha256 or self.sha256_prefix

    def is_present(self, folder: str | os.PathLike) -> bool:
        """Return True if the file is in the weights folder, with the size and the sum that are stated for it."""
        target = Path(folder) / self.file
        return target.is_file() and defect(target, self.pinned, self.size) is None

    def fetch(self, folder: str | os.PathLike, mirrors: Sequence[str] = ()) -> Path:
        """Return the file in the weights folder, downloaded unless it is there.

        Args:
            folder: the weights folder.
            mirrors: addresses of copies of a weights folder, asked for `file` before its own addresses.

        Raises:
            DownloadError: it could not be had.
        """
        copies = [f'{mirror.rstrip("/")}/{quote(self.file)}' for mirror in mirrors]
        first, *others = (*copies, self.url, *self.mirrors)
        return download(first, Path(folder) / self.file, sha256=self.pinned, size=self.size, mirrors=others)


def read_manifest(path: str | os.PathLike) -> dict[str, list[WeightsFile]]:
    """Return the groups of a manifest (YAML), each a list of files.

    Raises:
        OSError: no such file.
        ValueError: it is no manifest, or an entry has an unknown key, lacks one, has one of another type, an address
            that is not of the web, or a file outside the weights folder; the message names the file and the entry.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: not valid YAML: {error}') from error
    if not isinstance(content, dict) or not all(isinstance(items, list) for items in content.values()):
        raise ValueError(f'{path}: a manifest is a mapping of groups to lists of files')
    return {group: [_entry(item, f'{path}: {group}') for item in items] for group, items in content.items()}


def where_to_get(path: str | os.PathLike) -> str:
    """Return the command that makes or fetches a missing weights file, for messages; '' where none is known."""
    path = Path(path)
    if 'experiments' in path.parts[:-2]:
        run = path.parts[path.parts.index('experiments') + 1]
        return f"; the training called '{run}' makes it: run that first, or name another file"
    try:
        manifest = read_manifest(packaged('weights') / 'manifest.yml')
    except (OSError, ValueError):
        return ''
    for group, entries in manifest.items():
        if any(Path(entry.file).name == path.name for entry in entries):
            return f"; 'python scripts/download_pretrained_models.py {group}' fetches it"
    return ''


def _entry(item: Any, place: str) -> WeightsFile:
    if not isinstance(item, dict):
        raise ValueError(f'{place}: an entry is a mapping of keys to values, not {item!r}')
    known = [field.name for field in fields(WeightsFile)]
    for key in item:
        if key not in known:
            raise ValueError(f"{place}: unknown key '{key}'{nearest(key, known)}")
    missing = [key for key in ('file', 'url', 'licence', 'used_by') if not item.get(key)]
    if missing:
        raise ValueError(f'{place}: an entry without {", ".join(missing)}: {item}')
    entry = WeightsFile(**{**item, 'mirrors': tuple(item.get('mirrors') or ())})
    texts = (entry.file, entry.url, entry.licence, entry.used_by, entry.sha256 or '', entry.sha256_prefix or '')
    if not all(isinstance(text, str) for text in (*texts, *entry.mirrors)) or not isinstance(entry.size or 0, int):
        raise ValueError(f'{place}: {entry.file}: size is a number, every other value a text (put sums in quotes)')
    if leads_outside(entry.file):
        raise ValueError(f'{place}: {entry.file}: must be a path below the weights folder, without ..')
    for address in (entry.url, *entry.mirrors):
        if not address.startswith(('http://', 'https://')):
            raise ValueError(f'{place}: {entry.file}: {address} is not an http or https address')
    return entry


def leads_outside(name: str) -> bool:
    """Return True if a relative name could lead out of the folder that it is put below, on any system."""
    windows = PureWindowsPath(name)
    absolute = PurePosixPath(name).is_absolute() or windows.drive or windows.root
    return bool(absolute) or '..' in windows.parts or '\0' in name
