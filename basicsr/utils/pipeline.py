"""Stages of work side by side, each in a thread, with bounded queues between them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Generic, TypeVar

from basicsr.utils.errors import IDCodeFormerError

T = TypeVar('T')


class GoneError(IDCodeFormerError):
    """The other side of a channel has left."""


class Channel(Generic[T]):
    """A bounded queue between two threads, either of which can leave.

    Args:
        size: most items held.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._ended = self._left = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Wait for a place.

        Raises:
            GoneError: the other side has left.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._left or len(self._items) < self._size)
            if self._left:
                raise GoneError
            self._items.append(item)
            self._changed.notify_all()

    def items(self) -> Iterator[T]:
        """Everything that is put, as it comes, until `end`.

        Raises:
            GoneError: the other side has left.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._left or self._ended or self._items)
                if self._left:
                    raise GoneError
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def end(self) -> None:
        """Nothing more will be put."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def leave(self) -> None:
        """Nothing more will be put or taken; the other side is told so."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify_all()


def ahead(source: Generator[T, None, None], size: int) -> Generator[T, None, None]:
    """Yield the items of `source`, which runs in a thread and is at most `size` items ahead.

    An error of `source` is raised here. When this generator is closed, `source` is closed, and its thread has ended.
    """
    channel: Channel[T] = Channel(size)

    def work() -> None:
        try:
            with closing(source), suppress(GoneError):
                for item in source:
                    channel.put(item)
        finally:
            channel.end()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        try:
            yield from channel.items()
            done.result()
        finally:
            channel.leave()


@contextmanager
def behind(consume: Callable[[Iterator[T]], None], size: int) -> Iterator[Callable[[T], None]]:
    """Yield a function that passes items to `consume`, which runs in a thread and is at most `size` items behind.

    At the end of the `with` block `consume` has done everything. An error of it is raised by the function or at the end
    of the block. After an error within the block the iterator of `consume` raises `GoneError`.
    """
    channel: Channel[T] = Channel(size)

    def work() -> None:
        try:
            consume(channel.items())
        finally:
            channel.leave()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        try:
            with suppress(GoneError):
                yield channel.put
                channel.end()
            done.result()
        finally:
            channel.leave()
