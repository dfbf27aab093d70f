"""Finding faces in clips: as good as looking at every frame whole, and seldom doing so."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest
from small_faces import blurred_portrait

from basicsr.faces.detection import Face, ScaledDetector, build_detector
from basicsr.video.finding import EVERY, ClipFinder
from basicsr.video.tracking import Tracker
from basicsr.video.video_io import TimedFrame, VideoReader
from experiments.benchmarks.make_video import Scene

HERE = Face(np.array([0.0, 0, 40, 40]), 1.0, np.array([[10.0, 10], [30, 10], [20, 20], [12, 30], [28, 30]]))


def numbered(count: int, cut: int | None = None) -> list[TimedFrame]:
    """Frames that tell their index in the first pixel; the ones from `cut` are white."""
    frames = []
    for index in range(count):
        image = np.full((40, 40, 3), 255 if cut is not None and index >= cut else 0, np.uint8)
        image[0, 0] = index
        frames.append(TimedFrame(image, (Fraction(index, 25),)))
    return frames


class Seen:
    """A stand-in for a detector: a face in some of the frames, which moves a pixel a frame; counts whole looks."""

    def __init__(self, where) -> None:
        self.where, self.whole = set(where), []

    def face(self, image):
        index = int(image[0, 0, 0])
        shift = np.array([index, 0.0])
        return Face(HERE.box + np.tile(shift, 2), 1.0, HERE.landmarks + shift) if index in self.where else None

    def find(self, image):
        self.whole.append(int(image[0, 0, 0]))
        return [face for face in [self.face(image)] if face]

    def follow(self, image, expected):
        face = self.face(image)
        assert face is None or np.abs(expected.landmarks - face.landmarks).max() < 1e-9  # on the way between two looks
        return face


@pytest.mark.parametrize(
    'where', [range(23), range(8, 23), range(9), range(3, 17), [*range(7), *range(8, 23)], []],
    ids=['always', 'comes', 'goes', 'passes', 'missed once', 'never'],
)  # fmt: skip
def test_faces_are_those_of_a_look_at_every_frame_also_where_one_comes_or_goes(where):
    frames, seen = numbered(23), Seen(where)
    found = list(ClipFinder(seen.find, seen.follow).faces_of(frames))
    assert [int(f.frame.image[0, 0, 0]) for f in found] == list(range(23))
    assert [len(f.faces) for f in found] == [int(index in seen.where) for index in range(23)]
    shifts = [(f.faces[0].landmarks - HERE.landmarks).tolist() for f in found if f.faces]
    assert shifts == [[[index, 0]] * 5 for index in sorted(seen.where)]
    if where in (range(23), []):
        assert sorted(seen.whole) == [0, 5, 10, 15, 20, 22]


def test_both_sides_of_a_cut_are_looked_at_whole_and_nothing_is_followed_across_it():
    seen = Seen(range(20))
    found = list(ClipFinder(seen.find, seen.follow).faces_of(numbered(20, cut=8)))
    assert [int(f.frame.image[0, 0, 0]) for f in found if f.cut] == [8]
    assert sorted(seen.whole) == [0, 5, 7, 8, 13, 18, 19]


def test_a_detector_that_follows_nothing_looks_at_every_frame():
    seen = Seen(range(7))
    assert len(list(ClipFinder(seen.find, None).faces_of(numbered(7)))) == len(seen.whole) == 7


def test_a_picture_that_stands_still_is_looked_at_once():
    frames = [TimedFrame(np.zeros((40, 40, 3), np.uint8), (Fraction(index, 25),)) for index in range(12)]
    seen = Seen([0])
    found = list(ClipFinder(seen.find, seen.follow).faces_of(frames))
    assert seen.whole == [0] and all(f.faces == found[0].faces for f in found)
    assert [f.frame.still for f in found] == [False] + [True] * 11
    clear = [TimedFrame(f.image, f.times, np.full((40, 40), index, np.uint8)) for index, f in enumerate(frames)]
    assert not any(f.frame.still for f in ClipFinder(seen.find, seen.follow).faces_of(clear))


def tracks_of(frames: list[TimedFrame], detector, follow) -> list[dict[int, np.ndarray]]:
    """Return the smoothed landmarks in each frame, by the number of their track."""
    finder = ClipFinder(detector.detect, follow)
    seen = ((f.frame, float(f.frame.times[0]), f.faces, f.cut) for f in finder.faces_of(frames))
    tracked = Tracker(lambda *_: False).follow(seen)
    return [{one.track.number: one.face.landmarks for one in faces} for _, faces in tracked]


def assert_same_tracks(frames: list[TimedFrame]) -> None:
    detector = build_detector()
    assert isinstance(detector, ScaledDetector)
    ours, whole = (tracks_of(frames, detector, follow) for follow in (detector.follow, None))
    assert [one.keys() for one in ours] == [one.keys() for one in whole] and any(whole)
    for one, other in zip(ours, whole, strict=True):
        for number, landmarks in one.items():
            eyes = np.linalg.norm(other[number][1] - other[number][0])
            assert np.linalg.norm(landmarks - other[number], axis=1).mean() < 0.06 * eyes


def test_a_moving_face_has_the_tracks_of_a_look_at_every_frame():
    picture = cv2.resize(blurred_portrait(), (320, 320), interpolation=cv2.INTER_AREA)
    images = Scene(picture, 2 * EVERY + 1, noise=3, motion=60).images()
    assert_same_tracks([TimedFrame(image, (Fraction(index, 25),)) for index, image in enumerate(images)])


@pytest.mark.parametrize('name', ['real_3', 'real_4', 'synthetic_3', 'synthetic_4'])
def test_real_clips_have_the_tracks_of_a_look_at_every_frame(shared, name):
    with VideoReader(shared / 'data' / 'clips' / f'{name}.mp4') as clip:
        frames = [frame for frame, _ in zip(clip.frames(), range(2 * EVERY + 1), strict=False)]
    assert_same_tracks(frames)
