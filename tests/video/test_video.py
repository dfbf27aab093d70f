"""Clips: frames, times, sound, orientation and colours kept; faults said; nothing half done; memory bounded."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from small_faces import ASTRONAUT_LANDMARKS, Found, Unchanged, blurred_portrait, portrait, psnr, save_tiny_model

from basicsr.cli import restore as inference_codeformer
from basicsr.cli.arguments import frame_rate
from basicsr.faces.detection import Face
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.utils.files import is_video_file
from basicsr.utils.image import imwrite
from basicsr.utils.pipeline import ahead, behind
from basicsr.video.tracking import LOOKAHEAD
from basicsr.video.video_io import Colours, TimedFrame, VideoReader, VideoReadError, resample
from basicsr.video.video_restorer import DECODED, INCOMPLETE, VideoRestorer
from experiments.benchmarks import make_video
from experiments.benchmarks.make_video import Scene, write_clip
from experiments.measurements import flicker as measure_flicker

SIDE = 128
LANDMARKS = (ASTRONAUT_LANDMARKS + 0.5) * SIDE / 512 - 0.5
FACE = Face(np.array([40.0, 15, 70, 45]), 1.0, LANDMARKS)
PICTURE = cv2.resize(blurred_portrait(), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
NTSC = Fraction(30000, 1001)
OLD_PYAV = int(av.__version__.split('.')[0]) < 18
BT2020 = pytest.param(9, False, marks=pytest.mark.skipif(OLD_PYAV, reason='PyAV 17 does not convert BT.2020'))


class White(Unchanged):
    """Restores every face to a white square, and remembers how many it was given at a time."""

    def __init__(self, size: int = 64) -> None:
        super().__init__(size)
        self.batches = []

    def restore(self, faces, w=0.8, adain=True):
        self.batches.append(len(faces))
        return [np.full((self.size, self.size, 3), 255, np.uint8) for _ in faces]


def restorer(*faces: Face, network=None, detector=None, upscale: float = 1, **settings) -> VideoRestorer:
    images = ImageRestorer(
        network or Unchanged(64),
        detector or Found(*(faces or (FACE,))),
        upscale=upscale,
        grain=False,
        **settings,
    )
    return VideoRestorer(images)


def frames_of(path: Path) -> list[np.ndarray]:
    with VideoReader(path) as clip:
        return [frame.image for frame in clip.frames()]


def times_of(path: Path) -> list[Fraction]:
    with av.open(str(path)) as clip:
        return [frame.pts * frame.time_base for frame in clip.decode(video=0)]


def samples_of(path: Path) -> tuple[np.ndarray, int]:
    """The first channel of the sound, -1 to 1, from time 0, and its rate."""
    with av.open(str(path)) as clip:
        resampler = av.AudioResampler('fltp', 'mono', 48000)
        pieces = [piece for frame in clip.decode(audio=0) for piece in resampler.resample(frame)]
        first = float(pieces[0].pts * pieces[0].time_base)
        sound = np.concatenate([piece.to_ndarray()[0] for piece in pieces])
    skipped = round(first * 48000)
    return (sound[-skipped:] if skipped < 0 else np.concatenate([np.zeros(skipped), sound])), 48000


def codec_of(path: Path) -> str:
    with av.open(str(path)) as clip:
        return clip.streams.audio[0].codec_context.codec.canonical_name


@pytest.fixture(scope='module')
def clip(tmp_path_factory) -> Path:
    """24 frames at 30000/1001 with a beep."""
    path = tmp_path_factory.mktemp('clips') / 'clip.mp4'
    write_clip(path, Scene(PICTURE, 24, NTSC, motion=4), sound='aac')
    return path


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp('model') / 'tiny.pth')


def test_names():
    assert is_video_file('a.MP4') and is_video_file(Path('b.webm')) and not is_video_file('c.png')


@pytest.mark.parametrize(
    ('name', 'codec', 'sound', 'result_sound'),
    [
        ('a.mp4', 'libx264', 'aac', 'aac'),
        ('a.mov', 'libx264', 'pcm_s16le', 'aac'),
        ('a.mkv', 'libx264', 'flac', 'flac'),
        ('a.avi', 'mpeg4', 'libmp3lame', 'mp3'),
        ('a.webm', 'libvpx-vp9', 'libopus', 'opus'),
    ],
)
def test_every_container_keeps_frames_rate_and_sound(tmp_path, name, codec, sound, result_sound):
    source, target = tmp_path / name, tmp_path / 'out' / 'a.mp4'
    write_clip(source, Scene(PICTURE, 30, NTSC, bar=True), codec, sound)
    result = restorer(upscale=0.5).restore_file(source, target)
    assert (result.status, result.frames, result.faces, result.restored) == ('restored', 30, 1, 1)
    assert result.output == target and [path.name for path in target.parent.iterdir()] == ['a.mp4']
    times = times_of(target)
    if name != 'a.avi':  # the first frame of such a file stays for two
        assert times == [index / NTSC for index in range(30)]
    assert codec_of(target) == result_sound
    assert ('from pcm_s16le to aac' in result.message) is (sound == 'pcm_s16le')
    heard, rate = samples_of(target)
    loud = np.abs(heard) > 0.1
    assert abs(len(heard) / rate - 30 / NTSC) < 0.06
    assert np.flatnonzero(loud)[0] < 0.03 * rate and 0.08 * rate < np.flatnonzero(loud[: rate // 2])[-1] < 0.13 * rate
    images = frames_of(target)
    assert images[0].shape == (SIDE // 2, SIDE // 2, 3)
    assert images[0][0].mean() > 230 and images[10][0].mean() < 200


@pytest.mark.parametrize('rate', [8000, 11025, 12000])
def test_mp3_too_slow_for_an_mp4_becomes_aac(tmp_path, monkeypatch, rate):
    monkeypatch.setattr('experiments.benchmarks.make_video.SOUND_RATE', rate)
    write_clip(tmp_path / 'a.avi', Scene(PICTURE, 10), 'mpeg4', 'libmp3lame')
    result = restorer().restore_file(tmp_path / 'a.avi', tmp_path / 'b.mp4')
    assert result.status == 'restored' and 'from mp3 to aac' in result.message
    assert codec_of(tmp_path / 'b.mp4') == 'aac'
    begins = [np.flatnonzero(np.abs(samples_of(tmp_path / name)[0]) > 0.2)[0] for name in ('a.avi', 'b.mp4')]
    assert abs(begins[1] - begins[0]) < 48


@pytest.mark.parametrize(
    ('times', 'ticks'),
    [([0, 40, 80, 200, 210, 500, 540], 1000), ([*range(0, 1000, 40), *range(1200, 4200, 200)], 25)],
)
def test_frames_that_come_unevenly_keep_their_times(times, ticks, tmp_path):
    kind = 'mkv' if ticks == 1000 else 'mp4'  # of the first the ticks are milliseconds
    options = {} if ticks == 1000 else {'movie_timescale': '25', 'video_track_timescale': '25'}
    with av.open(str(tmp_path / f'a.{kind}'), 'w', options=options) as output:
        video = output.add_stream('libx264', rate=25, options={'bf': '0'})
        video.width, video.height, video.pix_fmt = SIDE, SIDE, 'yuv420p'
        video.codec_context.time_base = Fraction(1, ticks)
        for time in times:
            frame = av.VideoFrame.from_ndarray(PICTURE)
            frame.pts, frame.time_base = time * ticks // 1000, Fraction(1, ticks)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    restorer().restore_file(tmp_path / f'a.{kind}', tmp_path / 'b.mp4')
    assert np.allclose(
        [float(time) for time in times_of(tmp_path / 'b.mp4')], np.array(times) / 1000, atol=1.01 / ticks
    )


@pytest.mark.parametrize('fps', [Fraction(12), Fraction(60)])
def test_another_frame_rate_keeps_duration_and_sound(clip, tmp_path, fps):
    target = tmp_path / 'b.mp4'
    result = restorer().restore_file(clip, target, fps)
    seconds, times = 24 / NTSC, times_of(target)
    assert result.frames == 24
    assert times == [index / fps for index in range(len(times))]
    assert abs(len(times) / fps - seconds) <= 1 / min(fps, NTSC)
    heard, rate = samples_of(target)
    assert abs(len(heard) / rate - seconds) < 0.06


@pytest.mark.parametrize(('text', 'fps'), [('29.97002997', NTSC), ('23.976023976', Fraction(24000, 1001))])
def test_a_frame_rate_with_many_digits_is_rounded(clip, tmp_path, text, fps):
    assert frame_rate(text) == fps
    restorer().restore_file(clip, tmp_path / 'b.mp4', Fraction(text))
    times = times_of(tmp_path / 'b.mp4')
    assert times == [index / fps for index in range(len(times))]


@pytest.mark.parametrize('fps', [Fraction(1), Fraction(1, 1001)])
def test_a_clip_shorter_than_a_frame_of_the_result_has_one_frame(tmp_path, fps):
    write_clip(tmp_path / 'a.mp4', Scene(PICTURE, 10), sound='aac')
    result = restorer().restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4', fps)
    assert (result.status, result.frames) == ('restored', 10)
    assert times_of(tmp_path / 'b.mp4') == [0] and codec_of(tmp_path / 'b.mp4') == 'aac'


def test_resampling_takes_the_frame_of_the_time():
    frames = [TimedFrame(np.full((1, 1, 3), index), (Fraction(index, 10),)) for index in range(10)]

    def shown(rate):
        return [int(frame.image[0, 0, 0]) for frame in resample(frames, Fraction(rate)) for _ in frame.times]

    assert shown(10) == list(range(10))
    assert shown(20) == [index for index in range(10) for _ in range(2)]
    assert shown(5) == [0, 2, 4, 6, 8]
    times = [time for frame in resample(frames, Fraction(25)) for time in frame.times]
    assert times == [Fraction(index, 25) for index in range(len(times))]
    assert list(resample([], Fraction(25))) == []
    assert shown(1) == [4] and shown(Fraction(1, 9)) == [0]


@pytest.mark.parametrize('fps', [Fraction(0), Fraction(-1), Fraction(1, 5000), Fraction(5000)])
def test_a_frame_rate_out_of_range_is_an_error(clip, tmp_path, fps):
    with pytest.raises(ValueError, match='frames a second'):
        restorer().restore_file(clip, tmp_path / 'b.mp4', fps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('rotation', [90, 180, 270])
def test_a_turned_clip_comes_out_upright(tmp_path, rotation):
    stored = np.ascontiguousarray(np.rot90(PICTURE[:, :96], -rotation // 90))
    write_clip(tmp_path / 'a.mp4', Scene(stored, 3), rotation=rotation)
    restorer().restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
    (image, *_) = frames_of(tmp_path / 'b.mp4')
    assert image.shape == (SIDE, 96, 3) and psnr(image, PICTURE[:, :96]) > 30
    with av.open(str(tmp_path / 'b.mp4')) as result:
        assert next(result.decode(video=0)).rotation == 0


def test_odd_sides_get_their_last_pixels_twice(tmp_path):
    write_clip(tmp_path / 'a.mp4', Scene(PICTURE, 3))
    restorer(upscale=0.79).restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
    (image, *_) = frames_of(tmp_path / 'b.mp4')
    assert round(SIDE * 0.79) == 101 and image.shape == (102, 102, 3)
    expected = cv2.resize(PICTURE, (101, 101), interpolation=cv2.INTER_AREA)
    assert psnr(image[:101, :101], expected) > 30 and psnr(image[101], image[100]) > 30


@pytest.mark.parametrize(('matrix', 'wide'), [(1, False), (6, False), (6, True), BT2020])
def test_colours_and_their_tags_are_kept(tmp_path, matrix, wide):
    patches = np.zeros((64, 64, 3), np.uint8)
    patches[:32, :32, 0], patches[:32, 32:, 1], patches[32:, :32, 2] = 200, 180, 220
    patches[32:, 32:] = (250, 128, 10)
    colours = Colours(matrix, matrix, matrix if matrix != 9 else 16, wide)
    with av.open(str(tmp_path / 'a.mp4'), 'w') as output:
        video = output.add_stream('libx264', rate=25, options={'crf': '4'})
        video.width, video.height, video.pix_fmt = 64, 64, 'yuv420p'
        context = video.codec_context
        context.colorspace, context.color_primaries, context.color_trc = matrix, matrix, colours.transfer
        context.color_range = colours.range
        for index in range(3):
            frame = colours.from_rgb(patches)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    restorer(Face(np.zeros(4), 1.0, LANDMARKS / 2)).restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
    for name in ('a.mp4', 'b.mp4'):
        with av.open(str(tmp_path / name)) as result:
            assert Colours.of(next(result.decode(video=0))) == colours
        image = frames_of(tmp_path / name)[0].astype(int)
        for y, x in ((16, 16), (16, 48), (48, 16), (48, 48)):
            assert np.abs(image[y, x] - patches[y, x]).max() <= 6


def test_faces_of_several_frames_make_a_batch(clip, tmp_path):
    network = White()
    network.batch_size = 8
    result = restorer(network=network).restore_file(clip, tmp_path / 'b.mp4')
    assert network.batches == [8, 8, 8] and result.restored == 1
    images = frames_of(tmp_path / 'b.mp4')
    x, y = LANDMARKS[2].astype(int)
    assert all(image[y, x].min() > 245 for image in images) and all(image[100:].mean() < 200 for image in images)


def test_two_faces_are_two_tracks_and_a_missed_frame_is_no_hole(clip, tmp_path):
    other = Face(FACE.box + 60, 1.0, LANDMARKS + np.array([50, 60]))

    class Blinking(Found):
        calls = 0

        def detect(self, image):
            self.calls += 1
            return self.faces[:1] if self.calls == 12 else self.faces

    network = White()
    result = restorer(network=network, detector=Blinking(FACE, other)).restore_file(clip, tmp_path / 'b.mp4')
    assert (result.faces, result.restored) == (2, 2)
    assert sum(network.batches) == 48 and max(network.batches) <= network.batch_size


def test_a_still_head_gives_a_still_result(tmp_path):
    """The same clip twice, once with the landmarks shaken by the detector: the restored faces hardly move."""

    class Shaken(Found):
        rng = np.random.default_rng(0)

        def detect(self, image):
            return [Face(FACE.box, 1.0, LANDMARKS + self.rng.normal(0, 0.15, (5, 2)))]

    class Stripes(Unchanged):
        def restore(self, faces, w=0.8, adain=True):
            stripes = np.tile(np.repeat([0, 255], 4).astype(np.uint8), self.size // 8)
            return [np.broadcast_to(stripes[:, None], (self.size, self.size, 3)).copy() for _ in faces]

    write_clip(tmp_path / 'a.mp4', Scene(PICTURE, 40))
    images = ImageRestorer(Stripes(64), Shaken(), upscale=1)
    VideoRestorer(images).restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
    left, top, right, bottom = 40, 20, 70, 40
    tracked = np.stack(frames_of(tmp_path / 'b.mp4'))[10:, top:bottom, left:right].astype(int)
    alone = np.stack([images.restore(PICTURE).image for _ in range(30)])[:, top:bottom, left:right].astype(int)
    assert np.abs(np.diff(tracked, axis=0)).mean() < 0.3 * np.abs(np.diff(alone, axis=0)).mean()


def test_a_picture_that_stands_still_is_restored_and_pasted_once(tmp_path, monkeypatch):
    decode, finish, finished = VideoReader.frames, VideoRestorer._finish, []

    def still(self):
        first = None
        for index, frame in enumerate(decode(self)):
            first = frame if first is None or index == 9 else first  # another picture from there on
            yield replace(frame, image=first.image.copy())

    def counted(self, frame):
        finished.append(frame)
        return finish(self, frame)

    write_clip(tmp_path / 'a.mp4', Scene(PICTURE, 14, noise=2))
    monkeypatch.setattr(VideoReader, 'frames', still)
    monkeypatch.setattr(VideoRestorer, '_finish', counted)
    network = White()
    result = restorer(network=network).restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
    assert (result.frames, result.restored, len(times_of(result.output))) == (14, 1, 14)
    assert sum(network.batches) == len(finished) == 2
    shown = frames_of(result.output)
    assert all(psnr(frame, shown[0]) > 40 for frame in shown) and shown[5][32, 55].min() > 240  # white in all of them


def test_a_sharp_face_is_left_alone_in_every_frame(tmp_path):
    sharp = portrait()[:256, 80:336]
    write_clip(tmp_path / 'a.mp4', Scene(sharp, 12), crf=4)
    found = Face(np.zeros(4), 1.0, ASTRONAUT_LANDMARKS - (80, 0))
    result = restorer(found, network=White()).restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
    assert (result.status, result.faces, result.restored) == ('already_sharp', 1, 0)
    assert min(psnr(image, sharp) for image in frames_of(tmp_path / 'b.mp4')) > 30
    forced = restorer(found, network=White(), force=True).restore_file(tmp_path / 'a.mp4', tmp_path / 'c.mp4')
    assert forced.status == 'restored'


def test_a_clip_without_a_face_is_enlarged_and_keeps_its_sound(clip, tmp_path):
    result = restorer(detector=Found(), upscale=2).restore_file(clip, tmp_path / 'b.mp4')
    assert (result.status, result.faces) == ('no_face', 0) and 'no face found' in result.message
    assert frames_of(tmp_path / 'b.mp4')[0].shape == (2 * SIDE, 2 * SIDE, 3) and codec_of(tmp_path / 'b.mp4') == 'aac'


def test_a_clip_of_aligned_faces(tmp_path):
    write_clip(tmp_path / 'a.mp4', Scene(PICTURE, 9))
    aligned = VideoRestorer(ImageRestorer(White(64), force=True), aligned=True)
    assert aligned.restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4').status == 'restored'
    images = frames_of(tmp_path / 'b.mp4')
    assert len(images) == 9 and all(image.shape == (SIDE, SIDE, 3) and image.min() > 250 for image in images)
    write_clip(tmp_path / 'wide.mp4', Scene(PICTURE[:96], 3))
    with pytest.raises(ValueError, match='must be square'):
        aligned.restore_file(tmp_path / 'wide.mp4', tmp_path / 'c.mp4')
    assert not (tmp_path / 'c.mp4').exists()


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('empty.mp4', b'', 'the file is empty'),
        ('text.mp4', b'this is no clip\n' * 50, 'not a readable clip'),
        ('noise.avi', bytes(range(256)) * 40, 'not a readable clip'),
    ],
)
def test_what_is_no_clip_is_said_and_nothing_is_left(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoReadError, match=message) as caught:
        restorer().restore_file(tmp_path / name, tmp_path / 'out' / 'b.mp4')
    assert name in str(caught.value)
    assert not list(tmp_path.glob('out/*'))


def test_names_with_colons_are_names_and_no_protocols(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('12:30.mp4', '2024-01-01T12:30:00.mp4'):
        shutil.copy(clip, name)
        target = Path('10:30', name)
        assert restorer().restore_file(Path(name), target).status == 'restored'
        assert len(frames_of(target)) == 24 and codec_of(target.absolute()) == 'aac'
    write_clip(Path('10:30', '1:2.mkv'), Scene(PICTURE, 3))
    assert len(frames_of(Path('10:30', '1:2.mkv'))) == 3


def test_a_missing_clip_and_one_of_sound_alone(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file'):
        restorer().restore_file(tmp_path / 'none.mp4', tmp_path / 'b.mp4')
    with av.open(str(tmp_path / 'sound.mp4'), 'w') as output:
        audio = output.add_stream('aac', rate=48000, layout='mono')
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), 's16', 'mono')
        frame.sample_rate = 48000
        output.mux([*audio.encode(frame), *audio.encode(None)])
    with pytest.raises(VideoReadError, match='no picture in it'):
        restorer().restore_file(tmp_path / 'sound.mp4', tmp_path / 'b.mp4')


@pytest.mark.parametrize(
    ('name', 'part', 'sound'),
    [('a.mkv', 0.5, None), ('a.avi', 0.8, None), ('a.avi', 0.8, 'pcm_s16le'), ('a.avi', 0.8, 'libmp3lame')],
)
def test_of_a_clip_that_breaks_off_what_there_is_is_saved(tmp_path, name, part, sound):
    write_clip(tmp_path / name, Scene(PICTURE, 60, noise=8), 'mpeg4' if name == 'a.avi' else 'libx264', sound)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * part)])
    result = restorer().restore_file(tmp_path / name, tmp_path / 'b.mp4')
    assert result.status == INCOMPLETE and 'breaks off' in result.message
    assert 5 < result.frames < 55 and len(frames_of(tmp_path / 'b.mp4')) == result.frames


def test_an_avi_that_leaves_frames_out_is_whole(tmp_path):
    with av.open(str(tmp_path / 'a.avi'), 'w') as output:
        video = output.add_stream('mpeg4', rate=25)
        video.width, video.height, video.pix_fmt = SIDE, SIDE, 'yuv420p'
        for time in (0, 1, 20, 21):
            frame = av.VideoFrame.from_ndarray(PICTURE)
            frame.pts, frame.time_base = time, Fraction(1, 25)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    result = restorer().restore_file(tmp_path / 'a.avi', tmp_path / 'b.mp4')
    assert (result.status, result.frames) == ('restored', 4)
    assert times_of(tmp_path / 'b.mp4') == [Fraction(time, 25) for time in (0, 1, 20, 21)]


def test_a_damaged_piece_is_left_out_and_the_rest_is_saved(tmp_path):
    write_clip(tmp_path / 'a.mp4', Scene(PICTURE, 40, noise=8))
    with av.open(str(tmp_path / 'a.mp4')) as clip:
        place, size = [(p.pos, p.size) for p in clip.demux(video=0) if p.size][20]
    raw = bytearray((tmp_path / 'a.mp4').read_bytes())
    raw[place : place + size] = b'\x55' * size
    (tmp_path / 'a.mp4').write_bytes(raw)
    result = restorer().restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
    assert result.status == INCOMPLETE and '1 damaged piece' in result.message
    assert result.frames == len(frames_of(tmp_path / 'b.mp4')) >= 38


@pytest.mark.parametrize(
    ('sound', 'first', 'damage'),
    [
        ('ac3', 0, b'\x55' * 8),  # copied; FFmpeg finds it when it writes what it held back
        ('libopus', -3, b'\0\0'),  # copied; its time lies before that of the packet before
        ('mp2', 0, b'\x55' * 8),  # encoded again; its header is none
        ('mp2', 3, b'\0'),  # encoded again; it is said to be stereo, in a mono track
    ],
)
def test_a_damaged_piece_of_the_sound_is_left_out_and_the_rest_is_saved(tmp_path, sound, first, damage):
    write_clip(tmp_path / 'a.mkv', Scene(PICTURE, 30), sound=sound)
    with av.open(str(tmp_path / 'a.mkv')) as clip:
        packet = [bytes(p) for p in clip.demux(audio=0) if p.size][20]
    raw = bytearray((tmp_path / 'a.mkv').read_bytes())
    place = raw.rfind(packet) + first
    raw[place : place + len(damage)] = damage
    (tmp_path / 'a.mkv').write_bytes(raw)
    result = restorer().restore_file(tmp_path / 'a.mkv', tmp_path / 'b.mp4')
    assert result.status == INCOMPLETE and '1 damaged piece(s) of the sound' in result.message
    heard, rate = samples_of(tmp_path / 'b.mp4')
    assert len(frames_of(tmp_path / 'b.mp4')) == 30 and np.abs(heard[rate:]).max() > 0.3


def test_sound_that_cannot_be_read_on_ends_there(tmp_path):
    write_clip(tmp_path / 'a.mp4', Scene(PICTURE, 30), sound='aac')
    raw = bytearray((tmp_path / 'a.mp4').read_bytes())
    size = raw.rindex(b'stsz') + 16 + 4 * 40  # of a packet
    raw[size : size + 8] = b'\0\x97\xd7\xb3\x31\x9c\x1c\xc1'  # after which FFmpeg reports that there is no memory
    (tmp_path / 'a.mp4').write_bytes(raw)
    result = restorer().restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
    assert result.status == INCOMPLETE and '1 damaged piece(s) of the sound' in result.message
    assert len(frames_of(tmp_path / 'b.mp4')) == result.frames > 5


def test_a_full_disk_is_no_damaged_sound(tmp_path):
    resource = pytest.importorskip('resource')
    write_clip(tmp_path / 'a.mkv', Scene(PICTURE, 30, noise=8), sound='ac3')
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, most))
    try:
        with pytest.raises(OSError, match='could not be written'):
            restorer().restore_file(tmp_path / 'a.mkv', tmp_path / 'out' / 'b.mp4')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / 'out').iterdir()) == []


def test_sound_of_an_unknown_codec_is_left_out_and_said(tmp_path):
    write_clip(tmp_path / 'a.mkv', Scene(PICTURE, 10), sound='aac')
    raw = (tmp_path / 'a.mkv').read_bytes()
    assert raw.count(b'A_AAC') == 1
    (tmp_path / 'a.mkv').write_bytes(raw.replace(b'A_AAC', b'A_XYZ'))
    result = restorer().restore_file(tmp_path / 'a.mkv', tmp_path / 'b.mp4')
    assert result.status == INCOMPLETE and 'codec that is not known' in result.message
    assert len(frames_of(tmp_path / 'b.mp4')) == 10
    with av.open(str(tmp_path / 'b.mp4')) as saved:
        assert not saved.streams.audio


class Failing(Unchanged):
    """Works once, then raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(64)
        self.error, self.calls = error, 0

    def restore(self, faces, w=0.8, adain=True):
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return super().restore(faces)


@pytest.mark.parametrize('error', [RuntimeError('the network broke'), KeyboardInterrupt()])
def test_an_interrupted_clip_leaves_no_file_and_no_thread(clip, tmp_path, error):
    before = threading.active_count()
    (tmp_path / 'b.mp4').write_text('an older result')
    with pytest.raises(type(error)):
        restorer(network=Failing(error)).restore_file(clip, tmp_path / 'b.mp4')
    assert [path.name for path in tmp_path.iterdir()] == ['b.mp4']
    assert (tmp_path / 'b.mp4').read_text() == 'an older result'
    assert threading.active_count() == before


def test_a_detector_or_an_encoder_that_fails_ends_the_clip(clip, tmp_path, monkeypatch):
    class Broken(Found):
        def detect(self, image):
            raise RuntimeError('the detector broke')

    with pytest.raises(RuntimeError, match='the detector broke'):
        restorer(detector=Broken()).restore_file(clip, tmp_path / 'b.mp4')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('basicsr.video.video_writer.VideoWriter.write', full)
    with pytest.raises(OSError, match='No space left'):
        restorer().restore_file(clip, tmp_path / 'b.mp4')
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_frames_in_memory_does_not_depend_on_the_length(tmp_path, monkeypatch):
    """Counted from where a frame is decoded to where it has been written, with an encoder that lags behind."""
    alive = most = 0
    lock = threading.Lock()
    decode, write = VideoReader.frames, VideoRestorer._finish

    def counted(self):
        nonlocal alive, most
        for frame in decode(self):
            with lock:
                alive += 1
                most = max(most, alive)
            yield frame

    def finished(self, frame):
        nonlocal alive
        with lock:
            alive -= 1
        return write(self, frame)

    monkeypatch.setattr(VideoReader, 'frames', counted)
    monkeypatch.setattr(VideoRestorer, '_finish', finished)
    write_clip(tmp_path / 'a.mp4', Scene(cv2.resize(PICTURE, (32, 32)), 300, noise=40))
    network = Unchanged(64)
    face = Face(np.zeros(4), 1.0, LANDMARKS / 4)
    result = restorer(face, network=network).restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
    assert result.frames == 300 and alive == 0
    assert most <= DECODED + LOOKAHEAD + 4 * network.batch_size + 8


def test_the_real_network_restores_a_moving_face(model, tmp_path):
    network = FaceRestorer(model, device='cpu', batch_size=3)
    write_clip(tmp_path / 'a.mp4', Scene(PICTURE, 8, motion=6))
    result = restorer(network=network).restore_file(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
    assert (result.status, result.frames, result.restored) == ('restored', 8, 1)
    assert 0 < result.network_seconds < result.seconds


def test_stages_pass_everything_on_in_order_and_raise_what_goes_wrong():
    def numbers(count):
        yield from range(count)
        raise LookupError('the end')

    found = []
    with pytest.raises(LookupError, match='the end'):
        for number in ahead(numbers(50), 3):
            found.append(number)
    assert found == list(range(50))
    taken = []
    with behind(taken.extend, 2) as put:
        for number in range(50):
            put(number)
    assert taken == list(range(50))

    def refuse(items):
        next(items)
        raise LookupError('enough')

    with pytest.raises(LookupError, match='enough'), behind(refuse, 2) as put:
        for number in range(50):
            put(number)


def test_a_stage_that_is_left_closes_its_source():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    stage = ahead(ahead(endless(), 2), 2)
    next(stage)
    stage.close()
    assert closed.is_set()


def test_the_command_line_takes_clips_alone_and_in_folders(clip, model, tmp_path, capsys):
    flags = ['--model', str(model), '--device', 'cpu', '-s', '1', '--detection_model', 'tiny']
    output = tmp_path / 'out'
    assert inference_codeformer.main(['-i', str(clip), '-o', str(output), '--save_video_fps', '15', *flags]) == 0
    (record,) = json.loads((output / 'summary.json').read_text())['files']
    assert record['status'] == 'restored' and record['outputs'] == ['final_results/clip.mp4']
    assert record['message'] == '24 frames' and (record['faces'], record['restored']) == (1, 1)
    with VideoReader(output / 'final_results' / 'clip.mp4') as result:
        assert result.rate == 15 and result.sounds == 1
    folder = tmp_path / 'in'
    (folder / 'sub').mkdir(parents=True)
    shutil.copy(clip, folder / 'sub' / 'a.mp4')
    (folder / 'broken.mov').write_bytes(b'')
    imwrite(folder / 'a.png', PICTURE)
    before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
    for _ in range(2):
        assert inference_codeformer.main(['-i', str(folder), '-o', str(folder), *flags]) == 1
        files = json.loads((folder / 'summary.json').read_text())['files']
        statuses = {Path(entry['input']).name: entry['status'] for entry in files}
        assert statuses == {'a.png': 'restored', 'broken.mov': 'failed', 'a.mp4': 'restored'}
    assert {path: path.read_bytes() for path in before} == before
    assert (folder / 'final_results' / 'sub' / 'a.mp4').is_file()
    assert 'the file is empty' in capsys.readouterr().out


@pytest.mark.parametrize('fps', ['0', '-3', '0.0001', 'fast', '1/0'])
def test_a_frame_rate_that_is_none_is_a_usage_error(clip, tmp_path, fps, capsys):
    with pytest.raises(SystemExit) as stop:
        inference_codeformer.main(['-i', str(clip), '-o', str(tmp_path / 'out'), f'--save_video_fps={fps}'])
    assert stop.value.code == 2 and '--save_video_fps' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('mistake', 'words'),
    [
        (['--codec', 'nonsense'], "'nonsense': FFmpeg here has no such encoder"),
        (['--codec', 'aac'], "'aac' is an encoder of audio, not of video"),
        (['--sound', 'mpeg4'], "'mpeg4' is an encoder of video, not of audio"),
        (['--frames', '0'], '--frames and --fps must be above 0'),
        (['--size', '1'], 'both sides have 2 pixels'),
        (['--picture', 'nowhere.png'], 'nowhere.png'),
    ],
)
def test_mistakes_in_making_a_clip_are_one_line_and_leave_nothing(mistake, words, tmp_path, capsys):
    assert make_video.main([str(tmp_path / 'a.avi'), '--frames', '2', '--codec', 'mpeg4', *mistake]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ') and words in error and error.count('\n') == 1
    assert not list(tmp_path.iterdir())
    assert make_video.main([str(tmp_path / 'a.avi'), '--frames', '2', '--codec', 'mpeg4', '--size', '64']) == 0
    assert len(frames_of(tmp_path / 'a.avi')) == 2


def test_a_picture_without_a_face_cannot_be_measured_for_flicker(tmp_path, capsys, monkeypatch):
    imwrite(tmp_path / 'black.png', np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setattr('experiments.measurements.flicker.build_detector', Found)
    save_tiny_model(tmp_path / 'net.pth')
    options = ['--picture', str(tmp_path / 'black.png'), '--model', str(tmp_path / 'net.pth'), '--frames', '2']
    assert measure_flicker.main(options) == 1
    assert 'there is no face in the picture' in capsys.readouterr().err
