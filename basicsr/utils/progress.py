"""Progress with the time left: a bar on a terminal, elsewhere a line every ten seconds. Shown where a command asks."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar, cast

from tqdm import tqdm

from basicsr.utils.console import printable

T = TypeVar('T')
LINE_EVERY = 10.0  # seconds
DELAY = 2.0  # seconds; work that is done sooner shows no bar
_showing = False


@contextmanager
def show_progress() -> Iterator[None]:
    """Within, `progress` and `track` show what they count."""
    global _showing
    before, _showing = _showing, True
    try:
        yield
    finally:
        _showing = before


@contextmanager
def progress(total: int | None, unit: str, name: str = '') -> Iterator[Callable[[], object]]:
    """Yield a function to call after each of `total` units of something called `name`; None is an unknown number."""
    if not _showing:
        yield lambda: None
    elif sys.stderr.isatty():
        with tqdm(total=total, unit=unit, desc=printable(name) or None, delay=DELAY, file=sys.stderr) as bar:
            yield bar.update
    else:
        with _lines(total, unit, name) as step:
            yield step


def track(items: Iterable[T], unit: str, name: str = '') -> Iterator[T]:
    """Yield the same items, each counted once the next is asked for."""
    total = len(items) if isinstance(items, Sized) else None
    if total == 1:  # nothing would be seen of it
        yield from items
        return
    with progress(total, unit, name) as step:
        for item in items:
            yield item
            step()


@contextmanager
def _lines(total: int | None, unit: str, name: str) -> Iterator[Callable[[], object]]:
    """Lines in place of a bar."""
    begin, done, ended = time.monotonic(), 0, threading.Event()

    def step() -> None:
        nonlocal done
        done += 1

    def write() -> None:
        while not ended.wait(LINE_EVERY):
            elapsed = time.monotonic() - begin
            print(
                tqdm.format_meter(done, cast(float, total), elapsed, ncols=0, prefix=printable(name), unit=unit),
                file=sys.stderr,
            )
            sys.stderr.flush()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield step
    finally:
        ended.set()
        thread.join()
