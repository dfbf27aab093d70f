"""Tracks: who is who from frame to frame, landmarks that stand still when a head does, gaps, cuts, decisions."""

from __future__ import annotations

import numpy as np
import pytest
from small_faces import ASTRONAUT_LANDMARKS, portrait

from basicsr.faces.detection import Face
from basicsr.faces.geometry import ffhq_template
from basicsr.video.tracking import EARLY_VOTES, LOOKAHEAD, PATIENCE, CutFinder, Smoother, Tracker, Verdict, smoothing

RATE = 25
EYES = float(np.linalg.norm(ASTRONAUT_LANDMARKS[1] - ASTRONAUT_LANDMARKS[0]))


def face(shift=(0.0, 0.0), scale: float = 1) -> Face:
    """The portrait's face, moved and resized."""
    centre = ASTRONAUT_LANDMARKS.mean(0)
    landmarks = (ASTRONAUT_LANDMARKS - centre) * scale + centre + shift
    return Face(np.concatenate([landmarks.min(0), landmarks.max(0)]), 0.9, landmarks)


def follow(frames, cuts=(), is_sharp=lambda *_: False):
    """Tracks and landmarks by frame, of lists of faces at 25 frames a second."""
    seen = ((index, index / RATE, faces, index in cuts) for index, faces in enumerate(frames))
    return list(Tracker(is_sharp).follow(seen))


def numbers(result) -> list[set[int]]:
    return [{tracked.track.number for tracked in faces} for _, faces in result]


def test_every_frame_comes_out_once_in_order_at_most_the_lookahead_late():
    taken = []

    def frames():
        for index in range(20):
            taken.append(index)
            yield index, index / RATE, [], False

    for index, (item, faces) in enumerate(Tracker(lambda *_: False).follow(frames())):
        assert item == index and faces == [] and len(taken) <= index + LOOKAHEAD + 1
    assert index == 19


def test_two_people_who_cross_keep_their_tracks_whatever_the_order_of_detection():
    rng = np.random.default_rng(0)
    frames = []
    for index in range(60):
        two = [face((index * 6.0, 0)), face((360 - index * 6.0, 1.2 * EYES))]
        frames.append(two if rng.random() < 0.5 else two[::-1])
    result = follow(frames)
    assert all(found == {0, 1} for found in numbers(result))
    first = [next(t for t in faces if t.track.number == 0).face.landmarks.mean(0)[0] for _, faces in result]
    steps = np.diff(first)
    assert (steps > 0).all() or (steps < 0).all()


@pytest.mark.parametrize('missed', [1, LOOKAHEAD])
def test_a_short_gap_is_filled_on_the_way_between(missed):
    frames = [[face((3.0 * index, 0))] for index in range(40)]
    for index in range(20, 20 + missed):
        frames[index] = []
    result = follow(frames)
    assert all(found == {0} for found in numbers(result))
    for (_, (with_gap,)), (_, (without,)) in zip(
        result, follow([[face((3.0 * i, 0))] for i in range(40)]), strict=True
    ):
        assert np.abs(with_gap.face.landmarks - without.face.landmarks).max() < 1e-6


def test_a_long_gap_ends_the_track_and_is_not_filled():
    frames = [[] if 20 <= index < 21 + LOOKAHEAD else [face()] for index in range(50)]
    assert numbers(follow(frames)) == [{0}] * 20 + [set()] * (LOOKAHEAD + 1) + [{1}] * (30 - LOOKAHEAD - 1)


def test_a_cut_ends_all_tracks_and_no_gap_is_filled_across_it():
    frames = [[face()] for _ in range(30)]
    frames[9] = []
    assert numbers(follow(frames, cuts={10})) == [{0}] * 9 + [set()] + [{1}] * 20


def test_a_face_far_away_or_of_another_size_is_somebody_else():
    for other in (face((1.2 * EYES, 0)), face(scale=1.8)):
        assert numbers(follow([[face()]] * 10 + [[other]] * 10)) == [{0}] * 10 + [{1}] * 10


def test_what_is_seen_in_one_frame_only_is_no_face_unless_there_is_no_more():
    frames = [[face()] for _ in range(20)]
    frames[10] = [face(), face((200, 200))]
    assert numbers(follow(frames)) == [{0}] * 20
    assert numbers(follow([[face()]])) == [{0}]
    assert numbers(follow([[face()]] * 2)) == [{0}] * 2


def test_photographs_in_a_row_and_heads_far_apart_in_time_are_faces():
    people = [face((200 * (index % 2), 0)) for index in range(6)]
    shows = ((index, 3.0 * index, [one], index > 0) for index, one in enumerate(people))
    assert numbers(Tracker(lambda *_: False).follow(shows)) == [{number} for number in range(6)]
    walk = ((index, index / 2, [face((1.6 * EYES * index, 0))], False) for index in range(8))
    assert all(len(found) == 1 for found in numbers(Tracker(lambda *_: False).follow(walk)))
    flashes = [[face((200, 200))] if index == 10 else [] for index in range(20)]
    assert numbers(follow(flashes)) == [set()] * 20


def test_a_still_head_is_still_and_a_moving_one_is_followed():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01 * EYES, (200, 5, 2))
    shaken = [[Face(face().box, 0.9, ASTRONAUT_LANDMARKS + step)] for step in noise]
    smooth = np.array([faces[0].face.landmarks for _, faces in follow(shaken)])
    steps, raw_steps = (np.sqrt(np.mean(np.diff(values, axis=0) ** 2)) for values in (smooth, noise))
    assert steps < 0.15 * raw_steps
    assert np.sqrt(np.mean((smooth[100:] - ASTRONAUT_LANDMARKS) ** 2)) < 0.5 * noise.std()
    walked = [[face((index / RATE * 2 * EYES, 0))] for index in range(100)]  # two eye distances a second
    followed = np.array([faces[0].face.landmarks for _, faces in follow(walked)])
    lag = np.abs(followed - [faces[0].landmarks for faces in walked])
    assert lag[RATE:].max() < EYES / 20


def test_smoothing_depends_on_time_and_size_not_on_frames_and_pixels():
    def after_a_second(rate: int, scale: float) -> np.ndarray:
        smoother = Smoother()
        for index in range(4 * rate + 1):
            shift = max(0.0, index / rate - 3) * 0.5 * EYES
            result = smoother((ASTRONAUT_LANDMARKS + np.array([shift, 0])) * scale, index / rate)
        return result / scale

    assert np.allclose(after_a_second(25, 1), after_a_second(25, 7))
    assert np.abs(after_a_second(25, 1) - after_a_second(100, 1)).max() < 0.03 * EYES


def test_the_filters_weight_is_that_of_a_first_order_low_pass():
    tau = 1 / (2 * np.pi * 2)
    assert smoothing(2, 0.1) == pytest.approx(0.1 / (0.1 + tau))


def test_a_decision_stands_until_it_is_voted_down_in_a_row():
    verdict = Verdict()
    for value in [True, False, True, True, False, True, True][:EARLY_VOTES]:
        verdict.vote(value)
    assert verdict.value
    for _ in range(10):
        for value in [False] * (PATIENCE - 1) + [True]:
            verdict.vote(value)
            assert verdict.value
    for _ in range(PATIENCE):
        verdict.vote(False)
    assert not verdict.value


def test_whether_a_face_is_sharp_is_decided_once_for_a_track():
    rng = np.random.default_rng(0)
    result = follow([[face()] for _ in range(60)], is_sharp=lambda *_: bool(rng.random() < 0.8))
    assert {faces[0].sharp for _, faces in result} == {True}
    changed = follow([[face()] for _ in range(120)], is_sharp=lambda index, *_: index >= 40)
    values = [faces[0].sharp for _, faces in changed]
    assert values == sorted(values) and not values[39] and values[-1]


def test_cuts_are_found_and_motion_noise_and_fades_are_none():
    rng = np.random.default_rng(0)
    scene, other = portrait()[::4, ::4], rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    cuts = CutFinder()
    still = [np.clip(scene + rng.normal(0, 15, scene.shape), 0, 255).astype(np.uint8) for _ in range(3)]
    moving = [np.roll(scene, 2 * step, 1) for step in range(5)]
    fading = [(moving[-1] * part).astype(np.uint8) for part in np.linspace(1, 0, 12)]
    assert not any(cuts.is_cut(image) for image in [*still, *moving, *fading])
    cuts = CutFinder()
    assert [cuts.is_cut(image) for image in (scene, scene, other, other, scene)] == [False, False, True, False, True]


def test_a_template_face_can_be_tracked():
    """Clips of aligned faces give the same landmarks in each frame."""
    aligned = Face(np.array([0.0, 0, 64, 64]), 1.0, ffhq_template(64))
    assert all(np.allclose(f[0].face.landmarks, aligned.landmarks) for _, f in follow([[aligned]] * 12))
