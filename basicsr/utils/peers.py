"""Signs of life of the processes of a run: when one dies, the others say which and why, and end."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

logger = logging.getLogger('basicsr')

BEAT_S = 1.0
"""Seconds between two signs of life."""
SAVING_S = 20.0
"""Seconds that a process is given to finish a file before it is ended."""
FAREWELL_S = 10.0
"""Seconds that process 0, which may keep the common store, waits for the others to leave first."""


@dataclass
class Sign:
    """Message of a process to the others.

    Attributes:
        host: its machine.
        beats: rises every second.
        reason: None while it runs, why it failed, or '' when it left for no fault of its own.
    """

    host: str
    beats: int = 0
    reason: str | None = None


class Watch:
    """A thread that writes this process's sign of life to a common store and reads those of the others.

    When another process has failed, or gives no sign for `dead_after` seconds, it logs which, where and why, and ends
    this process with exit code 1. It has to be a thread that does so: the main one may wait for the dead process in a
    collective that never returns.

    Args:
        store: common to all processes.
        rank: this process.
        size: number of processes.
        dead_after: seconds.
    """

    def __init__(self, store: Store, rank: int, size: int, dead_after: float) -> None:
        self.store = store.clone()  # a connection of its own; the main thread may be waiting in the other
        self.rank, self.size, self.dead_after = rank, size, dead_after
        self.sign = Sign(socket.gethostname())
        self.busy = threading.Lock()
        self.stopped = threading.Event()
        self._tell()
        self.store.wait([str(other) for other in range(size)])
        self.thread = threading.Thread(target=self._watch, name='peers', daemon=True)
        self.thread.start()

    def leave(self, reason: str = '') -> None:
        """Say goodbye, with the reason if this process failed; process 0 then waits for the others to leave."""
        self.stopped.set()
        self.thread.join(self.dead_after)
        try:
            self._say_goodbye(reason)
        except RuntimeError as error:  # the store is gone, and with it whoever would have read this
            logger.debug('no goodbye: %s', error)

    @contextmanager
    def critical_section(self) -> Iterator[None]:
        """Finish the work inside (writing a file) before this process is ended."""
        with self.busy:
            yield

    def wait_for_reason(self) -> None:
        """To be called when a collective failed: a dead process is found out, and this one ended, in here."""
        self.thread.join(self.dead_after + 5 * BEAT_S)

    def _watch(self) -> None:
        signs = {other: Sign('') for other in range(self.size) if other != self.rank}
        last = dict.fromkeys(signs, time.monotonic())
        while not self.stopped.wait(BEAT_S):
            try:
                self.sign.beats += 1
                self._tell()
                for other, sign in self._signs().items():
                    if sign.beats != signs[other].beats or sign.reason == '':
                        last[other] = time.monotonic()
                    signs[other] = sign
            except RuntimeError as error:
                self._end(0, signs.get(0, self.sign).host, f'the store it keeps does not answer ({_first_line(error)})')
                return
            for other, sign in signs.items():
                if sign.reason:
                    self._end(other, sign.host, sign.reason)
                elif time.monotonic() - last[other] > self.dead_after:
                    self._end(other, sign.host, f'no sign of life for {self.dead_after:g} s (killed, or its machine)')

    def _end(self, other: int, host: str, reason: str) -> None:
        free = self.busy.acquire(timeout=SAVING_S)
        logger.error(
            'process %d on %s died: %s. This one (%d) ends too; the last checkpoint is kept%s; see --auto_resume',
            *(other, host, reason, self.rank, '' if free else ' (one was being written)'),
        )
        try:
            self._say_goodbye('', without=other)
        except RuntimeError as error:
            logger.debug('no goodbye: %s', error)
        os._exit(1)

    def _say_goodbye(self, reason: str, without: int | None = None) -> None:
        self.sign.reason = reason
        self._tell()
        deadline = time.monotonic() + FAREWELL_S
        while self.rank == 0 and time.monotonic() < deadline:
            if all(sign.reason is not None for other, sign in self._signs().items() if other != without):
                return
            time.sleep(BEAT_S / 10)

    def _tell(self) -> None:
        self.store.set(str(self.rank), json.dumps(asdict(self.sign)))

    def _signs(self) -> dict[int, Sign]:
        others = [other for other in range(self.size) if other != self.rank]
        texts = self.store.multi_get([str(other) for other in others])
        return {other: Sign(**json.loads(text)) for other, text in zip(others, texts, strict=True)}


def _first_line(error: Exception) -> str:
    return str(error).split('\n', 1)[0]
