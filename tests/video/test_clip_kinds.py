"""Clips of every kind: what they hold is kept or said, and limits are named before work begins."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type
from odd_pictures import save, scene, soft_alpha
from PIL import Image
from small_faces import Found, Unchanged

from basicsr.inference import ImageRestorer
from basicsr.inference.attempt import UNEXPECTED
from basicsr.inference.jobs import Job
from basicsr.inference.runner import Runner
from basicsr.utils.picture import is_animated
from basicsr.video import video_restorer
from basicsr.video.deinterlace import Deinterlacer
from basicsr.video.encoding import choose_encoding, hdr_parameters
from basicsr.video.video_io import (
    LONGEST_PAUSE,
    MOST_REPEATS,
    Stretch,
    TimedFrame,
    VideoReader,
    VideoReadError,
    resample,
)
from basicsr.video.video_restorer import INCOMPLETE, VideoRestorer
from basicsr.video.video_writer import kept_tags
from experiments.benchmarks.make_video import Scene, write_clip

DATA = Path(__file__).parents[1] / 'trials'
SMALL = scene(64, 48)


def restorer(upscale: float = 1, **settings) -> VideoRestorer:
    return VideoRestorer(ImageRestorer(Unchanged(64), Found(), upscale=upscale), **settings)


def restored(source: Path, folder: Path, upscale: float = 1, **settings):
    return restorer(upscale, **settings).restore_file(source, folder / 'out' / 'a.mp4')


def record_of(path: Path, output: Path, **settings):
    """The one record of a run over one clip."""
    runner = Runner(ImageRestorer(Unchanged(64), Found(), upscale=1), output, **settings)
    (record,) = runner.run([Job(path, path.stem)])
    assert not record.message.startswith(UNEXPECTED), record.message
    return record


def write_frames(path: Path, times: list[Fraction], base: Fraction = Fraction(1, 1000), **options: str) -> None:
    """A clip of the small scene with frames at these times, in seconds."""
    with av.open(str(path), 'w', options=options) as output:
        video = output.add_stream('libx264', rate=25, options={'bf': '0'})
        video.width, video.height, video.pix_fmt = 64, 48, 'yuv420p'
        video.codec_context.time_base = base
        for time in times:
            frame = av.VideoFrame.from_ndarray(SMALL)
            frame.pts, frame.time_base = round(time / base), base
            output.mux(video.encode(frame))
        output.mux(video.encode(None))


# What is kept


def test_languages_and_titles_of_sound_tracks_are_kept(tmp_path):
    result = restored(DATA / 'multi_language.mkv', tmp_path)
    with av.open(str(result.output)) as clip:
        tracks = [(s.metadata['language'], s.metadata['name'], s.metadata['handler_name']) for s in clip.streams.audio]
    assert tracks == [('eng', 'track0', 'track0'), ('deu', 'track1', 'track1'), ('fra', 'track2', 'track2')]


def test_title_date_and_chapters_are_kept_and_the_place_where_asked(tmp_path):
    write_clip(tmp_path / 'a.mp4', Scene(SMALL, 10))
    tags = {
        'title': 'a title',
        'date': '2001',
        'location': '+48.1000-016.2000/',
        'creation_time': '2001-02-03T04:05:06.000000Z',
    }
    chapter = {'id': 1, 'start': 0, 'end': 200, 'time_base': Fraction(1, 1000), 'metadata': {'title': 'one'}}
    with av.open(str(tmp_path / 'a.mp4')) as source, av.open(str(tmp_path / 'b.mp4'), 'w') as output:
        output.metadata.update(tags)
        output.set_chapters([chapter])
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    with av.open(str(restored(tmp_path / 'b.mp4', tmp_path).output)) as clip:
        assert {key: clip.metadata.get(key) for key in tags} == {**tags, 'location': None}
        assert not [key for key in clip.metadata if 'location' in key]
        assert [each['metadata']['title'] for each in clip.chapters()] == ['one']
    phone = {'com.apple.quicktime.location.ISO6709': '+1+2/', 'major_brand': 'qt', 'encoder': 'x'}
    assert kept_tags(phone) == {'location': '+1+2/'} and kept_tags(phone, keep_gps=False) == {}
    assert kept_tags({**tags, 'location-eng': 'x'}, keep_gps=True)['location'] == tags['location']


def test_transparency_is_kept_in_a_mov_file(tmp_path):
    result = restored(DATA / 'alpha.webm', tmp_path, upscale=0.5)
    assert result.output.name == 'a.mov' and result.status == 'no_face'
    with VideoReader(DATA / 'alpha.webm') as clip:
        alpha = next(clip.frames()).alpha
    with VideoReader(result.output) as clip:
        frame = next(clip.frames())
        assert clip.has_alpha and frame.image.shape == (128, 128, 3)
    assert alpha.min() == 0 and alpha.max() == 255
    halved = alpha.reshape(128, 2, 128, 2).mean((1, 3))
    assert np.abs(frame.alpha / 257 - halved).mean() < 2


def test_ten_bits_and_the_tags_of_hdr_are_kept(tmp_path):
    result = restored(DATA / 'hdr10.mp4', tmp_path)
    assert 'HDR, kept in 10 bits' in result.message
    with VideoReader(DATA / 'hdr10.mp4') as before, VideoReader(result.output) as after:
        first, last = next(before.frames()).image, next(after.frames()).image
        assert before.colours == after.colours and after.colours.transfer == 16
    with av.open(str(result.output)) as clip:
        assert (
            clip.streams.video[0].pix_fmt == 'yuv420p10le' and clip.streams.video[0].codec_context.codec_tag == 'hvc1'
        )
    assert last.dtype == np.uint16 and len(np.unique(last)) > 300
    assert np.abs(last.astype(int) - first).mean() < 400  # of 65535


def test_the_screen_of_hdr_is_told_to_the_encoder():
    primaries = [(34000, 50000), (16000, 50000), (13250, 50000), (34500, 50000), (7500, 50000), (3000, 50000)]
    rationals = [*primaries, (15635, 50000), (16450, 50000), (1, 10000), (1000, 1)]
    screen = np.array([*np.array(rationals).ravel(), 1, 1], np.int32).tobytes()
    light = np.array([1000, 400], np.uint32).tobytes()

    blocks = {Type.MASTERING_DISPLAY_METADATA: screen, Type.CONTENT_LIGHT_LEVEL: light}
    frame = SimpleNamespace(side_data=blocks)

    assert hdr_parameters(frame) == (
        'master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400'
    )
    assert (
        'max-cll=1000,400' in choose_encoding(False, True).options_for((64, 64), hdr_parameters(frame))['x265-params']
    )


def test_other_containers_are_clips(tmp_path):
    assert restored(DATA / 'clip.mpg', tmp_path).frames == 6
    record = record_of(DATA / 'clip.mpg', tmp_path / 'run')
    assert record.status == 'no_face' and record.outputs == ['final_results/clip.mp4']


@pytest.mark.parametrize('kind', ['gif', 'webp', 'png', 'avif'])
def test_moving_pictures_are_clips_with_their_times(tmp_path, kind):
    if f'.{kind}' not in Image.registered_extensions():
        pytest.skip(f'this Pillow has no {kind}')
    frames = [Image.fromarray(np.roll(SMALL, 16 * index, axis=1)) for index in range(4)]
    path = tmp_path / f'a.{kind}'
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100, 200, 100, 100], loop=0)
    save(scene())(tmp_path / f'still.{kind}')
    assert is_animated(path) and not is_animated(tmp_path / f'still.{kind}')
    record = record_of(path, tmp_path / 'out')
    assert (record.status, record.outputs) == ('no_face', ['final_results/a.mp4'])
    with VideoReader(tmp_path / 'out' / 'final_results' / 'a.mp4') as clip:
        shown = list(clip.frames())
    assert [float(frame.times[0]) for frame in shown] == pytest.approx([0, 0.1, 0.3, 0.4], abs=0.002)
    for index, frame in enumerate(shown):
        assert np.abs(frame.image.astype(int) - np.asarray(frames[index])).mean() < 12


def test_a_clear_animation_keeps_its_transparency(tmp_path):
    both = Image.fromarray(np.dstack([SMALL, soft_alpha(64, 48)]))
    both.save(tmp_path / 'a.webp', save_all=True, append_images=[both.transpose(0)], duration=40, lossless=True)
    result = restored(tmp_path / 'a.webp', tmp_path)
    assert (result.output.name, result.frames) == ('a.mov', 2)
    with VideoReader(result.output) as clip:
        assert np.abs(next(clip.frames()).alpha / 257 - soft_alpha(64, 48)).mean() < 2


def test_interlaced_frames_are_deinterlaced_and_that_is_said(tmp_path):
    y, x = np.mgrid[:64, :64]
    with av.open(str(tmp_path / 'a.mkv'), 'w') as output:
        video = output.add_stream('libx264', rate=25, options={'crf': '4', 'x264-params': 'tff=1'})
        video.width, video.height, video.pix_fmt = 64, 64, 'yuv420p'
        for index in range(8):
            place = 8 + 4 * index + 2 * (y % 2)  # the lower field is a moment later
            bar = np.where((x >= place) & (x < place + 16), 230, 20).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.dstack([bar] * 3))
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))

    def combing(frame: TimedFrame) -> float:
        grey = frame.image[..., 1].astype(int)
        return float(np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean())

    with VideoReader(tmp_path / 'a.mkv') as clip:
        frames = list(clip.frames())
        assert len(frames) == 8 and any('deinterlaced' in note for note in clip.notes)
        raw = [
            TimedFrame(clip.colours.to_rgb(each), (Fraction(0),)) for each in av.open(str(clip.path)).decode(video=0)
        ]
    assert np.mean([combing(each) for each in frames[1:-1]]) < 0.25 * np.mean([combing(each) for each in raw[1:-1]])
    assert 'deinterlaced' in restored(tmp_path / 'a.mkv', tmp_path).message


def test_frames_that_are_not_interlaced_go_through_untouched():
    frames = [av.VideoFrame(64, 48, 'yuv420p') for _ in range(3)]
    assert [*Deinterlacer().follow(iter(frames))] == frames


@pytest.mark.parametrize(
    ('channels', 'layout', 'words'), [(6, '5.1', ''), (7, '6.1', 'mixed from 7 channels to stereo')]
)
def test_sound_of_many_channels_keeps_them_or_says_that_they_are_mixed(tmp_path, channels, layout, words):
    with av.open(str(tmp_path / 'b.mkv'), 'w') as output:
        video = output.add_stream('mpeg4', rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, 'yuv420p'
        audio = output.add_stream('pcm_s16le', rate=48000, layout=layout)
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(SMALL)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame))
        sound = av.AudioFrame.from_ndarray(np.full((1, 9600 * channels), 3000, np.int16), 's16', layout)
        sound.sample_rate, sound.pts = 48000, 0
        output.mux([*video.encode(None), *audio.encode(sound), *audio.encode(None)])
    result = restored(tmp_path / 'b.mkv', tmp_path)
    assert 'from pcm_s16le to aac' in result.message and words in result.message
    assert ('mixed' in result.message) is bool(words)
    with av.open(str(result.output)) as clip:
        assert clip.streams.audio[0].codec_context.layout.nb_channels == (2 if words else channels)


# Limits


def test_the_encoder_is_the_fast_one_that_was_measured(tmp_path):
    write_clip(tmp_path / 'a.mp4', Scene(np.zeros((64, 64, 3), np.uint8), 2))
    result = restored(tmp_path / 'a.mp4', tmp_path).output
    stated = result.read_bytes()  # x264 writes its settings into the first frame
    for setting in (
        b'me=dia',
        b'subme=2',
        b'mbtree=1',
        b'b_adapt=0',
        b'rc_lookahead=10',
        b'analyse=0x3:0x3',
        b'crf=17.0',
    ):
        assert setting in stated, setting


def test_what_the_encoder_does_not_take_is_said_before_work_begins(tmp_path, monkeypatch):
    def work(*_):
        raise AssertionError('work has begun')

    monkeypatch.setattr(VideoRestorer, '_restore_clip', work)
    with pytest.raises(ValueError, match='16800x256 pixels, which libx264 does not encode'):
        restored(DATA / 'wide_4200x64.mp4', tmp_path, upscale=4)
    assert not (tmp_path / 'out').exists()


def test_clips_have_the_limit_of_pictures_before_and_after(tmp_path):
    write_clip(tmp_path / 'a.mp4', Scene(SMALL, 3))
    assert restored(tmp_path / 'a.mp4', tmp_path, max_megapixels=0.0031).frames == 3
    with pytest.raises(VideoReadError, match=r'64x48 pixels are over the limit of 0\.003 megapixels'):
        restored(tmp_path / 'a.mp4', tmp_path, max_megapixels=0.003)
    with pytest.raises(VideoReadError, match='enlarged 2 times'):
        restored(tmp_path / 'a.mp4', tmp_path, upscale=2, max_megapixels=0.01)
    save(scene(), save_all=True, append_images=[Image.fromarray(scene(seed=1))])(tmp_path / 'a.gif')
    with pytest.raises(VideoReadError, match='over the limit'):
        restored(tmp_path / 'a.gif', tmp_path, max_megapixels=0.003)


def test_frames_that_grow_on_the_way_are_left_out_above_the_limit(tmp_path):
    with av.open(str(tmp_path / 'a.mkv'), 'w') as output:
        video = output.add_stream('mjpeg', rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, 'yuvj420p'
        for index in range(4):
            large = av.CodecContext.create('mjpeg', 'w')
            large.width, large.height = (64, 48) if index != 2 else (640, 480)
            large.pix_fmt, large.time_base = 'yuvj420p', Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(scene(large.width, large.height)).reformat(format='yuvj420p')
            frame.pts, frame.time_base = index, Fraction(1, 25)
            for packet in [*large.encode(frame), *large.encode(None)]:
                packet.stream, packet.pts, packet.dts, packet.time_base = (
                    video,
                    40 * index,
                    40 * index,
                    Fraction(1, 1000),
                )
                output.mux(packet)
    assert restored(tmp_path / 'a.mkv', tmp_path).frames == 4
    result = restored(tmp_path / 'a.mkv', tmp_path, max_megapixels=0.01)
    assert (result.status, result.frames) == (INCOMPLETE, 3) and '1 damaged piece' in result.message


def test_huge_frames_are_worked_on_one_at_a_time(tmp_path, monkeypatch):
    write_clip(tmp_path / 'a.mp4', Scene(SMALL, 12))
    monkeypatch.setattr(video_restorer, 'MOST_WAITING', 64 * 48)
    alive = most = 0
    decode, finish = VideoReader.frames, VideoRestorer._finish

    def counted(self):
        nonlocal alive, most
        for frame in decode(self):
            alive += 1
            most = max(most, alive)
            yield frame

    def finished(self, frame):
        nonlocal alive
        alive -= 1
        return finish(self, frame)

    monkeypatch.setattr(VideoReader, 'frames', counted)
    monkeypatch.setattr(VideoRestorer, '_finish', finished)
    assert restored(tmp_path / 'a.mp4', tmp_path).frames == 12
    assert most <= 2


def test_a_pipe_under_a_clips_name_is_a_failed_file(tmp_path):
    os.mkfifo(tmp_path / 'a.mp4')
    record = record_of(tmp_path / 'a.mp4', tmp_path / 'out')
    assert record.status == 'failed' and 'no regular file' in record.message


def test_a_playlist_under_a_clips_name_opens_nothing_else(tmp_path):
    write_frames(tmp_path / 'inner.ts', [Fraction(n, 25) for n in range(5)])
    (tmp_path / 'a.mp4').write_text('#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ninner.ts\n#EXT-X-ENDLIST\n')
    (tmp_path / 'b.mp4').write_text("ffconcat version 1.0\nfile 'inner.ts'\n")
    for name in ('a.mp4', 'b.mp4'):
        with pytest.raises(VideoReadError, match='not a readable clip'):
            restored(tmp_path / name, tmp_path)


# Times


def test_a_clip_slower_than_a_frame_in_two_thousand_seconds_keeps_its_times(tmp_path):
    write_frames(tmp_path / 'a.mkv', [Fraction(0), Fraction(3000), Fraction(6000)])
    result = restored(tmp_path / 'a.mkv', tmp_path)
    with av.open(str(result.output)) as clip:
        times = [float(frame.pts * frame.time_base) for frame in clip.decode(video=0)]
    assert result.status == 'no_face' and times == pytest.approx([0, 3000, 6000], abs=0.01)


def test_a_rate_of_nothing_by_nothing_is_one_record(tmp_path):
    write_clip(tmp_path / 'a.avi', Scene(SMALL, 5), 'mpeg4')
    raw = bytearray((tmp_path / 'a.avi').read_bytes())
    header = raw.index(b'strh') + 8
    raw[header + 20 : header + 28] = bytes(8)
    (tmp_path / 'a.avi').write_bytes(raw)
    assert record_of(tmp_path / 'a.avi', tmp_path / 'out').status in ('no_face', 'incomplete', 'failed')

    class Stream:
        @property
        def average_rate(self):
            raise ZeroDivisionError

    from basicsr.video.video_io import USUAL_RATE, _stated_rate

    assert _stated_rate(Stream()) == USUAL_RATE


def test_a_jump_of_the_clock_is_taken_out_and_said(tmp_path):
    jump = Fraction(LONGEST_PAUSE + 100)
    write_frames(tmp_path / 'a.mkv', [Fraction(0), Fraction(1, 25), jump, jump + Fraction(1, 25)])
    result = restored(tmp_path / 'a.mkv', tmp_path)
    assert result.status == INCOMPLETE and 'a jump of 21700 s in its times was taken out' in result.message
    with av.open(str(result.output)) as clip:
        assert float([frame.pts * frame.time_base for frame in clip.decode(video=0)][-1]) < 1
    clock = Stretch()
    assert [clock(Fraction(time), Fraction(1)) for time in (0, 5, jump, jump + 2)] == [0, 5, 6, 8]


def test_a_frame_is_not_repeated_without_end():
    frames = [TimedFrame(np.zeros((1, 1, 3)), (Fraction(time),)) for time in (0, 10**9)]
    shown = [time for frame in resample(iter(frames[:1] + frames[1:]), Fraction(60)) for time in frame.times]
    assert MOST_REPEATS < len(shown) <= 2 * MOST_REPEATS and shown[MOST_REPEATS] == 10**9


def test_sound_that_goes_while_the_clip_is_read_is_said(tmp_path, monkeypatch):
    write_clip(tmp_path / 'a.mkv', Scene(SMALL, 5), sound='aac')
    monkeypatch.setattr(VideoReader, 'sounds', property(lambda self: 2))  # as it was when it was opened
    result = restored(tmp_path / 'a.mkv', tmp_path)
    assert result.status == INCOMPLETE and 'sound track 2 is gone: the clip has changed' in result.message
    with av.open(str(result.output)) as clip:
        assert len(clip.streams.audio) == 1
