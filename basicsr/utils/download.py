"""Downloading weights: resumed where it broke off, checked before it gets its name, or one clear error."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm import tqdm

CHUNK = 1 << 20
ATTEMPTS = 3


class DownloadError(RuntimeError):
    """A file that could not be had; the message names the addresses, the reasons, the target and the remedy."""


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, 64 lower-case hex digits."""
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

    The file grows as `<target>.part`, which a later call goes on with where the server allows it, and gets its name
    when its size and sum are right. Proxies come from the environment (`https_proxy`, `no_proxy`).

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
    failures = []
    if target.is_file():
        wrong = defect(target, sha256, size)
        if wrong is None:
            return target
        failures.append(f'the file that is there: {wrong}')
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + '.part')
    for address in (url, *mirrors):
        try:
            _fetch(address, part, target.name, timeout)
        except (OSError, HTTPException) as error:
            failures.append(f'{address}: {error}')
            continue
        wrong = defect(part, sha256, size)
        if wrong is None:
            part.replace(target)
            return target
        failures.append(f'{address}: {wrong}')
        part.unlink()
    reasons = '\n  '.join(failures)
    raise DownloadError(
        f'{target}: could not be downloaded\n  {reasons}\n'
        f'Try again later, or fetch the file from {url} by other means and save it as {target}'
    )


def defect(path: Path, sha256: str | None, size: int | None) -> str | None:
    """What is wrong with the size or the sum of a file, or None. An expectation of None is not checked."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f'{found} bytes instead of {size}'
    if sha256 is not None and not (digest := sha256_of(path)).startswith(sha256.lower()):
        return f'its sha256 is {digest} instead of {sha256}'
    return None


def _fetch(url: str, part: Path, label: str, timeout: float) -> None:
    """Bring `part` to the end of the file at `url`; a connection that breaks off is taken up again a few times."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _open(url, part.stat().st_size if part.exists() else 0, timeout) as response:
                _receive(response, part, label)
            return
        except urllib.error.URLError:  # no such host, no such file: not worth another try
            raise
        except (OSError, HTTPException):
            if attempt == ATTEMPTS:
                raise


def _open(url: str, offset: int, timeout: float) -> HTTPResponse:
    """The answer to a request for what follows the first `offset` bytes; status 206 where the server does that."""
    headers = {'Range': f'bytes={offset}-'} if offset else {}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:  # nothing follows: the partial file is as long as this one, or longer
            error.close()
            return _open(url, 0, timeout)
        raise


def _receive(response: HTTPResponse, part: Path, label: str) -> None:
    """Append the answer to `part` where it continues it, else write `part` anew.

    Raises:
        ConnectionError: fewer bytes came than announced.
    """
    start = part.stat().st_size if response.status == 206 else 0
    announced = response.headers.get('Content-Length')
    total = None if announced is None else start + int(announced)
    bar = tqdm(desc=label, initial=start, total=total, unit='B', unit_scale=True, disable=None)
    with bar, part.open('ab' if start else 'wb') as file:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        done = file.tell()
    if total is not None and done < total:
        raise ConnectionError(f'the connection ended after {done} of {total} bytes; {part} is kept to go on from')
