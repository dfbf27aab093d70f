"""The screen of a command: names shown safely, and streams that may close or fill up."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


def printable(text: str) -> str:
    """`text` for a screen: control characters and such, which file names may have, as escapes."""
    return ''.join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class PatientStream:
    """A text stream that goes on when nothing can be written any more: closed, or its disk or pipe gone.

    Args:
        stream: the real one; None for a closed one.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            if self._stream is not None:
                return self._stream.write(text)
        except UnicodeEncodeError:  # names of files may have letters that the screen has not
            return self.write(text.encode('ascii', 'backslashreplace').decode())
        except (OSError, ValueError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def isatty(self) -> bool:
        """Return True if it is a terminal."""
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def _give_up(self) -> None:
        """Let the rest go nowhere, also what the interpreter writes when it ends."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, cast(TextIO, self._stream).fileno())
            os.close(nowhere)
        self._stream = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def patient_streams() -> Iterator[None]:
    """Within, output and errors may be closed or full without ending the work."""
    _fill_closed_descriptors()
    out, err = PatientStream(sys.stdout), PatientStream(sys.stderr)
    with contextlib.redirect_stdout(cast(TextIO, out)), contextlib.redirect_stderr(cast(TextIO, err)):
        try:
            yield
        finally:
            out.flush()
            err.flush()


def _fill_closed_descriptors() -> None:
    """Open 0 to 2 on nothing where they are closed; else a result gets one of them, and C libraries write into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
