"""Faces from frame to frame: one track for each person, steady landmarks, steady decisions, cuts between scenes.

Lengths are measured in eye distances and times in seconds, so that neither the size of a face nor the frame rate
matters.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import cv2
import numpy as np

from basicsr.faces.face import Face

T = TypeVar('T')
LOOKAHEAD = 6  # frames: so long may a face be missed, and so many frames are held back to fill such gaps
LEAST_SIGHTINGS = 3  # a face that is seen in fewer frames was none, where its scene has as many within
NEARBY = 0.1 + 1e-6  # seconds of it
REACH = 0.8  # eye distances: farther from where it was expected, a face is somebody else's
MOST_GROWTH = 1.5  # of the eye distance between two sightings
STILL_CUTOFF = 0.25  # Hz: what a still face's landmarks may do faster than that is noise
CUTOFF_FOR_SPEED = 6.0  # Hz for each eye distance a second; the lag is then below 1 / (2 pi 6) of an eye distance
SPEED_CUTOFF = 1.0  # Hz, of the speed itself
VOTE_EVERY = 5  # frames
EARLY_VOTES = LOOKAHEAD + 1
PATIENCE = 5  # votes in a row that change a decision
CUT_SIDE = 32  # pixels of the thumbnails that are compared
# Mean difference (of 255) of the frames on either side of a cut: 57 to 82 between different photographs, below 27 where
# a photograph of high contrast moves by a fiftieth of its width. A false cut costs no more than fresh tracks.
CUT_DIFFERENCE = 35


def eye_distance(landmarks: np.ndarray) -> float:
    """Of landmarks (5,2), in pixels."""
    return float(np.linalg.norm(landmarks[1] - landmarks[0]))


def smoothing(cutoff: float, seconds: float) -> float:
    """Return the weight of a new value in a first-order low-pass filter of `cutoff` Hz, `seconds` after the last."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * seconds))


class Smoother:
    """Landmarks without their noise: the one-euro filter (Casiez et al., 2012) with one speed for the whole face.

    What hardly moves is averaged over a long time; what moves fast is followed. The first values are averaged evenly.
    """

    def __init__(self) -> None:
        self.count = 0
        self.raw = self.smooth = self.velocity = np.zeros((5, 2))
        self.time = 0.0

    def __call__(self, landmarks: np.ndarray, time: float) -> np.ndarray:
        """Landmarks (5,2) seen at `time`, in seconds and later than before, to smoothed ones."""
        self.count += 1
        if self.count == 1:
            self.raw = self.smooth = landmarks
        else:
            seconds = time - self.time
            velocity = (landmarks - self.raw) / seconds
            self.velocity = self.velocity + smoothing(SPEED_CUTOFF, seconds) * (velocity - self.velocity)
            speed = np.sqrt(np.mean(np.sum(self.velocity**2, 1))) / max(eye_distance(landmarks), 1e-6)
            weight = smoothing(STILL_CUTOFF + CUTOFF_FOR_SPEED * speed, seconds)
            self.smooth = self.smooth + max(weight, 1 / self.count) * (landmarks - self.smooth)
            self.raw = landmarks
        self.time = time
        return self.smooth


@dataclass
class Verdict:
    """A yes or no that does not waver: the majority of the first votes, then until `PATIENCE` votes in a row differ.

    Attributes:
        value: what stands.
    """

    value: bool = False
    early: list[bool] = field(default_factory=list)
    differing: int = 0

    def vote(self, value: bool) -> None:
        """Take a vote."""
        if len(self.early) < EARLY_VOTES:
            self.early.append(value)
            self.value = 2 * sum(self.early) > len(self.early)
            return
        self.differing = self.differing + 1 if value != self.value else 0
        if self.differing == PATIENCE:
            self.value, self.differing = value, 0


@dataclass(eq=False)
class Track:
    """One face in a row of frames.

    Attributes:
        number: from 0, each given once.
        face: as last seen.
        time: when that was, in seconds.
        frame: in which frame that was.
        sharp: whether it is to be left alone.
        grey: whether it has no colour; for the user of the track to vote.
        small: whether it is smaller than the faces to restore; likewise.
        sightings: in how many frames it was seen.
    """

    number: int
    face: Face
    time: float
    frame: int
    sharp: Verdict = field(default_factory=Verdict)
    grey: Verdict = field(default_factory=Verdict)
    small: Verdict = field(default_factory=Verdict)
    sightings: int = 0
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    smoother: Smoother = field(default_factory=Smoother)

    def distance(self, face: Face, time: float) -> float:
        """Return the distance of `face` from its expected place at `time`, in eye distances; infinite if too far."""
        size, other = self.face.eye_distance, face.eye_distance
        expected = self.face.landmarks + self.velocity * (time - self.time)
        far = np.sqrt(np.mean(np.sum((face.landmarks - expected) ** 2, 1))) / max(size, other, 1e-6)
        return float(far) if far < REACH and max(size, other) < MOST_GROWTH * min(size, other) else math.inf

    def see(self, face: Face, time: float, frame: int) -> None:
        """Go on with `face`."""
        if time > self.time:
            seconds = time - self.time
            velocity = (face.landmarks - self.face.landmarks).mean(0) / seconds
            self.velocity = self.velocity + smoothing(SPEED_CUTOFF, seconds) * (velocity - self.velocity)
        self.face, self.time, self.frame = face, time, frame
        self.sightings += 1


@dataclass(frozen=True, eq=False)
class Tracked:
    """A face in a frame.

    Attributes:
        track: whose it is.
        face: with smoothed landmarks.
        sharp: whether it is to be left alone.
    """

    track: Track
    face: Face
    sharp: bool


@dataclass(eq=False)
class _Held(Generic[T]):
    """A frame that is held back, with the faces in it by track."""

    item: T
    time: float
    scene: int
    faces: dict[Track, Face]


class Tracker(Generic[T]):
    """Gives the faces of a clip their tracks.

    Frames come out `lookahead` frames late. A face that is missed in up to as many frames is put where it must have
    been, between where it was seen before and after; a face that is missed for longer, or across a cut, is a new one.
    What is taken for a face in one or two frames only is passed over, unless its scene has no more frames at that time,
    as in a row of photographs.

    Args:
        is_sharp: whether a face of a frame, among all that are in it, needs no restoration; asked now and then, and
            decided for the whole track.
        lookahead: frames held back.

    Attributes:
        tracks: how many were begun so far.
    """

    def __init__(self, is_sharp: Callable[[T, Face, Sequence[Face]], bool], lookahead: int = LOOKAHEAD) -> None:
        self.is_sharp, self.lookahead = is_sharp, lookahead
        self.tracks = 0
        self._alive: list[Track] = []
        self._held: deque[_Held[T]] = deque()
        self._times: deque[tuple[int, float]] = deque(maxlen=2 * lookahead + 1)  # scene and time of the last frames
        self._frame = self._scene = 0

    def follow(self, frames: Iterable[tuple[T, float, list[Face], bool]]) -> Iterator[tuple[T, list[Tracked]]]:
        """Yield the frames with their tracked faces.

        Args:
            frames: anything, its time in seconds, its faces, and whether it is the first after a cut.
        """
        for item, time, faces, cut in frames:
            self._take(item, time, faces, cut)
            if len(self._held) > self.lookahead:
                yield self._release()
        while self._held:
            yield self._release()

    def _take(self, item: T, time: float, faces: list[Face], cut: bool) -> None:
        self._frame += 1
        if cut:
            self._alive = []
            self._scene += 1
        self._alive = [track for track in self._alive if self._frame - track.frame <= self.lookahead + 1]
        held: _Held[T] = _Held(item, time, self._scene, {})
        self._times.append((self._scene, time))
        for track, face in self._match(faces, time):
            self._fill_gap(track, face, time)
            track.see(face, time, self._frame)
            held.faces[track] = face
            if track.sightings <= EARLY_VOTES or track.sightings % VOTE_EVERY == 0:
                track.sharp.vote(self.is_sharp(item, face, faces))
        self._held.append(held)

    def _match(self, faces: list[Face], time: float) -> list[tuple[Track, Face]]:
        """Every face with its track, the nearest pairs first; new tracks for those that are near none."""
        pairs = [
            (track.distance(face, time), i, j) for i, track in enumerate(self._alive) for j, face in enumerate(faces)
        ]
        owners: dict[int, Track] = {}
        taken: set[int] = set()
        for distance, i, j in sorted(pairs):
            if distance < math.inf and i not in taken and j not in owners:
                owners[j] = self._alive[i]
                taken.add(i)
        for j, face in enumerate(faces):
            if j not in owners:
                owners[j] = Track(self.tracks, face, time, self._frame)
                self.tracks += 1
                self._alive.append(owners[j])
        return [(owners[j], face) for j, face in enumerate(faces)]

    def _fill_gap(self, track: Track, face: Face, time: float) -> None:
        """Put `track` into the frames since it was last seen."""
        for held in self._held:
            if held.time > track.time and track not in held.faces:
                part = (held.time - track.time) / (time - track.time)
                held.faces[track] = blend(track.face, face, part)

    def _release(self) -> tuple[T, list[Tracked]]:
        held = self._held.popleft()
        near = sum(scene == held.scene and abs(time - held.time) <= NEARBY for scene, time in self._times)
        tracked = []
        for track, face in held.faces.items():
            if track.sightings < min(LEAST_SIGHTINGS, near):
                continue
            steady = Face(face.box, face.score, track.smoother(face.landmarks, held.time))
            tracked.append(Tracked(track, steady, track.sharp.value))
        return held.item, tracked


def blend(first: Face, second: Face, part: float) -> Face:
    """Return the face that is `part` (0 to 1) of the way from one to the other."""
    values = [a + part * (b - a) for a, b in ((first.box, second.box), (first.landmarks, second.landmarks))]
    return Face(values[0], first.score + part * (second.score - first.score), values[1], scale=second.scale)


class CutFinder:
    """Finds the first frame of each new scene: one whose thumbnail differs much from that of the frame before."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None

    def is_cut(self, image: np.ndarray) -> bool:
        """Return True if an RGB uint8 (H,W,3) frame begins a new scene after the frame given before."""
        small = cv2.resize(image, (CUT_SIDE, CUT_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        before, self._last = self._last, small
        return before is not None and float(np.abs(small - before).mean()) > CUT_DIFFERENCE
