"""Signals to stop: a training notes them until it has saved itself, and a command ends as by Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from basicsr.utils.errors import IDCodeFormerError

STOPPING = ('SIGTERM', 'SIGHUP')  # what a system sends a command that is to end, Ctrl-C aside


class StoppedError(IDCodeFormerError):
    """A run was told to stop and did, in good order; `number` is the signal's."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class StopSignals:
    """While entered, the first SIGTERM or SIGINT is only noted; a second one leaves at once (exit code 128 + number).

    Also, `hold_worker_errors` keeps the error that torch raises when a data worker dies, in the middle of whatever the
    main thread does, for where it does no harm. In threads other than the main one nothing is changed.

    Attributes:
        received: the signal's number, 0 as long as there was none.
        worker_error: what was said of a data worker that died.
    """

    def __init__(self) -> None:
        self.received = 0
        self.worker_error: RuntimeError | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._install(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def hold_worker_errors(self) -> None:
        """To be called when the data workers run: their death is noted from here on, and no longer raised."""
        number = getattr(signal, 'SIGCHLD', None)  # absent on Windows
        told = number and signal.getsignal(number)
        if not number or not callable(told):
            return

        def note(number: int, frame: FrameType | None) -> None:
            try:
                told(number, frame)
            except RuntimeError as error:
                self.worker_error = error

        self._install(number, note)

    def _install(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        if threading.current_thread() is threading.main_thread():
            self.previous.setdefault(number, signal.getsignal(number))
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise SystemExit(128 + number)
        self.received = number
        text = f'\n{signal.Signals(number).name}: saving after this iteration, then leaving; once more leaves at once\n'
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())  # print could be the code interrupted


class SignalInterrupt(KeyboardInterrupt):
    """A signal asked the process to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def stop_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a command that was interrupted: 128 and the number of the signal, as shells have it."""
    return 128 + (stop.number if isinstance(stop, SignalInterrupt) else signal.SIGINT)


class Stopping:
    """State of the signals of a command, see `stop_signals`.

    Attributes:
        received: the first signal; None as long as there was none.
    """

    def __init__(self) -> None:
        self.received: SignalInterrupt | None = None
        self._held = False
        self._interrupt: Any = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: raise the first one, unless they are held."""
        if self.received is None:
            self.received = SignalInterrupt(number)
            if not self._held:
                raise self.received

    def check(self) -> None:
        """Raise the signal that came, if one did: it may have been raised where Python drops exceptions (`__del__`)."""
        if self.received is not None:
            raise self.received

    def hold(self) -> None:
        """Only note signals from here on, Ctrl-C too, so that what is done can be written."""
        self._held = True
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._interrupt = signal.signal(signal.SIGINT, self.note)

    def release(self) -> None:
        """Give Ctrl-C back to whoever had it before `hold`."""
        if self._interrupt is not None:
            signal.signal(signal.SIGINT, self._interrupt)
            self._interrupt = None


@contextmanager
def stop_signals() -> Iterator[Stopping]:
    """Within, SIGTERM and SIGHUP raise `SignalInterrupt` once; later ones are passed over. Ignored ones stay so."""
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, stopping.note)
        yield stopping
    finally:
        stopping.release()
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
