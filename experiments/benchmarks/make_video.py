"""Make a clip for trials: a picture that stands still or moves, with noise that is new in each frame, and a beep.

    python scripts/make_video.py clip.mp4 --frames 100 --noise 6 --motion 20 --sound aac

The picture moves from side to side and back once in four seconds. The tone sounds in the first tenth of each second, in
which the picture has a white bar at its top, so that picture and sound can be compared. The same arguments give the
same pictures.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from basicsr.cli.arguments import ArgumentParser
from basicsr.utils.files import replacing
from basicsr.utils.image import imread

ROOT = Path(__file__).resolve().parents[2]
SOUND_RATE, TONE, BLOCK = 48000, 440, 960  # Hz, Hz, samples
BEEP = 0.1  # seconds
PERIOD = 4  # seconds
BAR = 16  # the bar is one of so many parts of the height
FORMATS = {'.m4v': 'mp4', '.mkv': 'matroska', '.mpg': 'mpeg', '.ts': 'mpegts'}


@dataclass(frozen=True)
class Scene:
    """Content of a clip: what is seen and heard.

    Attributes:
        picture: RGB uint8 (H,W,3).
        frames: how many.
        rate: frames a second.
        noise: standard deviation, of 255.
        motion: pixels to either side.
        bar: show when it beeps.
    """

    picture: np.ndarray
    frames: int = 50
    rate: Fraction = Fraction(25)
    noise: float = 0
    motion: float = 0
    bar: bool = False

    def images(self) -> Iterator[np.ndarray]:
        """RGB uint8 (H,W,3), one after the other."""
        rng = np.random.default_rng(0)
        for index in range(self.frames):
            seconds = float(index / self.rate)
            image = self.picture
            if self.motion:
                shift = self.motion * math.sin(2 * math.pi * seconds / PERIOD)
                matrix = np.array([[1.0, 0, shift], [0, 1.0, 0]])
                image = cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
            if self.noise:
                noisy = image + rng.normal(0, self.noise, image.shape).astype(np.float32)
                image = np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)
            if self.bar and seconds % 1 < BEEP:
                image = image.copy()
                image[: max(1, image.shape[0] // BAR)] = 255
            yield image

    def sound(self) -> Iterator[np.ndarray]:
        """Blocks of samples, int16 (1,N)."""
        samples = round(SOUND_RATE * self.frames / self.rate)
        for start in range(0, samples, BLOCK):
            seconds = np.arange(start, min(start + BLOCK, samples)) / SOUND_RATE
            tone = np.sin(2 * math.pi * TONE * seconds) * (seconds % 1 < BEEP)
            yield np.rint(tone * 16000).astype(np.int16)[None]


def encoder(name: str, kind: str) -> str:
    """`name`, if FFmpeg here has such an encoder of that kind ('video' or 'audio').

    Raises:
        ValueError: it has not.
    """
    try:
        found = av.Codec(name, 'w').type
    except ValueError as error:
        raise ValueError(f"'{name}': FFmpeg here has no such encoder") from error
    if found != kind:
        raise ValueError(f"'{name}' is an encoder of {found}, not of {kind}")
    return name


def write_clip(
    path: Path, scene: Scene, codec: str = 'libx264', sound: str | None = None, rotation: int = 0, crf: int = 12
) -> None:
    """Write a scene; the container follows from the extension.

    Args:
        path: of the clip.
        scene: its content.
        codec: FFmpeg's name of a video encoder.
        sound: FFmpeg's name of an audio encoder; no sound without one.
        rotation: by which players are told to turn the picture, counterclockwise, in degrees.
        crf: quality, for encoders that have it.

    Raises:
        ValueError: the container or a codec is unknown, or a codec not of its kind.
    """
    codec = encoder(codec, 'video')
    suffix = path.suffix.lower()
    container = FORMATS.get(suffix, suffix[1:])
    with replacing(path) as partial, av.open(str(partial.absolute()), 'w', format=container) as output:
        options = {'crf': str(crf)} if 'x26' in codec else {}
        video = cast(VideoStream, output.add_stream(codec, rate=scene.rate, options=options))
        video.height, video.width = scene.picture.shape[:2]
        video.pix_fmt = 'yuv420p'
        if rotation:
            video.set_display_rotation(rotation)
        heard = Beeps(output, sound, scene.sound()) if sound else None
        for index, image in enumerate(scene.images()):
            if heard:
                heard.write(float(index / scene.rate))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image))
            frame.pts, frame.time_base = index, 1 / scene.rate
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if heard:
            heard.write(math.inf)
            heard.finish()


class Beeps:
    """The sound of a clip, encoded as it is needed.

    Args:
        output: the clip.
        codec: FFmpeg's name of an audio encoder.
        blocks: samples, int16 (1,N).

    Raises:
        ValueError: the codec is unknown, or none of sound.
    """

    def __init__(self, output: OutputContainer, codec: str, blocks: Iterator[np.ndarray]) -> None:
        self._output, self._blocks = output, blocks
        self._stream = cast(AudioStream, output.add_stream(encoder(codec, 'audio'), rate=SOUND_RATE, layout='mono'))
        self._fifo = av.AudioFifo()
        self._samples = 0

    def write(self, until: float) -> None:
        """Write what is heard before `until`, in seconds, or all there is."""
        while self._samples < until * SOUND_RATE and (block := next(self._blocks, None)) is not None:
            frame = av.AudioFrame.from_ndarray(block, 's16', 'mono')
            frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, self._samples, Fraction(1, SOUND_RATE)
            self._samples += block.shape[1]
            self._fifo.write(frame)
            for piece in self._fifo.read_many(self._stream.codec_context.frame_size or BLOCK):
                self._output.mux(self._stream.encode(piece))

    def finish(self) -> None:
        """Write what is still held back."""
        rest = self._fifo.read(0, partial=True)
        self._output.mux([*(self._stream.encode(rest) if rest else []), *self._stream.encode(None)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Make a clip for trials.')
    parser.add_argument('output', type=Path, help='the clip: .mp4, .mov, .avi, .mkv or .webm')
    parser.add_argument('--picture', type=Path, default=ROOT / 'inputs' / 'astronaut_lowres.png')
    parser.add_argument('--size', type=int, help="width in pixels (default: the picture's)")
    parser.add_argument('--frames', type=int, default=50)
    parser.add_argument('--fps', type=Fraction, default=Fraction(25), help='such as 25, 29.97 or 30000/1001')
    parser.add_argument('--noise', type=float, default=0, help='standard deviation, of 255')
    parser.add_argument('--motion', type=float, default=0, help='pixels to either side')
    parser.add_argument('--codec', default='libx264', help="FFmpeg's name of a video encoder")
    parser.add_argument('--sound', help="FFmpeg's name of an audio encoder: aac, libmp3lame, libopus, pcm_s16le ...")
    parser.add_argument('--rotation', type=int, default=0, choices=[0, 90, 180, 270])
    args = parser.parse_args(argv)
    try:
        picture = imread(args.picture)
        width = (args.size or picture.shape[1]) // 2 * 2
        height = round(picture.shape[0] * width / picture.shape[1]) // 2 * 2
        if min(width, height, args.frames, args.fps) <= 0:
            raise ValueError('--frames and --fps must be above 0, and --size such that both sides have 2 pixels')
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        scene = Scene(picture, args.frames, args.fps, args.noise, args.motion, bar=args.sound is not None)
        write_clip(args.output, scene, args.codec, args.sound, args.rotation)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0
