"""Downloading weights: resumed where it broke off, checked before it gets its name, or one clear error."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from types import ModuleType
from typing import IO

from tqdm import tqdm

from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.files import NO_LOCKS, text_kind

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
ATTEMPTS = 3
LARGEST = 1 << 33  # bytes of a file whose size is not known
PATIENCE = 60.0  # seconds after which a connection must have brought SLOWEST bytes a second on average
SLOWEST = 1000
HANDLERS = (
    urllib.request.ProxyHandler, urllib.request.UnknownHandler, urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler, urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
)  # fmt: skip
"""Of the web only: urllib's own list has ftp, files and data addresses too."""


class DownloadError(IDCodeFormerError, RuntimeError):
    """A file that could not be had; the message names the addresses, the reasons, the target and the remedy."""


class OtherFileError(IDCodeFormerError, OSError):
    """Raised where a server sends another file than the one asked for."""


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file, 64 lower-case hex digits."""
    digest = hashlib.sha256()
    with Path(path).open('rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    url: str,
    target: str | os.PathLike,
    sha256: str | None = None,
    size: int | None = None,
    mirrors: Iterable[str] = (),
    timeout: float = 30.0,
) -> Path:
    """Fetch `url` into the file `target`, unless a file that passes the checks is there.

    The file grows as `<target>.part` and gets its name when its size and sum are right. A later call goes on with the
    part where the server allows it and `sha256` can show that the whole is right. Web pages, bodies of another size,
    endless ones and those below 1 kB a second are given up. Of several processes that want one file, one fetches it
    and the others wait.
    Proxies come from the environment (`https_proxy`, `no_proxy`).

    Args:
        url: http or https address.
        target: the file to write; folders are made where missing.
        sha256: the expected sum, or its first digits; None checks nothing.
        size: the expected size in bytes; None checks nothing.
        mirrors: other addresses of the same file, tried in turn when `url` fails.
        timeout: seconds without an answer or a byte before a connection is given up.

    Returns:
        `target` as a Path.

    Raises:
        DownloadError: every address failed; nothing new is left under the name of `target`.
    """
    target = Path(target)
    if target.is_file() and defect(target, sha256, size) is None:
        return target
    part, addresses = target.with_name(target.name + '.part'), (url, *mirrors)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part):
            failures = _fetch_any(addresses, part, target, sha256, size, timeout)
    except OSError as error:
        failures = [f'{target.parent}: cannot be written ({error})']
    if failures:
        reasons = '\n  '.join(failures)
        raise DownloadError(
            f'{target}: could not be downloaded\n  {reasons}\n'
            f'Try again later, or fetch the file from {" or ".join(addresses)} by other means and save it as {target}'
        )
    return target


def _fetch_any(
    addresses: tuple[str, ...], part: Path, target: Path, sha256: str | None, size: int | None, timeout: float
) -> list[str]:
    """Make `target` from the first address that serves it right; what went wrong everywhere, or nothing."""
    failures = []
    if target.is_file():
        wrong = defect(target, sha256, size)
        if wrong is None:  # by now: another process fetched it
            return []
        failures.append(f'the file that is there: {wrong}')
    for address in addresses:
        if sha256 is None:
            _empty(part)  # nothing would show that what is there is of another file
        try:
            _fetch(address, part, target.name, timeout, size)
        except OtherFileError as error:
            failures.append(f'{address}: {error}')
            _empty(part)
            continue
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f'{address}: {error}')
            continue
        wrong = defect(part, sha256, size)
        if wrong is None:
            part.replace(target)
            return []
        failures.append(f'{address}: {wrong}')
        _empty(part)
    return failures


def _empty(part: Path) -> None:
    """Empty a partial file, which is locked and so not removed."""
    if part.exists():
        os.truncate(part, 0)


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Wait until no other process of this machine works on `part`, and keep others waiting until done.

    The lock is on the partial file itself, so it ends with the process in whatever way, and nothing stays behind. Under
    it the file may be emptied, but not removed: others would then lock another one.
    """
    try:
        import fcntl
    except ImportError:  # Windows, which refuses to rename a file that another process writes
        yield
        return
    while True:
        with part.open('ab') as file:
            _wait_for(file, part, fcntl)
            if part.exists() and os.path.samestat(part.stat(), os.fstat(file.fileno())):
                try:
                    yield
                finally:
                    if part.exists() and part.stat().st_size == 0:
                        part.unlink()
                return


def _wait_for(file: IO[bytes], part: Path, fcntl: ModuleType) -> None:
    """Lock an open file; where its file system has no locks, do without."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning('%s: another process is fetching it; waiting', part)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def defect(path: Path, sha256: str | None, size: int | None) -> str | None:
    """Return the defect of a file's size or sum, or None. An expectation of None is not checked."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f'{found} bytes instead of {size}'
    if sha256 is not None and not (digest := sha256_of(path)).startswith(sha256.lower()):
        return f'its sha256 is {digest} instead of {sha256}'
    return None


def _fetch(url: str, part: Path, label: str, timeout: float, size: int | None) -> None:
    """Bring `part` to the end of the file at `url`; a connection that breaks off is taken up again a few times."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _open(url, part.stat().st_size if part.exists() else 0, timeout) as response:
                _receive(response, part, label, size)
            return
        except (urllib.error.URLError, OtherFileError):  # no such host, no such file: not worth another try
            raise
        except (OSError, HTTPException):
            if attempt == ATTEMPTS:
                raise


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a server to other addresses of the web, but never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Raise URLError where the new address is none to follow to."""
        secure = req.full_url.startswith('https://')
        if not newurl.startswith('https://' if secure else ('http://', 'https://')):
            raise urllib.error.URLError(f'redirected to {newurl}, which is no {"https" if secure else "web"} address')
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, offset: int, timeout: float) -> HTTPResponse:
    """Request what follows the first `offset` bytes; the status is 206 where the server supports that."""
    if not url.startswith(('http://', 'https://')):
        raise ValueError('not an http or https address')
    headers = {'Range': f'bytes={offset}-'} if offset else {}
    try:
        opener = urllib.request.OpenerDirector()  # urlopen would keep the proxies that it saw first
        for handler in (*HANDLERS, _Redirects):
            opener.add_handler(handler())
        return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:  # nothing follows: the partial file is as long as this one, or longer
            error.close()
            return _open(url, 0, timeout)
        raise


def _receive(response: HTTPResponse, part: Path, label: str, size: int | None) -> None:
    """Append the answer to `part` where it continues it, else write `part` anew.

    Raises:
        OtherFileError: it is a web page, or of another size; `part` is left as it is.
        ConnectionError: fewer bytes came than announced, too few a second, or others than asked for.
    """
    start = part.stat().st_size if response.status == 206 else 0
    sent = response.headers.get('Content-Range', '')
    if start and not sent.startswith(f'bytes {start}-'):
        raise ConnectionError(f"asked for the bytes from {start} on, the server sent '{sent}'")
    announced = response.headers.get('Content-Length')
    total = None if announced is None else start + int(announced)
    if total is not None and total != (size or total):
        raise OtherFileError(f'{total} bytes instead of {size}')
    chunk = response.read1(CHUNK)
    if not start and (kind := text_kind(chunk)):
        raise OtherFileError(kind)
    begun = time.monotonic()
    bar = tqdm(desc=label, initial=start, total=total, unit='B', unit_scale=True, disable=None)
    with bar, part.open('ab' if start else 'wb') as file:
        while chunk:
            file.write(chunk)
            bar.update(len(chunk))
            done, seconds = file.tell(), time.monotonic() - begun
            if done > (size or LARGEST):
                raise OtherFileError(f'more than {size or LARGEST} bytes')
            if seconds > PATIENCE and done - start < SLOWEST * seconds:
                raise ConnectionError(
                    f'too slow: {done - start} bytes in {seconds:.0f} s; {part} is kept to go on from'
                )
            chunk = response.read1(CHUNK)  # what has come, so that a server that stalls afterwards costs none of it
        done = file.tell()
    if total is not None and done < total:
        raise ConnectionError(f'the connection ended after {done} of {total} bytes; {part} is kept to go on from')
