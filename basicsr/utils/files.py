"""Names of files, and writing files whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from basicsr.utils.errors import IDCodeFormerError

T = TypeVar('T')
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
VIDEO_EXTENSIONS = frozenset(
    {'.mp4', '.m4v', '.mov', '.qt', '.avi', '.divx', '.mkv', '.webm', '.mpg', '.mpeg', '.mpe', '.m1v', '.m2v', '.vob'}
    | {'.ts', '.mts', '.m2ts', '.wmv', '.asf', '.flv', '.f4v', '.ogv', '.ogm', '.3gp', '.3g2', '.mxf', '.nut', '.ivf'}
    | {'.dv', '.rm', '.rmvb', '.y4m'}
)
LONGEST_NAME = 255  # bytes of a file's name, on the usual file systems
LFS_POINTER = b'version https://git-lfs'
WEB_PAGE = (b'<!doctype html', b'<html', b'<head', b'<body', b'<?xml', b'<script', b'<!--')
PARTIAL_NAME = re.compile(r'\.[0-9a-f]+\.part$')  # of what `replacing` writes


class InUseError(IDCodeFormerError, RuntimeError):
    """Another process is at it; the message says at what."""


def is_video_file(path: str | os.PathLike) -> bool:
    """Return True if the extension is that of a clip."""
    return Path(path).suffix.lower() in VIDEO_EXTENSIONS


def user_path(text: str) -> str:
    """Return a path that a user gave, with `~` as the home folder; a name that only begins with it stays."""
    return os.path.expanduser(text)  # noqa: PTH111 - pathlib raises for names like ~$a.png


def shorten_name(name: str, room: int = LONGEST_NAME) -> str:
    """`name` where its bytes are at most `room`, else its beginning, '~' and eight digits of its SHA-256."""
    raw = os.fsencode(name)
    if len(raw) <= room:
        return name
    digits = '~' + hashlib.sha256(raw).hexdigest()[:8]
    return raw[: room - len(digits)].decode('utf-8', 'ignore') + digits


def text_kind(head: bytes) -> str | None:
    """Name what a file that begins with `head` is, if downloads often leave that in place of the file wanted."""
    text = head.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
    if text.startswith(LFS_POINTER):
        return 'a Git LFS pointer, not the file itself; fetch that with `git lfs pull` or from its page'
    if text.startswith(WEB_PAGE):
        return 'a web page, not the file: its address, or a login page of the network, answered instead'
    if text.startswith((b'{', b'[')):
        return 'a JSON text, not the file, as servers send with an error'
    return None


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to. It becomes `path` at the end, and is removed after an error.

    The name cannot be foreseen, and the file is locked while it is written, so that `remove_abandoned` knows those of
    processes that were killed. Folders are made where missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = f'.{secrets.token_hex(4)}.part'
    partial = path.with_name('.' + shorten_name(path.name, LONGEST_NAME - 1 - len(ending)) + ending)
    handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)  # never through a link
    locked = _try_lock(handle)
    try:
        if locked is None:  # Windows renames no file that is open
            os.close(handle)
        yield partial
        partial.replace(path)
    finally:
        if locked is not None:
            os.close(handle)
        partial.unlink(missing_ok=True)


def _try_lock(handle: int) -> bool | None:
    """Lock an open file if nobody has it: whether that was done; None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_abandoned(folder: str | os.PathLike, recursive: bool = True) -> None:
    """Remove what killed processes left half written by `replacing` in a folder, and in those below if `recursive`."""
    root = Path(folder)
    for partial in [*(root.rglob if recursive else root.glob)('.*.part')]:
        if not PARTIAL_NAME.search(partial.name) or partial.is_symlink() or not partial.is_file():
            continue
        with suppress(OSError):  # what cannot be removed is in nobody's way
            handle = os.open(partial, os.O_RDWR)
            try:
                free = _try_lock(handle)
            finally:
                os.close(handle)
            if free is not False:
                partial.unlink()


def check_file(path: Path, error: type[Exception], kind: str) -> None:
    """Raise `error` unless `path` is a regular file with something in it.

    Args:
        path: the file.
        error: the type to raise; its message names the file and says what is wrong.
        kind: what the file should be, for the message.
    """
    try:
        if path.is_dir():
            next(path.iterdir(), None)  # without permission to look into it, that is the trouble
            raise error(f'{path}: a folder, not a {kind}')
        if path.is_symlink() and not path.exists():
            raise error(f'{path}: the link leads nowhere')
        if not path.is_file():
            raise error(f'{path}: {"no regular file" if path.exists() else "no such file"}')
        if path.stat().st_size == 0:
            raise error(f'{path}: the file is empty')
    except PermissionError as denied:
        raise error(f'{path}: no permission to read it') from denied


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all; bytes of names that are no text are written as `\\udcxx`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding='utf-8', errors='backslashreplace')


def csv_text(text: str) -> str:
    """Return a cell for a table that spreadsheets open: an apostrophe before what they would take for a formula."""
    return f"'{text}" if text.startswith(('=', '+', '-', '@', '\t', '\r')) else text


def lock(path: str | os.PathLike, what: str) -> IO[str]:
    """Return a file that one process at a time has open under a lock, until it closes it or ends, in whatever way.

    Where the file system or Windows has no such locks, nothing is locked.

    Args:
        path: the file; it stays. Folders are made where missing.
        what: what the lock is for, for messages.

    Raises:
        InUseError: another process has it.
        OSError: the file cannot be made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open('a')
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return file
    except OSError as error:
        if error.errno in NO_LOCKS:
            return file
        file.close()
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise InUseError(f'{what} is going on in another process ({path}); wait for it or stop it') from error
        raise
    return file


def at_even_steps(names: Sequence[T], count: int) -> list[T]:
    """`count` of the names (all, if there are fewer), from the first on."""
    count = min(count, len(names))
    return [names[i * len(names) // count] for i in range(count)]
