"""Reading clips with PyAV: upright RGB frames, one after the other, with their times and colours."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import ColorRange

HALF = Fraction(1, 2)
USUAL_RATE = Fraction(25)  # of clips that do not say theirs
FINEST_RATE = 1001  # largest denominator of a rate: 29.97002997 is 30000/1001
MOST_RATE = 1000  # frames a second; what claims more states a time base, not a rate
HD_HEIGHT = 720  # clips that do not state their colours are BT.709 from here on and BT.601 below, as players take them
UNSPECIFIED, RGB, BT709, BT601 = 2, 0, 1, 6  # of ITU-T H.273
MATRICES = {BT709: 1, 4: 4, 5: 5, BT601: 5, 7: 7, 9: 9, 10: 9}  # to swscale's numbers (SWS_CS_*)
EXACT = 0x4 | 0x40000 | 0x2000  # of swscale: bicubic, accurate rounding, chroma in full


class VideoReadError(ValueError):
    """A file that is no readable clip; the message names it and says why."""


@dataclass(frozen=True)
class Colours:
    """How the numbers of a clip stand for colours, in the codes of ITU-T H.273.

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
        """Those of a frame; what it does not say is taken as players take it."""
        guess = BT709 if frame.height >= HD_HEIGHT or frame.format.is_rgb else BT601
        matrix = frame.colorspace if frame.colorspace in MATRICES else guess
        full = frame.color_range == ColorRange.JPEG and not frame.format.is_rgb
        return cls(matrix, frame.color_primaries, frame.color_trc, full)

    @property
    def range(self) -> ColorRange:
        """As PyAV has it."""
        return ColorRange.JPEG if self.full_range else ColorRange.MPEG

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB uint8 (H,W,3), as the frame is stored."""
        if frame.format.is_rgb:
            return frame.to_ndarray(format='rgb24')
        return frame.to_ndarray(
            format='rgb24',
            src_colorspace=MATRICES[self.matrix],
            src_color_range=self.range,
            dst_color_range=ColorRange.JPEG,
            interpolation=EXACT,
        )

    def from_rgb(self, image: np.ndarray) -> av.VideoFrame:
        """RGB uint8 (H,W,3) with even sides, as yuv420p."""
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(image)).reformat(
            format='yuv420p',
            dst_colorspace=MATRICES[self.matrix],
            src_color_range=ColorRange.JPEG,
            dst_color_range=self.range,
            interpolation=EXACT,
        )


@dataclass(frozen=True, eq=False)
class TimedFrame:
    """A frame and when it is shown.

    Attributes:
        image: RGB uint8 (H,W,3), upright.
        times: in seconds from the start of the clip, rising; one, or as often as the frame is repeated.
    """

    image: np.ndarray
    times: tuple[Fraction, ...]


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a frame is to be turned for display: whether to swap x and y, then to mirror x, and y.

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
    the duration, and the sound with it, stays. Of a clip too short for any multiple the first frame is shown.
    """
    first: TimedFrame | None = None
    previous: TimedFrame | None = None
    pause = 1 / rate

    def slot(time: Fraction) -> int:
        return math.floor(time * rate + HALF)

    def held(frame: TimedFrame, until: Fraction) -> Iterator[TimedFrame]:
        times = tuple(index / rate for index in range(slot(frame.times[0]), slot(until)))
        if times:
            yield TimedFrame(frame.image, times)

    for frame in frames:
        if previous is not None:
            yield from held(previous, frame.times[0])
            pause = frame.times[0] - previous.times[0]
        first, previous = first or frame, frame
    if first is not None and previous is not None:
        end = previous.times[0] + pause
        yield from held(previous, end)
        if slot(end) == slot(first.times[0]):
            yield TimedFrame(first.image, (Fraction(0),))


@dataclass
class VideoReader:
    """The frames of a clip, upright, one after the other; a context manager.

    Frames that are damaged are left out. A clip that breaks off ends there. Both are said in `complaints`.

    Args:
        path: the clip.

    Attributes:
        rate: frames a second, the mean where they vary.
        start: what the clip calls its start, in seconds; the times of frames begin there.
        frames_read: so far.
        colours: of the first frame, once it has been read.
        aspect: width over height of a pixel as shown, or 0 where the clip does not say, once a frame has been read.
        complaints: what was wrong with the clip, complete once all frames have been read.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: no readable clip, or none with a picture.
    """

    path: Path
    rate: Fraction = field(init=False)
    start: Fraction = field(init=False)
    frames_read: int = field(init=False, default=0)
    colours: Colours = field(init=False)
    aspect: Fraction = field(init=False, default=Fraction(0))
    complaints: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise FileNotFoundError(f'{self.path}: no such file')
        if self.path.is_file() and self.path.stat().st_size == 0:
            raise VideoReadError(f'{self.path}: the file is empty')
        self._container = _open(self.path)
        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or streams[0].codec_context is None:
            self._container.close()
            reason = 'its codec is not known here' if streams else 'there is no picture in it, only sound or nothing'
            raise VideoReadError(f'{self.path}: no readable clip; {reason}')
        self._stream = streams[0]
        self._stream.thread_type = 'SLICE'  # threads over frames would lose the frames around a damaged piece
        stated = self._stream.average_rate or self._stream.guessed_rate
        self.rate = (stated if stated and 0 < stated <= MOST_RATE else USUAL_RATE).limit_denominator(FINEST_RATE)
        self.start = Fraction(self._container.start_time or 0, av.time_base)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    @property
    def sounds(self) -> int:
        """How many sound tracks there are."""
        return len(self._container.streams.audio)

    @property
    def duration(self) -> Fraction:
        """In seconds, as the clip states it; 0 where it does not."""
        stated = Fraction(self._container.duration or 0, av.time_base)
        if self._container.format.name == 'avi':  # FFmpeg shortens it to what is there; the header's count it leaves
            return max(stated, self._stream.frames * (self._stream.time_base or Fraction(0)))
        return stated

    def decode(self) -> Iterator[av.VideoFrame]:
        """The frames as stored, in the order in which they are shown."""
        damaged, reached = 0, Fraction(0)
        try:
            for packet in self._container.demux(self._stream, *self._container.streams.audio):
                if packet.pts is not None:
                    reached = max(reached, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream is not self._stream:
                    continue
                try:
                    yield from self._stream.decode(packet)
                except FFmpegError:
                    damaged += 1
        except FFmpegError as error:
            self.complaints.append(f'reading ended early ({error.strerror})')
        if damaged:
            self.complaints.append(f'{damaged} damaged piece(s) of the picture were left out')
        lasted = reached - self.start
        if lasted < self.duration - 3 / self.rate:
            self.complaints.append(f'it breaks off after {float(lasted):.2f} s of {float(self.duration):.2f} s')

    def frames(self) -> Generator[TimedFrame, None, None]:
        """The frames, all in the size of the first.

        A time within a tick of a multiple of 1 / `rate` is put on it, so that clips in containers that round times keep
        an even rate. Frames without a time follow the frame before.
        """
        size: tuple[int, int] | None = None
        last: Fraction | None = None
        for frame in self.decode():
            colours, (swap, *mirrors) = Colours.of(frame), orientation(frame)
            image = turn(colours.to_rgb(frame), swap, *mirrors)
            if size is None:
                stored = self._stream.sample_aspect_ratio or Fraction(0)
                size, self.colours, self.aspect = image.shape[1::-1], colours, 1 / stored if swap and stored else stored
            if image.shape[1::-1] != size:
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            follows = Fraction(0) if last is None else last + 1 / self.rate
            time = next((time for time in self._times(frame) if last is None or time > last), follows)
            last = time
            self.frames_read += 1
            yield TimedFrame(image, (time,))

    def _times(self, frame: av.VideoFrame) -> list[Fraction]:
        """When a frame is due, the evened time first."""
        if frame.pts is None or frame.time_base is None:
            return []
        time = frame.pts * frame.time_base - self.start
        even = round(time * self.rate) / self.rate
        return [max(each, Fraction(0)) for each in (even, time) if abs(each - time) <= frame.time_base]


def _open(path: Path) -> InputContainer:
    try:
        return av.open(str(path.absolute()))  # FFmpeg takes 12:30.mp4 for a protocol
    except (FFmpegError, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise VideoReadError(f'{path}: not a readable clip ({reason}); damaged, cut off, or no clip at all') from error
