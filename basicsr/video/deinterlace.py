"""Deinterlacing of frames that are marked as interlaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import cast

import av
from av.error import FFmpegError
from av.filter import Graph

FILTER = 'bwdif'  # one frame for each two fields, Weston's three-field filter
SETTINGS = 'mode=send_frame:deint=interlaced'


class Deinterlacer:
    """Passes frames on until one is marked as interlaced; from there on such frames are deinterlaced.

    Attributes:
        frames: how many went through the filter.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._graph: Graph | None = None
        self._kind: tuple[int, int, str] | None = None

    def follow(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Yield the frames, in the same order, at the same times."""
        for frame in frames:
            kind = (frame.width, frame.height, frame.format.name)
            if self._graph is not None and kind != self._kind:  # a filter is for one kind of frames
                yield from self._rest()
            if self._graph is None and frame.interlaced_frame:
                self._graph, self._kind = _build(frame), kind
            if self._graph is None:
                yield frame
            else:
                self.frames += 1
                try:
                    self._graph.push(frame)
                except FFmpegError:  # the filter does not take this one
                    yield frame
                    continue
                yield from _ready(self._graph)
        yield from self._rest()

    def _rest(self) -> Iterator[av.VideoFrame]:
        """Yield the frames that the filter holds back."""
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.push(None)
            yield from _ready(graph)


def _build(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    base = frame.time_base or Fraction(1, 1000)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
    graph.link_nodes(source, graph.add(FILTER, SETTINGS), graph.add('buffersink')).configure()
    return graph


def _ready(graph: Graph) -> Iterator[av.VideoFrame]:
    """Yield the frames that a filter has ready."""
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):  # it wants more, or has nothing left
            return
        yield cast(av.VideoFrame, frame)
