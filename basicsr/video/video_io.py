"""Reading clips with PyAV: upright frames in RGB, one after the other, with times, colours, depth and transparency."""

from __future__ import annotations

import functools
import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from basicsr.utils.files import check_file
from basicsr.utils.image import to_8_bits
from basicsr.utils.picture import MAX_MEGAPIXELS
from basicsr.video.deinterlace import Deinterlacer
from basicsr.video.encoding import hdr_parameters

if TYPE_CHECKING:  # a type of PyAV's stubs
    from av.container.core import Chapter

from basicsr.utils.errors import IDCodeFormerError

HALF = Fraction(1, 2)
USUAL_RATE = Fraction(25)  # of clips that do not say theirs
FINEST_RATE = 1001  # largest denominator of a rate: 29.97002997 is 30000/1001
MOST_RATE = 1000  # frames a second; what claims more states a time base, not a rate
HD_HEIGHT = 720  # clips that do not state their colours are BT.709 from here on and BT.601 below, as players take them
UNSPECIFIED, RGB, BT709, BT601 = 2, 0, 1, 6  # of ITU-T H.273
PQ, HLG = 16, 18  # transfer characteristics of H.273
MATRICES = {BT709: 1, 4: 4, 5: 5, BT601: 5, 7: 7, 9: 9, 10: 9}  # to swscale's numbers (SWS_CS_*)
SLOWEST_RATE = Fraction(1, FINEST_RATE)  # what is slower has this one, which is only a hint to the encoder
LONGEST_PAUSE = 6 * 3600  # seconds between frames; more is a jump of the clock, and more than an mp4 can hold
MOST_REPEATS = 10000  # of a frame at an even rate; then it is held, as it would take hours to write
ALPHA_DECODERS = {'vp8': 'libvpx', 'vp9': 'libvpx-vp9'}  # FFmpeg's own ones overlook the alpha of WebM
# What opens other files or devices, whatever a clip is called.
REFERRING = frozenset(
    {'alsa', 'concat', 'dash', 'fbdev', 'hls', 'image2', 'image2pipe', 'imf', 'kmsgrab', 'lavfi', 'oss', 'rtp', 'rtsp'}
    | {'sap', 'sdp', 'smoothstreaming', 'video4linux2,v4l2', 'webm_dash_manifest', 'x11grab'}
)
EXACT = 0x4 | 0x40000 | 0x2000  # of swscale: bicubic, accurate rounding, chroma in full


class VideoReadError(IDCodeFormerError, ValueError):
    """A file that is no readable clip; the message names it and says why."""


@dataclass(frozen=True)
class Colours:
    """Colour encoding of a clip, in the codes of ITU-T H.273.

    Attributes:
        matrix: of luma and colour differences.
        primaries: of the colour space.
        transfer: the tone curve.
        full_range: 0 to 255 instead of 16 to 235.
    """

    matrix: int
    primaries: int
    transfer: int
    full_range: bool

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Colours:
        """Read the colours of a frame; missing ones are taken as players take them."""
        guess = BT709 if frame.height >= HD_HEIGHT or frame.format.is_rgb else BT601
        matrix = frame.colorspace if frame.colorspace in MATRICES else guess
        full = frame.color_range == ColorRange.JPEG and not frame.format.is_rgb
        return cls(matrix, frame.color_primaries, frame.color_trc, full)

    @property
    def is_hdr(self) -> bool:
        """True if the tone curve is one of HDR: PQ or HLG."""
        return self.transfer in (PQ, HLG)

    @property
    def range(self) -> ColorRange:
        """As PyAV has it."""
        return ColorRange.JPEG if self.full_range else ColorRange.MPEG

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB (H,W,3), or (H,W,4) with alpha, as the frame is stored: uint8, or uint16 where it has more bits."""
        layout = ('rgba64le' if is_deep(frame.format) else 'rgba') if has_alpha(frame.format) else ''
        layout = layout or ('rgb48le' if is_deep(frame.format) else 'rgb24')
        if frame.format.is_rgb:
            return frame.to_ndarray(format=layout)
        return frame.to_ndarray(
            format=layout,
            src_colorspace=MATRICES[self.matrix],
            src_color_range=self.range,
            dst_color_range=ColorRange.JPEG,
            interpolation=EXACT,
        )

    def from_rgb(self, image: np.ndarray, layout: str = 'yuv420p') -> av.VideoFrame:
        """RGB or RGBA, uint8 or uint16 (H,W,C) with even sides, in a layout of FFmpeg."""
        given = ('rgb' if image.shape[2] == 3 else 'rgba', 8 * image.shape[2] if image.dtype == np.uint8 else None)
        name = {('rgb', 24): 'rgb24', ('rgba', 32): 'rgba', ('rgb', None): 'rgb48le', ('rgba', None): 'rgba64le'}[given]
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=name).reformat(
            format=layout,
            dst_colorspace=MATRICES[self.matrix],
            src_color_range=ColorRange.JPEG,
            dst_color_range=self.range,
            interpolation=EXACT,
        )


def has_alpha(layout: av.VideoFormat) -> bool:
    """Return True if a pixel format has transparency."""
    return any(component.is_alpha for component in layout.components)


def is_deep(layout: av.VideoFormat) -> bool:
    """Return True if a pixel format has more than 8 bits a channel."""
    return any(component.bits > 8 for component in layout.components)


@dataclass(frozen=True, eq=False)
class TimedFrame:
    """A frame and when it is shown.

    Attributes:
        image: RGB (H,W,3), upright; uint8, or uint16 of a clip with more bits.
        times: in seconds from the start of the clip, rising; one, or as often as the frame is repeated.
        alpha: (H,W) of the same type, or None without transparency.
        still: it shows the same as the frame before, to the last bit, as far as that was looked at.
    """

    image: np.ndarray
    times: tuple[Fraction, ...]
    alpha: np.ndarray | None = None
    still: bool = False

    @property
    def seen(self) -> np.ndarray:
        """The image in 8 bits, in which faces are found and restored."""
        return to_8_bits(self.image)


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return the orientation of a frame for display: whether to swap x and y, then to mirror x, and y.

    The display matrix holds a, b, u, c, d, v, x, y, w as 32-bit integers, and (p, q) is shown at (ap + cq, bp + dq).
    """
    matrix = frame.side_data.get('DISPLAYMATRIX')
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.int64)
    swap = bool(abs(b) > abs(a))
    return (True, bool(c < 0), bool(b < 0)) if swap else (False, bool(a < 0), bool(d < 0))


def turn(image: np.ndarray, swap: bool, mirror_x: bool, mirror_y: bool) -> np.ndarray:
    """(H,W,C) as `orientation` says."""
    image = image.transpose(1, 0, 2) if swap else image
    image = image[:, ::-1] if mirror_x else image
    return np.ascontiguousarray(image[::-1] if mirror_y else image)


def resample(frames: Iterable[TimedFrame], rate: Fraction) -> Generator[TimedFrame, None, None]:
    """Frames shown at multiples of 1 / `rate`: those that come too fast are left out, others are repeated.

    Each frame begins at the multiple nearest to its time, and the last one is held as long as the one before, so that
    the duration, and the sound with it, stays. Of a clip too short for any multiple the first frame is shown. A frame
    is repeated at most `MOST_REPEATS` times, and then held until the next.
    """
    first: TimedFrame | None = None
    previous: TimedFrame | None = None
    pause = 1 / rate

    def slot(time: Fraction) -> int:
        return math.floor(time * rate + HALF)

    def held(frame: TimedFrame, until: Fraction) -> Iterator[TimedFrame]:
        first = slot(frame.times[0])
        times = tuple(index / rate for index in range(first, min(slot(until), first + MOST_REPEATS)))
        if times:
            yield replace(frame, times=times)

    for frame in frames:
        if previous is not None:
            yield from held(previous, frame.times[0])
            pause = frame.times[0] - previous.times[0]
        first, previous = first or frame, frame
    if first is not None and previous is not None:
        end = previous.times[0] + pause
        yield from held(previous, end)
        if slot(end) == slot(first.times[0]):
            yield replace(first, times=(Fraction(0),))


class Stretch:
    """The clock of a stream without jumps of more than `LONGEST_PAUSE` seconds.

    Attributes:
        closed: seconds that were taken out.
    """

    def __init__(self) -> None:
        self.closed = Fraction(0)
        self._last: Fraction | None = None

    def __call__(self, time: Fraction, pause: Fraction) -> Fraction:
        """`time` without the jumps so far; after a jump the stream goes on after `pause` seconds."""
        even = time - self.closed
        if self._last is not None and even - self._last > LONGEST_PAUSE:
            self.closed += even - self._last - pause
            even = self._last + pause
        self._last = even
        return even


@dataclass
class VideoReader:
    """The frames of a clip, upright, one after the other; a context manager.

    Frames that are damaged are left out. A clip that breaks off ends there. Both are said in `complaints`. Interlaced
    frames are deinterlaced, which is said in `notes`.

    Args:
        path: the clip.
        max_megapixels: most pixels of a frame.

    Attributes:
        rate: frames a second, the mean where they vary.
        start: what the clip calls its start, in seconds; the times of frames begin there.
        frames_read: so far.
        colours: of the first frame, once it has been read.
        aspect: width over height of a pixel as shown, or 0 where the clip does not say, once a frame has been read.
        hdr: what the first frame says of the screen it was graded on, see `hdr_parameters`, likewise.
        complaints: what was wrong with the clip, complete once all frames have been read.
        notes: what was done to it, likewise.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: no readable clip, none with a picture, or one of too many pixels.
    """

    path: Path
    max_megapixels: float = MAX_MEGAPIXELS
    rate: Fraction = field(init=False)
    start: Fraction = field(init=False)
    frames_read: int = field(init=False, default=0)
    colours: Colours = field(init=False)
    aspect: Fraction = field(init=False, default=Fraction(0))
    hdr: str = field(init=False, default='')
    complaints: list[str] = field(init=False, default_factory=list)
    notes: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if not self.path.exists() and not self.path.is_symlink():
            raise FileNotFoundError(f'{self.path}: no such file')
        check_file(self.path, VideoReadError, 'clip')
        self._container = self.open()
        with ExitStack() as unless_chosen:
            unless_chosen.callback(self._container.close)
            self._stream = self._choose_stream()
            self._decoder = self._choose_decoder()
            unless_chosen.pop_all()
        self.rate = _stated_rate(self._stream)
        self.start = Fraction(self._container.start_time or 0, av.time_base)

    def open(self) -> InputContainer:
        """Open the file once more.

        Raises:
            VideoReadError: it is no clip.
        """
        limits = {'max_pixels': str(self._most_pixels), 'protocol_whitelist': 'file', 'format_whitelist': _formats()}
        try:  # FFmpeg takes 12:30.mp4 for a protocol
            return av.open(str(self.path.absolute()), options=limits, metadata_errors='replace')
        except (FFmpegError, ValueError) as error:
            reason = getattr(error, 'strerror', None) or error
            raise VideoReadError(
                f'{self.path}: not a readable clip ({reason}); damaged, cut off, or no clip at all'
            ) from error

    @property
    def _most_pixels(self) -> int:
        return math.ceil(min(self.max_megapixels * 1e6, 2**31 - 1))

    def _choose_stream(self) -> VideoStream:
        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or streams[0].codec_context is None:
            reason = 'its codec is not known here' if streams else 'there is no picture in it, only sound or nothing'
            raise VideoReadError(f'{self.path}: no readable clip; {reason}')
        return streams[0]

    def _choose_decoder(self) -> VideoCodecContext:
        """Return the stream's own, or one that reads its alpha too."""
        context = self._stream.codec_context
        other = ALPHA_DECODERS.get(context.codec.canonical_name)
        if other and self._stream.metadata.get('alpha_mode') == '1' and other in av.codecs_available:
            alpha = cast(VideoCodecContext, av.CodecContext.create(other, 'r'))
            alpha.extradata = context.extradata
            context = alpha
        context.options = {**context.options, 'max_pixels': str(self._most_pixels)}
        context.thread_type = 'SLICE'  # threads over frames would lose the frames around a damaged piece
        return context

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames as stored, as the header states them."""
        context = self._stream.codec_context
        return context.width, context.height

    @property
    def has_alpha(self) -> bool:
        """True if frames have transparency."""
        layout = self._stream.codec_context.format
        return self._decoder is not self._stream.codec_context or (layout is not None and has_alpha(layout))

    @property
    def is_deep(self) -> bool:
        """True if frames have more than 8 bits a channel."""
        layout = self._stream.codec_context.format
        return layout is not None and is_deep(layout)

    @property
    def sounds(self) -> int:
        """Number of sound tracks."""
        return len(self._container.streams.audio)

    @property
    def tags(self) -> dict[str, str]:
        """Title, date, place and the like."""
        return dict(self._container.metadata)

    @property
    def chapters(self) -> list[Chapter]:
        """Chapters of the clip."""
        return self._container.chapters()

    @property
    def left_out(self) -> list[str]:
        """Tracks that no result has: those of subtitles, and of pictures but the first."""
        subtitles = len(self._container.streams.subtitles)
        pictures = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        said = [f'{subtitles} subtitle track(s)'] if subtitles else []
        return said + ([f'{len(pictures) - 1} further picture track(s)'] if len(pictures) > 1 else [])

    @property
    def duration(self) -> Fraction:
        """In seconds, as the clip states it; 0 where it does not."""
        stated = Fraction(self._container.duration or 0, av.time_base)
        if self._container.format.name == 'avi':  # FFmpeg shortens it to what is there; the header's count it leaves
            return max(stated, self._stream.frames * (self._stream.time_base or Fraction(0)))
        return stated

    def decode(self) -> Iterator[av.VideoFrame]:
        """Yield the frames as stored, in the order in which they are shown."""
        damaged, reached = 0, Fraction(0)
        try:
            for packet in self._container.demux(self._stream, *self._container.streams.audio):
                if packet.pts is not None and packet.time_base is not None:
                    reached = max(reached, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream is not self._stream:
                    continue
                try:
                    for frame in self._decoder.decode(packet):
                        frame.time_base = frame.time_base or self._stream.time_base
                        yield frame
                except (FFmpegError, ValueError):
                    damaged += 1
        except FFmpegError as error:
            self.complaints.append(f'reading ended early ({error.strerror})')
        if damaged:
            self.complaints.append(f'{damaged} damaged piece(s) of the picture were left out')
        lasted = reached - self.start
        if lasted < self.duration - 3 / self.rate:
            self.complaints.append(f'it breaks off after {float(lasted):.2f} s of {float(self.duration):.2f} s')

    def frames(self) -> Generator[TimedFrame, None, None]:
        """Yield the frames, all in the size of the first.

        A time within a tick of a multiple of 1 / `rate` is put on it, so that clips in containers that round times keep
        an even rate. Frames without a time follow the frame before.
        """
        size: tuple[int, int] | None = None
        last: Fraction | None = None
        clock, deinterlacer = Stretch(), Deinterlacer()
        for frame in deinterlacer.follow(self.decode()):
            colours, (swap, *mirrors) = Colours.of(frame), orientation(frame)
            image = turn(colours.to_rgb(frame), swap, *mirrors)
            if size is None:
                stored = self._stream.sample_aspect_ratio or Fraction(0)
                size, self.colours, self.aspect = image.shape[1::-1], colours, 1 / stored if swap and stored else stored
                self.hdr = hdr_parameters(frame)
            if image.shape[1::-1] != size:
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            follows = Fraction(0) if last is None else last + 1 / self.rate
            time = next((time for time in self._times(frame, clock) if last is None or time > last), follows)
            last = time
            self.frames_read += 1
            alpha = np.ascontiguousarray(image[..., 3]) if image.shape[2] == 4 else None
            yield TimedFrame(np.ascontiguousarray(image[..., :3]), (time,), alpha)
        if deinterlacer.frames:
            self.notes.append('interlaced; deinterlaced (bwdif)')
        if clock.closed:
            self.complaints.append(f'a jump of {float(clock.closed):.0f} s in its times was taken out')

    def _times(self, frame: av.VideoFrame, clock: Stretch) -> list[Fraction]:
        """Return the times of a frame, the evened one first."""
        if frame.pts is None or not frame.time_base:
            return []
        time = clock(frame.pts * frame.time_base - self.start, 1 / self.rate)
        even = round(time * self.rate) / self.rate
        return [max(each, Fraction(0)) for each in (even, time) if abs(each - time) <= frame.time_base]


def _stated_rate(stream: VideoStream) -> Fraction:
    """Frames a second, as a stream states them; the usual where it states nothing, or nonsense."""
    try:
        stated = stream.average_rate or stream.guessed_rate
    except ZeroDivisionError:  # of a rate of 0/0
        stated = None
    if not stated or not 0 < stated <= MOST_RATE:
        return USUAL_RATE
    return max(stated.limit_denominator(FINEST_RATE), SLOWEST_RATE)


@functools.cache
def _formats() -> str:
    """FFmpeg's containers but those that open other files, as it takes them."""
    return ','.join(sorted(av.formats_available - REFERRING))
