"""Progress with the time left: a bar on a terminal, elsewhere a line every ten seconds. Shown where a command asks.

Programs that use the library listen to the same steps, and cancel between them, with `listen`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar, cast

from tqdm import tqdm

from basicsr.utils.console import printable

T = TypeVar('T')
LINE_EVERY = 10.0  # seconds
DELAY = 2.0  # seconds; work that is done sooner shows no bar
_showing = False


class CancelledError(BaseException):
    """Work was cancelled through `listen`. No file's failure, so that nothing that goes on after those catches it."""


@dataclass(frozen=True)
class Step:
    """Progress of some work.

    Attributes:
        done: units that are done.
        total: of how many; None where that is not known.
        unit: what they are: `file`, `batch`, `face`, `step`, `tile` or `frame`.
        name: of what is worked on, or empty.
    """

    done: int
    total: int | None
    unit: str
    name: str


@dataclass(frozen=True)
class _Listener:
    """Whoever listens to the work of a thread, and may cancel it."""

    notify: Callable[[Step], object] | None
    cancel: threading.Event | None

    def check(self) -> None:
        """Raise CancelledError where the work is cancelled."""
        if self.cancel is not None and self.cancel.is_set():
            raise CancelledError('cancelled')

    def step(self, step: Step) -> None:
        """Pass a step on."""
        self.check()
        if self.notify is not None:
            self.notify(step)


NOBODY = _Listener(None, None)
_listener: ContextVar[_Listener] = ContextVar('listener', default=NOBODY)


@contextmanager
def listen(notify: Callable[[Step], object] | None = None, cancel: threading.Event | None = None) -> Iterator[None]:
    """Within, and in this thread, pass on the steps of all work, and cancel it once an event is set.

    Args:
        notify: called after each unit of work, now and then from another thread; what it raises ends the work.
        cancel: once it is set, the work ends with `CancelledError` before its next unit. Files are written whole or not
            at all.
    """
    token = _listener.set(_Listener(notify, cancel))
    try:
        yield
    finally:
        _listener.reset(token)


def stop_if_cancelled() -> None:
    """Raise CancelledError where the work of this thread is cancelled."""
    _listener.get().check()


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
    listener, done = _listener.get(), 0

    def step() -> None:
        nonlocal done
        done += 1
        show()
        listener.step(Step(done, total, unit, name))

    with _shown(total, unit, name) as show:
        yield step


@contextmanager
def _shown(total: int | None, unit: str, name: str) -> Iterator[Callable[[], object]]:
    """Return the function that shows each unit, where a command asked for it."""
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
    stop_if_cancelled()
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
