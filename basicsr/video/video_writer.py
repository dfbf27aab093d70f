"""Writing clips with PyAV: an mp4 with H.264 pictures, and the sound of another clip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError

from basicsr.video.video_io import Colours, VideoReader

RESULT_EXTENSION = '.mp4'
CRF = '18'  # of x264: no difference from the input that an eye finds
LEAST_TICKS = 90000  # a second of the result has at least this many ticks
COPIED_SOUND = frozenset({'aac', 'mp3', 'ac3', 'eac3', 'alac', 'flac', 'opus'})  # what players expect in an mp4
LEAST_MP3_RATE = 16000  # Hz; slower mp3 has no place in an mp4
AAC_RATES = frozenset({96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000})
AAC_LAYOUTS = frozenset({'mono', 'stereo', '3.0', '4.0', '5.0', '5.1', '7.1'})
AAC_FRAME = 1024  # samples
NO_SOUND = 'the result is without'
DAMAGED = (InvalidDataError, ArgumentError)  # what FFmpeg says of bad packets; of full disks it says other things


class Sound:
    """A sound track of a clip on its way into a result: copied, or encoded as AAC where players want it so.

    It is read from the clip again, a packet at a time, so that it waits for the picture without filling the memory.

    Args:
        clip: where it comes from.
        index: which of the clip's sound tracks.
        output: where it goes.

    Attributes:
        note: what was done if it is not a copy.
        lost: it is not in the result.
        damaged: how many pieces could not be read; their time stays silent.
    """

    def __init__(self, clip: VideoReader, index: int, output: OutputContainer) -> None:
        self.note, self.lost, self.damaged = '', False, 0
        self._clip, self._output = clip, output
        self._source = av.open(str(clip.path.absolute()))
        self._stream = self._source.streams.audio[index]
        self._packets = self._choose(index + 1)
        self._next = next(self._packets, None)

    def _choose(self, number: int) -> Iterator[av.Packet]:
        """What brings the packets; the stream of the result is made here."""
        context = self._stream.codec_context
        codec = context.codec.canonical_name if context is not None else ''
        if codec in COPIED_SOUND and not (codec == 'mp3' and context.sample_rate < LEAST_MP3_RATE):
            return self._copied(self._output.add_stream_from_template(self._stream))
        if not codec:
            self.note, self.lost = f'sound track {number} has a codec that is not known here; {NO_SOUND} it', True
            return iter(())
        self.note = f'sound track {number} was encoded again, from {codec} to aac, as players expect in an mp4'
        rate = context.sample_rate if context.sample_rate in AAC_RATES else 48000
        layout = context.layout.name if context.layout.name in AAC_LAYOUTS else 'stereo'
        return self._encoded(self._output.add_stream('aac', rate=rate, layout=layout))

    def _read(self) -> Iterator[av.Packet]:
        try:
            yield from self._source.demux(self._stream)
        except FFmpegError:
            self.damaged += 1

    def _copied(self, stream: av.AudioStream) -> Iterator[av.Packet]:
        for packet in self._read():
            if packet.dts is not None and packet.size:
                packet.stream = stream
                yield packet

    def _encoded(self, stream: av.AudioStream) -> Iterator[av.Packet]:
        context = stream.codec_context
        resampler = av.AudioResampler('fltp', context.layout, context.sample_rate, AAC_FRAME)
        for packet in self._read():
            try:
                pieces = [piece for frame in packet.decode() for piece in resampler.resample(frame)]
            except (FFmpegError, ValueError):  # the resampler raises the latter where rate or channels have changed
                self.damaged += 1
                continue
            for piece in pieces:
                yield from stream.encode(piece)
        for piece in resampler.resample(None):
            yield from stream.encode(piece)
        yield from stream.encode(None)

    def before(self, until: Fraction | float) -> Iterator[av.Packet]:
        """The next packets, those heard before `until`, in seconds."""
        while self._next is not None:
            packet, base = self._next, self._next.time_base
            dts = (packet.dts or 0) - round(self._clip.start / base)
            if dts * base > until:
                return
            packet.pts = dts if packet.pts is None else packet.pts - (packet.dts or 0) + dts
            packet.dts = dts
            self._next = next(self._packets, None)
            yield packet

    def close(self) -> None:
        """Let go of the clip."""
        self._source.close()


class VideoWriter:
    """An mp4 file with H.264 pictures (yuv420p); a context manager.

    Pictures with odd sides, which this format cannot have, get their last row or column twice.

    Args:
        path: of the file, whatever its extension.
        clip: gives the sound, the colours and the pixel aspect; its first frame has been read.
        size: width and height of the pictures.
        rate: frames a second, the mean where they vary.

    Attributes:
        sounds: the sound tracks.
    """

    def __init__(self, path: Path, clip: VideoReader, size: tuple[int, int], rate: Fraction) -> None:
        self._colours: Colours = clip.colours
        self._odd = (size[1] % 2, size[0] % 2)
        self._tick = Fraction(1, rate.numerator * math.ceil(LEAST_TICKS / rate.numerator))
        self._output = av.open(str(path.absolute()), 'w', format='mp4')
        self._last, self._damaged = -1, 0
        self._stream = self._output.add_stream('libx264', rate=rate, options={'crf': CRF})
        context = self._stream.codec_context
        context.width, context.height = size[0] + self._odd[1], size[1] + self._odd[0]
        context.pix_fmt, context.time_base = 'yuv420p', self._tick
        context.colorspace, context.color_primaries = self._colours.matrix, self._colours.primaries
        context.color_trc, context.color_range = self._colours.transfer, self._colours.range
        if clip.aspect:
            context.sample_aspect_ratio = clip.aspect
        self.sounds = [Sound(clip, index, self._output) for index in range(clip.sounds)]
        self._output.start_encoding()

    def write(self, image: np.ndarray, time: Fraction) -> None:
        """Show an RGB uint8 (H,W,3) picture from `time`, in seconds; times rise from call to call."""
        padded = np.pad(image, ((0, self._odd[0]), (0, self._odd[1]), (0, 0)), 'edge') if any(self._odd) else image
        frame = self._colours.from_rgb(padded)
        self._last = max(round(time / self._tick), self._last + 1)
        frame.pts, frame.time_base = self._last, self._tick
        self._mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what is still held back, and the rest of the sound."""
        self._mux(self._stream.encode(None))
        self._mux_sound(math.inf)
        with self._without_damage():
            self._output.close()

    @property
    def notes(self) -> list[str]:
        """What is to be said of the sound, once all of it has been written."""
        damaged = self._damaged + sum(sound.damaged for sound in self.sounds)
        left_out = [f'{damaged} damaged piece(s) of the sound were left out'] if damaged else []
        return [sound.note for sound in self.sounds if sound.note] + left_out

    @property
    def sound_lost(self) -> bool:
        """Whether sound, or a part of it, is not in the result, once all of it has been written."""
        return self._damaged > 0 or any(sound.lost or sound.damaged for sound in self.sounds)

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            self._mux_sound((packet.dts or 0) * packet.time_base)
            with self._without_damage():
                self._output.mux(packet)

    def _mux_sound(self, until: Fraction | float) -> None:
        for sound in self.sounds:
            for packet in sound.before(until):
                with self._without_damage():
                    self._output.mux(packet)

    @contextmanager
    def _without_damage(self) -> Iterator[None]:
        """Leaves damaged sound out. FFmpeg holds packets back, so that a picture may come upon the sound before it."""
        try:
            yield
        except DAMAGED:
            if not self.sounds:
                raise
            self._damaged += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *error: object) -> None:
        for sound in self.sounds:
            sound.close()
        self._output.close()
