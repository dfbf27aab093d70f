"""The manifest of downloadable weights files."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from basicsr.utils.download import defect, download
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
        mirrors: other addresses of the same file.
    """

    file: str
    url: str
    licence: str
    used_by: str
    sha256: str | None = None
    sha256_prefix: str | None = None
    mirrors: tuple[str, ...] = ()

    @property
    def pinned(self) -> str | None:
        """The digits that the sum must start with."""
        return self.sha256 or self.sha256_prefix

    def is_present(self, folder: str | os.PathLike) -> bool:
        """Whether the file is in the weights folder and its sum is the pinned one."""
        target = Path(folder) / self.file
        return target.is_file() and defect(target, self.pinned, None) is None

    def fetch(self, folder: str | os.PathLike) -> Path:
        """The file in the weights folder, downloaded unless it is there.

        Raises:
            DownloadError: it could not be had.
        """
        return download(self.url, Path(folder) / self.file, sha256=self.pinned, mirrors=self.mirrors)


def read_manifest(path: str | os.PathLike) -> dict[str, list[WeightsFile]]:
    """The groups of a manifest (YAML), each a list of files.

    Raises:
        ValueError: an entry has an unknown key or lacks one; the message names the file and the entry.
    """
    with Path(path).open(encoding='utf-8') as file:
        content = yaml.safe_load(file)
    return {group: [_entry(item, f'{path}: {group}') for item in items] for group, items in content.items()}


def _entry(item: dict[str, Any], place: str) -> WeightsFile:
    known = [field.name for field in fields(WeightsFile)]
    for key in item:
        if key not in known:
            raise ValueError(f"{place}: unknown key '{key}'{nearest(key, known)}")
    missing = [key for key in ('file', 'url', 'licence', 'used_by') if not item.get(key)]
    if missing:
        raise ValueError(f'{place}: an entry without {", ".join(missing)}: {item}')
    return WeightsFile(**{**item, 'mirrors': tuple(item.get('mirrors', ()))})
