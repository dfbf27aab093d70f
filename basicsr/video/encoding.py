"""Codec, depth and container of a clip's result, within the limits of the encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext

# Of x264 and x265: no difference from the input that an eye finds. A frame of 2560x1440 pixels takes x264 with preset
# veryfast and CRF 17 a quarter of the time of medium and 18, at the same size and 0.3 dB less of 47. With less
# search for motion and no choice of B-frames it takes 0.6 to 0.9 of that, at the same size and PSNR.
CRF = '18'
FAST = {'crf': '17', 'preset': 'veryfast', 'motion-est': 'dia', 'partitions': 'i8x8,i4x4', 'b_strategy': '0'}
LARGE = 2**24  # pixels of a frame, above which encoders keep few frames: x264 otherwise holds some 50
COPIED_SOUND = frozenset({'aac', 'mp3', 'ac3', 'eac3', 'alac'})  # what players expect in an mp4 or mov
ONLY_MP4 = frozenset({'flac', 'opus'})
QUIET = 'log-level=none'  # x265 writes to the screen by itself


@dataclass(frozen=True)
class Encoding:
    """Encoding of a result's frames.

    Attributes:
        codec: FFmpeg's name of the encoder.
        layout: FFmpeg's name of the layout of pixels.
        container: FFmpeg's name, and the extension.
        tag: how the container calls the codec, where FFmpeg's choice does not play everywhere.
        options: of the encoder.
        large_options: those for large frames.
        sounds: codecs of sound that are copied.
    """

    codec: str
    layout: str
    container: str = 'mp4'
    tag: str = ''
    options: dict[str, str] = field(default_factory=dict)
    large_options: dict[str, str] = field(default_factory=dict)
    sounds: frozenset[str] = COPIED_SOUND | ONLY_MP4

    @property
    def deep(self) -> bool:
        """True if it takes 16 bits a channel."""
        return self.layout.endswith('10le')

    def options_for(self, size: tuple[int, int], extra: str = '') -> dict[str, str]:
        """Return the encoder's options for frames of (width, height), with parameters of x265 as `extra`."""
        chosen = self.options | (self.large_options if size[0] * size[1] > LARGE else {})
        if extra and 'x265-params' in chosen:
            chosen['x265-params'] += ':' + extra
        return chosen


SMALL_BUFFER = {'tune': 'zerolatency', 'refs': '1'}
PLAIN = Encoding('libx264', 'yuv420p', options=FAST, large_options=SMALL_BUFFER)
DEEP = Encoding(
    'libx265',
    'yuv420p10le',
    tag='hvc1',
    options={'crf': CRF, 'x265-params': QUIET},
    large_options={'tune': 'zerolatency'},
)
CLEAR = Encoding(
    'prores_ks', 'yuva444p10le', 'mov', options={'profile': '4444', 'alpha_bits': '16'}, sounds=COPIED_SOUND
)


def choose_encoding(alpha: bool, deep: bool) -> Encoding:
    """Return the encoding for frames with transparency, of more than 8 bits, or neither."""
    return CLEAR if alpha else DEEP if deep else PLAIN


def even(size: tuple[int, int]) -> tuple[int, int]:
    """Return a size with even sides, at most a pixel larger."""
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def check_encoder(encoding: Encoding, size: tuple[int, int], path: Path) -> None:
    """Raise ValueError where the encoder takes no frames of (width, height)."""
    context = cast(VideoCodecContext, av.CodecContext.create(encoding.codec, 'w'))
    context.width, context.height = even(size)
    context.pix_fmt, context.time_base = encoding.layout, Fraction(1, 25)
    context.options = encoding.options_for(size)
    try:
        context.open()
    except FFmpegError as error:
        raise ValueError(
            f'{path}: the result would have {size[0]}x{size[1]} pixels, which {encoding.codec} does not encode '
            '(H.264 ends at 16384 a side); enlarge less (--upscale), or reduce the clip'
        ) from error


def hdr_parameters(frame: av.VideoFrame) -> str:
    """Return the mastering display of HDR in the first frame, as parameters of x265; '' for none.

    FFmpeg's structures (libavutil/mastering_display_metadata.h) are ten rationals, the primaries in the order red,
    green, blue, and two flags; and two integers, the light levels.
    """
    parameters = []
    found: Any = frame.side_data
    screen = found.get(Type.MASTERING_DISPLAY_METADATA)
    if screen is not None and len(bytes(screen)) >= 88:
        numbers = np.frombuffer(bytes(screen), np.int32)
        values = [0.0 if not numbers[2 * n + 1] else numbers[2 * n] / numbers[2 * n + 1] for n in range(10)]
        if all(math.isfinite(value) for value in values) and numbers[20] and numbers[21]:
            red, green, blue, white = (
                '({},{})'.format(*(round(value * 50000) for value in values[start : start + 2]))
                for start in (0, 2, 4, 6)
            )
            least, most = (round(value * 10000) for value in values[8:10])
            parameters.append(f'master-display=G{green}B{blue}R{red}WP{white}L({most},{least})')
    light = found.get(Type.CONTENT_LIGHT_LEVEL)
    if light is not None and len(bytes(light)) >= 8:
        most, mean = np.frombuffer(bytes(light), np.uint32)[:2]
        parameters.append(f'max-cll={most},{mean}')
    return ':'.join(parameters)
