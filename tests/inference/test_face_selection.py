"""Choosing faces by number and size, and blending what is restored with the original."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from odd_pictures import save
from small_faces import ASTRONAUT_LANDMARKS, Found, Unchanged, aligned_face, blurred_portrait

from basicsr.cli import restore
from basicsr.faces.detection import Face, build_detector
from basicsr.inference import ImageRestorer
from basicsr.inference.face_selection import FaceSelection
from basicsr.inference.found_face import RestoredFace
from basicsr.inference.jobs import Job
from basicsr.inference.runner import Runner
from basicsr.utils.image import imread

LARGE, SMALL = ASTRONAUT_LANDMARKS, 0.5 * ASTRONAUT_LANDMARKS + (0, 240)
SIZES = (172, 86)  # of the aligned faces, about


class Dark(Unchanged):
    """A stand-in whose restored faces are black."""

    description = 'a stand-in'
    default_w, default_adain = 0.8, True

    def restore(self, faces, w=0.8, adain=True):
        return [np.zeros((self.size, self.size, 3), np.uint8) for _ in faces]


def picture() -> np.ndarray:
    """Two faces, the second half as large as the first and below it."""
    image = blurred_portrait()
    image[240:496, :256] = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
    return image


def restorer(**settings) -> ImageRestorer:
    faces = [Face(np.array([*points.min(0), *points.max(0)]), 1.0, points) for points in (LARGE, SMALL)]
    return ImageRestorer(Dark(64), Found(*faces), upscale=1, force=True, grain=False, **settings)


@pytest.mark.parametrize(
    ('selection', 'restored', 'reason'),
    [
        (FaceSelection(), [0, 1], ''),
        (FaceSelection(only=frozenset({1})), [1], 'left out as asked'),
        (FaceSelection(without=frozenset({1, 7})), [0], 'left out as asked'),
        (FaceSelection(min_size=sum(SIZES) / 2), [0], 'smaller than 129 pixels (--min_face)'),
        (FaceSelection(only=frozenset({5})), [], 'left out as asked'),
    ],
)
def test_faces_that_are_not_chosen_keep_number_and_pixels(selection, restored, reason):
    image = picture()
    result = restorer(selection=selection).restore(image)
    assert [n for n, face in enumerate(result.faces) if isinstance(face, RestoredFace)] == restored
    assert [face.size for face in result.faces] == pytest.approx(SIZES, abs=2)
    left = [face for n, face in enumerate(result.faces) if n not in restored]
    assert {(face.status, face.reason) for face in left} <= {('left_out', reason)}
    assert result.status == ('restored' if restored else 'left_out')
    for number, points in enumerate((LARGE, SMALL)):
        x, y = points[2].astype(int)  # the nose
        assert result.image[y, x].any() == (number not in restored)
        if number not in restored:
            assert np.array_equal(
                result.image[y - 20 : y + 20, x - 20 : x + 20], image[y - 20 : y + 20, x - 20 : x + 20]
            )


@pytest.mark.parametrize('status', ['already_sharp', 'uncertain'])
def test_a_face_that_is_not_chosen_is_left_out_whatever_its_state(status):
    images = restorer(selection=FaceSelection(only=frozenset({7}))).faces
    left = images.recognize([replace(face, status=status, reason='its state') for face in images.cut(picture())])
    assert [(face.status, face.reason) for face in left] == 2 * [('left_out', 'left out as asked')]
    kept = restorer().faces.recognize([replace(face, status=status, reason='its state') for face in left])
    assert [(face.status, face.reason) for face in kept] == 2 * [(status, 'its state')]


def test_blending_goes_straight_from_the_original_to_the_result():
    image = picture()
    none, half, whole = (restorer(blend=blend).restore(image).image for blend in (0, 0.5, 1))
    assert np.array_equal(none, image)
    assert np.abs(half.astype(int) - (none.astype(int) + whole) / 2).max() <= 1
    assert np.array_equal(whole, restorer().restore(image).image)
    with pytest.raises(ValueError, match='blend = 2'):
        restorer(blend=2)


@pytest.mark.parametrize('depth', [np.uint8, np.uint16])
def test_aligned_faces_are_blended_in_their_own_size_and_depth(tmp_path, depth):
    image = aligned_face(96).astype(depth) * (257 if depth == np.uint16 else 1)
    cv2.imwrite(str(tmp_path / 'a.png'), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    runner = Runner(restorer(blend=0.25), tmp_path / 'out', aligned=True)
    (record,) = runner.run([Job(tmp_path / 'a.png', 'a')])
    written = cv2.imread(str(tmp_path / 'out' / record.outputs[0]), cv2.IMREAD_UNCHANGED)
    assert written.dtype == depth and written.shape == image.shape
    assert np.abs(cv2.cvtColor(written, cv2.COLOR_BGR2RGB) - 0.75 * image).max() <= 1


def test_a_number_is_that_of_the_summary_and_one_that_is_not_there_is_said(tmp_path):
    save(picture())(tmp_path / 'a.png')
    cases = (({1}, 'restored', ''), ({1, 4}, 'restored', 'no face 4'), ({4, 9}, 'no_face', 'no face 4, 9'))
    for only, status, message in cases:
        runner = Runner(restorer(selection=FaceSelection(frozenset(only))), tmp_path / 'out')
        (record,) = runner.run([Job(tmp_path / 'a.png', 'a')])
        assert record.status == status and message in record.message
        found = [face.status for face in record.found]
        assert found == ['left_out', 'restored' if status == 'restored' else 'left_out']


def test_numbers_below_zero_are_refused():
    with pytest.raises(ValueError, match='numbered from 0'):
        FaceSelection(only=frozenset({-1}))


def test_the_threshold_of_the_detector_decides_which_faces_there_are():
    image = blurred_portrait()
    (face,) = build_detector('tiny').detect(image)
    assert len(build_detector('tiny', min_score=face.score - 0.01).detect(image)) == 1
    assert build_detector('tiny', min_score=1).detect(image) == []


def test_the_command_leaves_faces_as_its_flags_say(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(restore, 'FaceRestorer', lambda *args: Dark(64))
    monkeypatch.setattr(Dark, 'device', 'cuda', raising=False)  # only keeps freed memory of a CPU
    monkeypatch.setattr(restore, 'build_detector', lambda *a, **flags: made.append(flags) or restorer().faces.detector)
    monkeypatch.setattr(restore, 'build_conditioner', lambda *args: None)
    save(picture())(tmp_path / 'a.png')
    out = str(tmp_path / 'out')
    flags = ['--skip_faces', '0', '--min_face', '40', '--blend', '0.5', '--det_threshold', '0.4', '--mask', 'box']
    run = ['-i', str(tmp_path / 'a.png'), '-o', out, '-s', '1', '--force', '--no-grain', *flags]
    assert restore.main(run) == 0
    assert made[0]['min_score'] == 0.4
    (entry,) = json.loads(Path(out, 'summary.json').read_text())['files']
    assert [face['status'] for face in entry['found']] == ['left_out', 'restored']
    x, y = SMALL[2].astype(int)
    written = imread(Path(out, entry['outputs'][-1]))
    assert np.abs(written[y, x] - 0.5 * picture()[y, x]).max() <= 1
    assert restore.main([*run, '--faces', '5']) == 1
    assert restore.main(['-i', str(tmp_path / 'a.png'), '-o', out, '--mask', 'parsing', '--weights_dir', out]) == 2


@pytest.mark.parametrize('flags', [['--blend', '1.1'], ['--faces', '-1'], ['--mask', 'hair'], ['--det_threshold', '0']])
def test_wrong_values_are_usage_errors(flags):
    with pytest.raises(SystemExit) as stop:
        restore.main(['-i', 'a.png', *flags])
    assert stop.value.code == 2


def test_a_track_keeps_its_number_in_a_clip():
    av = pytest.importorskip('av', reason='clips need the extra video')
    from basicsr.video.tracking import Track, Tracked
    from basicsr.video.video_restorer import VideoRestorer

    assert av
    images = restorer(selection=FaceSelection(without=frozenset({3})))
    face = images.faces.detector.faces[0]
    cut = [
        VideoRestorer(images)._cut_out(picture(), Tracked(Track(number, face, 0.0, 0), face, sharp=False))
        for number in (0, 3)
    ]
    assert [face.status for face in cut] == ['restored', 'left_out']
    small = VideoRestorer(restorer(selection=FaceSelection(min_size=SIZES[0] + 5)))
    track = Track(0, face, 0.0, 0)
    assert small._cut_out(picture(), Tracked(track, face, sharp=False)).status == 'left_out'
