"""Finding the faces of a clip: in every few frames whole, and in those between only where the faces must be."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from basicsr.faces.face import Face
from basicsr.video.tracking import CutFinder, Track, blend
from basicsr.video.video_io import TimedFrame

EVERY = 5  # frames: one of so many is looked at whole; a face that is in fewer than that may be missed

Follow = Callable[[np.ndarray, Face], Face | None]


@dataclass(eq=False)
class FoundFrame:
    """A frame with the faces in it.

    Attributes:
        frame: the frame; `still` says whether it shows the same picture as the one before.
        cut: it is the first of a scene.
        faces: what is found in it.
        number: of its picture; frames in a row with the same picture have the same.
    """

    frame: TimedFrame
    cut: bool
    number: int
    faces: list[Face] = field(default_factory=list)


class ClipFinder:
    """Finds the faces in the frames of a clip.

    The first frame of a scene and every `every`-th frame after it are looked at whole. In the frames between, a face
    that was seen before and after is looked for in a small window around the place between. The whole frame is looked
    at wherever a face is not found again there, appears or disappears. A picture that stands still is looked at once.

    Args:
        find: RGB uint8 (H,W,3) to all faces.
        follow: the picture and a face about where it is expected, to the face in it, or None where it is not certain
            to be there; None looks at every frame whole.
        every: frames.
        stills: compare each frame with the one before, which stays in memory for that.
    """

    def __init__(
        self,
        find: Callable[[np.ndarray], list[Face]],
        follow: Follow | None,
        every: int = EVERY,
        stills: bool = True,
    ) -> None:
        self.find, self.follow, self.stills = find, follow, stills
        self.every = every if follow else 1
        self._before: tuple[int, list[Face]] | None = None  # the picture last looked at whole, and its faces

    def faces_of(self, frames: Iterable[TimedFrame]) -> Generator[FoundFrame, None, None]:
        """Yield the frames with their faces, in order, at most `every` frames late."""
        cuts, group, last, number = CutFinder(), [], None, 0
        for frame in frames:
            cut, still = cuts.is_cut(frame.seen), last is not None and is_same(frame, last)
            last, number = frame if self.stills else None, number + (not still)
            if cut:
                yield from self._settle(group)
                group, self._before = [], None
            group.append(FoundFrame(replace(frame, still=still), cut, number))
            if self._before is None or len(group) >= self.every:
                yield from self._settle(group)
                group = []
        yield from self._settle(group)

    def _settle(self, group: list[FoundFrame]) -> list[FoundFrame]:
        """Return the frames of a group, now with their faces; the last of them is looked at whole."""
        if not group:
            return group
        last = group[-1]
        known = dict([] if self._before is None else [self._before])
        if last.number not in known:
            known[last.number] = self.find(last.frame.seen)
        pairs = None if self._before is None else matched(self._before[1], known[last.number])
        for place, found in enumerate(group, 1):
            if found.number not in known:
                known[found.number] = self._between(found.frame.seen, pairs, place / len(group))
            found.faces = known[found.number]
        self._before = last.number, last.faces
        return group

    def _between(self, image: np.ndarray, pairs: list[tuple[Face, Face]] | None, part: float) -> list[Face]:
        """Return the faces of a frame that is `part` (0 to 1) of the way between two looks."""
        faces: list[Face] = []
        for first, second in pairs or []:
            face = self.follow(image, blend(first, second, part)) if self.follow else None
            if face is None:
                return self.find(image)
            faces.append(face)
        return self.find(image) if pairs is None else faces


def matched(before: list[Face], after: list[Face]) -> list[tuple[Face, Face]] | None:
    """Return each face with itself after some frames, the nearest first; None where one appears or disappears."""
    distances = [
        (Track(0, a, 0.0, 0).distance(b, 0.0), i, j) for i, a in enumerate(before) for j, b in enumerate(after)
    ]
    pairs: dict[int, int] = {}
    for distance, i, j in sorted(distances):
        if distance < math.inf and i not in pairs and j not in pairs.values():
            pairs[i] = j
    whole = len(pairs) == len(before) == len(after)
    return [(before[i], after[j]) for i, j in pairs.items()] if whole else None


def is_same(frame: TimedFrame, other: TimedFrame) -> bool:
    """Return True if two frames show the same, to the last bit."""
    pairs = [(frame.image, other.image), (frame.alpha, other.alpha)]
    return all(a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs)
