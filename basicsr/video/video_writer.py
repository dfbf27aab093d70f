"""Writing clips with PyAV: frames as `Encoding` says, with the sound, the tags and the chapters of another clip."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TypeVar, cast

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.stream import Stream
from av.video.stream import VideoStream

from basicsr.video.animation import AnimationReader
from basicsr.video.encoding import Encoding, even
from basicsr.video.video_io import Stretch, VideoReader, VideoReadError

T = TypeVar('T', bound=Stream)
LEAST_TICKS = 90000  # a second of the result has at least this many ticks
LEAST_MP3_RATE = 16000  # Hz; slower mp3 has no place in an mp4
AAC_RATES = frozenset({96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000})
AAC_LAYOUTS = {1: 'mono', 2: 'stereo', 3: '3.0', 4: '4.0', 5: '5.0', 6: '5.1', 8: '7.1'}  # by the number of channels
AAC_FRAME = 1024  # samples
LOCATION = re.compile(r'^(location|gps|\xa9xyz)|\.location\b')
PLACE = 'com.apple.quicktime.location.ISO6709'  # which phones write, and an mp4 calls `location`
TECHNICAL = frozenset({'major_brand', 'minor_version', 'compatible_brands', 'encoder', 'duration'})
NO_SOUND = 'the result is without'
DAMAGED = (InvalidDataError, ArgumentError)  # what FFmpeg says of bad packets; of full disks it says other things


class Sound:
    """A sound track of a clip on its way into a result: copied, or encoded as AAC where players want it so.

    It is read from the clip again, a packet at a time, so that it waits for the picture without filling the memory.

    Args:
        clip: where it comes from.
        index: which of the clip's sound tracks.
        output: where it goes.
        copied: codecs that are copied.

    Attributes:
        note: what was done if it is not a copy.
        lost: it is not in the result.
        damaged: how many pieces could not be read; their time stays silent.
    """

    def __init__(self, clip: VideoReader, index: int, output: OutputContainer, copied: frozenset[str]) -> None:
        self.note, self.lost, self.damaged = '', False, 0
        self._clip, self._output, self._copied = clip, output, copied
        self._clock = Stretch()
        self._packets: Iterator[av.Packet] = iter(())
        self._next: av.Packet | None = None
        self._source = None
        try:
            self._source = clip.open()
            self._stream = self._source.streams.audio[index]
        except (VideoReadError, IndexError):  # somebody put another file in its place
            self._lose(index + 1, 'is gone: the clip has changed while it was read')
            return
        self._packets = self._choose(index + 1)
        self._next = next(self._packets, None)

    def _lose(self, number: int, why: str) -> None:
        self.note, self.lost = f'sound track {number} {why}; {NO_SOUND} it', True

    def _choose(self, number: int) -> Iterator[av.Packet]:
        """Return the source of the packets; the stream of the result is made here."""
        context = self._stream.codec_context
        codec = context.codec.canonical_name if context is not None else ''
        if codec in self._copied and not (codec == 'mp3' and context.sample_rate < LEAST_MP3_RATE):
            return self._copy(copy_tags(self._stream, self._output.add_stream_from_template(self._stream)))
        if not codec:
            self._lose(number, 'has a codec that is not known here')
            return iter(())
        kind = self._output.format.name
        self.note = f'sound track {number} was encoded again, from {codec} to aac, as players expect in an {kind}'
        rate = context.sample_rate if context.sample_rate in AAC_RATES else 48000
        channels = context.layout.nb_channels
        layout = AAC_LAYOUTS.get(channels, 'stereo')
        if channels not in AAC_LAYOUTS:
            self.note += f', and mixed from {channels} channels to stereo'
        return self._encode(copy_tags(self._stream, self._output.add_stream('aac', rate=rate, layout=layout)))

    def _read(self) -> Iterator[av.Packet]:
        try:
            yield from cast(InputContainer, self._source).demux(self._stream)
        except FFmpegError:
            self.damaged += 1

    def _copy(self, stream: av.AudioStream) -> Iterator[av.Packet]:
        for packet in self._read():
            if packet.dts is not None and packet.size:
                packet.stream = stream
                yield packet

    def _encode(self, stream: av.AudioStream) -> Iterator[av.Packet]:
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
        """Yield the next packets, those heard before `until`, in seconds."""
        while self._next is not None:
            packet, base = self._next, self._next.time_base
            time = self._clock((packet.dts or 0) * base - self._clip.start, Fraction(0))
            dts = round(time / base)
            if dts * base > until:
                return
            packet.pts = dts if packet.pts is None else packet.pts - (packet.dts or 0) + dts
            packet.dts = dts
            self._next = next(self._packets, None)
            yield packet

    def close(self) -> None:
        """Let go of the clip."""
        if self._source is not None:
            self._source.close()


def copy_tags(source: Stream, target: T) -> T:
    """`target`, now with the language, the title and the role of another stream."""
    for key in ('language', 'title'):
        if source.metadata.get(key):
            target.metadata[key] = source.metadata[key]
    if 'title' in target.metadata:
        target.metadata['handler_name'] = target.metadata['title']  # which players show
    target.disposition = source.disposition
    return target


def kept_tags(tags: dict[str, str], keep_gps: bool = True) -> dict[str, str]:
    """Of the tags of a clip those that say something of its content, with or without where it was taken."""
    kept = {key: value for key, value in tags.items() if key.lower() not in TECHNICAL}
    if not keep_gps:
        return {key: value for key, value in kept.items() if not LOCATION.search(key.lower())}
    if PLACE in kept:
        kept.setdefault('location', kept.pop(PLACE))
    return kept


class VideoWriter:
    """A file with the frames of a result; a context manager.

    Frames with odd sides, which most encodings cannot have, get their last row or column twice.

    Args:
        path: of the file, whatever its extension.
        clip: gives the sound, the tags, the colours and the pixel aspect; its first frame has been read.
        size: width and height of the frames.
        rate: frames a second, the mean where they vary.
        encoding: how they are encoded.
        keep_gps: the tags may say where the clip was taken.

    Attributes:
        sounds: the sound tracks.
    """

    def __init__(
        self,
        path: Path,
        clip: VideoReader | AnimationReader,
        size: tuple[int, int],
        rate: Fraction,
        encoding: Encoding,
        keep_gps: bool = False,
    ) -> None:
        self._colours, self._layout = clip.colours, encoding.layout
        self._odd = (size[1] % 2, size[0] % 2)
        self._tick = Fraction(1, rate.numerator * math.ceil(LEAST_TICKS / rate.numerator))
        self._output = av.open(str(path.absolute()), 'w', format=encoding.container)
        self._last, self._damaged = -1, 0
        self._output.metadata.update(kept_tags(clip.tags, keep_gps))
        options = encoding.options_for(size, clip.hdr if isinstance(clip, VideoReader) else '')
        self._stream = cast(VideoStream, self._output.add_stream(encoding.codec, rate=rate, options=options))
        context = self._stream.codec_context
        context.width, context.height = even(size)
        context.pix_fmt, context.time_base = encoding.layout, self._tick
        context.colorspace, context.color_primaries = self._colours.matrix, self._colours.primaries
        context.color_trc, context.color_range = self._colours.transfer, self._colours.range
        if encoding.tag:
            context.codec_tag = encoding.tag
        if clip.aspect:
            context.sample_aspect_ratio = clip.aspect
        self.sounds: list[Sound] = []
        if isinstance(clip, VideoReader):
            self.sounds = [Sound(clip, index, self._output, encoding.sounds) for index in range(clip.sounds)]
        self._output.set_chapters(clip.chapters)
        self._output.start_encoding()

    def write(self, image: np.ndarray, time: Fraction) -> None:
        """Show a frame, RGB or RGBA (H,W,C), from `time`, in seconds; times rise from call to call."""
        padded = np.pad(image, ((0, self._odd[0]), (0, self._odd[1]), (0, 0)), 'edge') if any(self._odd) else image
        frame = self._colours.from_rgb(padded, self._layout)
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
        """Notes on the sound, once all of it has been written."""
        damaged = self._damaged + sum(sound.damaged for sound in self.sounds)
        left_out = [f'{damaged} damaged piece(s) of the sound were left out'] if damaged else []
        return [sound.note for sound in self.sounds if sound.note] + left_out

    @property
    def sound_lost(self) -> bool:
        """True if sound, or a part of it, is not in the result, once all of it has been written."""
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
