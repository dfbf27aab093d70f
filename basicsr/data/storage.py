"""Storage of picture files: a folder, an lmdb, or memory, all read alike."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from basicsr.data.common import DataError, decode_picture, list_pictures, option, relative_key
from basicsr.utils.errors import extra

logger = logging.getLogger(__name__)

META = 'meta_info.txt'
META_LINE = re.compile(r'(?P<name>.+) \((?P<height>\d+),(?P<width>\d+),(?P<channels>\d+)\) (?P<level>\d+)')
HINT = 'make it with id-codeformer data lmdb'
_environments: dict[Path, tuple[int, Any]] = {}  # open lmdb folders, with the process that opened them


class Files(Protocol):
    """The files of pictures, in the sorted order of their paths."""

    paths: list[Path]

    def read(self, index: int) -> bytes | memoryview:
        """Return the content of file `index`.

        Raises:
            DataError: it cannot be read; the message names it.
        """
        ...


class FolderFiles:
    """The picture files below a folder.

    Args:
        root: the folder.
        key: the option that names it, for messages.

    Raises:
        DataError: no such folder, or no picture in it.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.paths = list_pictures(root, key)

    def read(self, index: int) -> bytes:
        """See `Files`."""
        try:
            return self.paths[index].read_bytes()
        except OSError as error:
            raise DataError(str(error)) from error


class LmdbFiles:
    """The picture files in an lmdb as id-codeformer data lmdb and BasicSR make it.

    `meta_info.txt` names them, one a line: `name.png (height,width,channels) level`. The key of a file is its name
    without the extension. Each process opens the lmdb for itself.

    Args:
        root: the folder of the lmdb; its name ends in .lmdb.
        key: the option that names it, for messages.

    Raises:
        DataError: the package lmdb is not installed, or the folder holds no lmdb, a damaged one or another kind of one.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.place = root.resolve()
        if root.suffix != '.lmdb' or not root.is_dir():
            raise DataError(f'{key}: {root} is no folder whose name ends in .lmdb; {HINT}')
        self.paths = sorted(root / name for name in _read_meta(root / META))
        if not self.paths:
            raise DataError(f'{key}: {root / META} names no picture; {HINT}')
        self.keys = [relative_key(path, root).encode() for path in self.paths]
        _forget(self.place)  # it may have been made anew
        entries = _environment(self.place).stat()['entries']
        if entries < len(self.paths):
            raise DataError(f'{key}: {root} holds {entries} of the {len(self.paths)} pictures in {META}; {HINT}')

    def read(self, index: int) -> bytes:
        """See `Files`."""
        with extra('lmdb'):
            import lmdb

        path = self.paths[index]
        try:
            with _environment(self.place).begin() as transaction:
                raw = transaction.get(self.keys[index])
        except lmdb.Error as error:
            raise DataError(f'{path}: {error}; {HINT}') from error
        if raw is None:
            raise DataError(f'{path}: {META} names this picture, but the lmdb does not hold it; {HINT}')
        return raw


class MemoryFiles:
    """Files held in memory as they are. Decoded, JPEG faces take 12 times as much and save a tenth of the time.

    Worker processes that are forked share the one copy.

    Args:
        source: where the files come from.
    """

    def __init__(self, source: Files) -> None:
        self.paths = source.paths
        self.failures: dict[int, str] = {}
        self.content = bytearray()
        lengths = [self._append(source, index) for index in range(len(self.paths))]
        self.places = np.array(list(pairwise(accumulate(lengths, initial=0))))  # (files,2), one object for all workers
        logger.info('%d pictures in %.1f MB of memory, which all workers share', len(lengths), len(self.content) / 1e6)

    def _append(self, source: Files, index: int) -> int:
        try:
            raw = source.read(index)
        except DataError as error:
            self.failures[index] = str(error)
            return 0
        self.content += raw
        return len(raw)

    def read(self, index: int) -> memoryview:
        """See `Files`."""
        if index in self.failures:
            raise DataError(self.failures[index])
        start, end = self.places[index]
        return memoryview(self.content)[start:end]


class ChosenFiles:
    """Some of other files.

    Args:
        source: where the files come from.
        chosen: which of them, rising.
    """

    def __init__(self, source: Files, chosen: Sequence[int]) -> None:
        self.source, self.chosen = source, chosen
        self.paths = [source.paths[index] for index in chosen]

    def read(self, index: int) -> bytes | memoryview:
        """See `Files`."""
        return self.source.read(self.chosen[index])


def open_files(opt: Mapping[str, Any], key: str) -> Files:
    """Return the files in the place that option `key` names, read as `io_backend` says.

    Args:
        opt: options of a dataset. `io_backend.type` is `disk` (default), `lmdb`, or `memory`, which reads everything
            once, from a folder or an lmdb.
        key: `dataroot_gt` or `dataroot_lq`.

    Raises:
        DataError: wrong options, or nothing to read there.
    """
    backend = opt.get('io_backend') or {}
    kind = backend.get('type', 'disk')
    if kind not in ('disk', 'lmdb', 'memory') or set(backend) - {'type'}:
        raise DataError(f'io_backend: {dict(backend)} is unknown; use type: disk, lmdb or memory, and no other key')
    root = Path(option(opt, key))
    if kind == 'disk' and (root / META).is_file() and root.suffix == '.lmdb':
        raise DataError(f'{key}: {root} is an lmdb; set io_backend: {{type: lmdb}}')
    packed = kind == 'lmdb' or (kind == 'memory' and root.suffix == '.lmdb')
    files = LmdbFiles(root, key) if packed else FolderFiles(root, key)
    return MemoryFiles(files) if kind == 'memory' else files


def digests(files: Files) -> list[bytes]:
    """Return the SHA-256 of each file's content.

    Raises:
        DataError: a file that cannot be read.
    """
    return [hashlib.sha256(files.read(index)).digest() for index in range(len(files.paths))]


def read_file(files: Files, index: int, smallest: float = 1) -> np.ndarray:
    """Picture `index` as RGB uint8 (H,W,3).

    Raises:
        DataError: the file is missing, damaged, or a side shorter than `smallest` pixels; the message names it.
    """
    return decode_picture(files.read(index), files.paths[index], smallest)


def _read_meta(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path}: cannot be read ({error}); the folder is no lmdb of pictures, {HINT}') from error
    matches = [META_LINE.fullmatch(line) for line in lines]
    if None in matches:
        number = matches.index(None)
        raise DataError(
            f"{path}: line {number + 1} is '{lines[number][:80]}', not 'name.png (height,width,channels) level'; {HINT}"
        )
    return [match['name'] for match in matches if match]


def _forget(root: Path) -> None:
    """Close the lmdb, if this process or the one it was forked from has it open."""
    _, environment = _environments.pop(root, (0, None))
    if environment is not None:
        environment.close()


def _environment(root: Path) -> Any:
    """Return the lmdb, opened once in each process (it must not be used across a fork) and checked.

    Raises:
        DataError: no package to read it with, or nothing that it can read.
    """
    opener, environment = _environments.get(root, (0, None))
    if opener == os.getpid():
        return environment
    _forget(root)
    try:
        import lmdb
    except ImportError as error:
        raise DataError(f"{root}: io_backend lmdb needs the package lmdb: pip install 'id-codeformer[lmdb]'") from error
    try:
        environment = lmdb.open(str(root), readonly=True, create=False, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise DataError(f'{root}: not an lmdb, or a damaged one ({error}); {HINT}') from error
    needed = (environment.info()['last_pgno'] + 1) * environment.stat()['psize']
    present = (root / 'data.mdb').stat().st_size
    if present < needed:  # reading beyond the end would kill the process
        environment.close()
        raise DataError(f'{root / "data.mdb"}: truncated, {present} of {needed} bytes; {HINT}')
    _environments[root] = (os.getpid(), environment)
    return environment
