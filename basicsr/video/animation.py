"""Pictures that move (GIF, WebP, PNG, AVIF), read as clips."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from basicsr.utils.image import ImageReadError
from basicsr.utils.picture import MAX_MEGAPIXELS, PILLOWS_LIMIT, open_picture, reading_picture
from basicsr.utils.picture_metadata import DECODER_ERRORS
from basicsr.video.video_io import BT709, MOST_RATE, SLOWEST_RATE, USUAL_RATE, Colours, TimedFrame, VideoReadError

if TYPE_CHECKING:  # a type of PyAV's stubs
    from av.container.core import Chapter

SRGB = 13  # transfer characteristics of H.273
SHORTEST, INSTEAD = 10, 100  # milliseconds: a frame that is to be shown no longer is shown so long, as browsers do


@dataclass
class AnimationReader:
    """The frames of a picture that moves, with the interface of `VideoReader`; shown once, and without sound.

    Args:
        path: the picture.
        max_megapixels: most pixels of a frame.

    Raises:
        VideoReadError: it cannot be read, or has too many pixels.
    """

    path: Path
    max_megapixels: float = MAX_MEGAPIXELS
    rate: Fraction = field(init=False)
    start: Fraction = field(init=False, default=Fraction(0))
    frames_read: int = field(init=False, default=0)
    colours: Colours = field(init=False, default=Colours(BT709, BT709, SRGB, False))
    aspect: Fraction = field(init=False, default=Fraction(0))
    complaints: list[str] = field(init=False, default_factory=list)
    notes: list[str] = field(init=False, default_factory=list)
    sounds: int = field(init=False, default=0)
    is_deep: bool = field(init=False, default=False)
    left_out: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        try:
            with reading_picture(self.path):
                self._file = open_picture(self.path, 1, self.max_megapixels)
                self.size: tuple[int, int] = self._file.size
                self.frame_count: int = getattr(self._file, 'n_frames', 1)
                self._file.seek(0)
                alpha = self._file.convert('RGBA').getchannel('A')
        except ImageReadError as error:
            raise VideoReadError(str(error)) from error
        self.has_alpha = alpha.getextrema() != (255, 255)
        stated = 1000 / _pause(self._file)
        self.rate = min(max(stated.limit_denominator(1001), SLOWEST_RATE), Fraction(MOST_RATE)) or USUAL_RATE

    def __enter__(self) -> AnimationReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def duration(self) -> Fraction:
        """In seconds, as if all frames were shown as long as the first."""
        return self.frame_count / self.rate

    @property
    def tags(self) -> dict[str, str]:
        """Its comment."""
        comment = self._file.info.get('comment', b'')
        text = comment.decode('utf-8', 'replace') if isinstance(comment, bytes) else str(comment)
        return {'comment': text} if text else {}

    @property
    def chapters(self) -> list[Chapter]:
        """None."""
        return []

    def frames(self) -> Generator[TimedFrame, None, None]:
        """Yield the frames and their times. An animation that breaks off ends there."""
        time, dropped = Fraction(0), False
        with PILLOWS_LIMIT.lifted():
            for index in range(self.frame_count):
                try:
                    self._file.seek(index)
                    both = np.asarray(self._file.convert('RGBA'))
                except DECODER_ERRORS as error:
                    self.complaints.append(f'it breaks off after {index} of {self.frame_count} frames ({error})')
                    break
                if both.shape[1::-1] != self.size:
                    self.complaints.append(f'frame {index} has another size, and was left out')
                    continue
                alpha = np.ascontiguousarray(both[..., 3]) if self.has_alpha else None
                dropped = dropped or (alpha is None and bool((both[..., 3] < 255).any()))
                self.frames_read += 1
                yield TimedFrame(np.ascontiguousarray(both[..., :3]), (time,), alpha)
                time += _pause(self._file) / 1000
        if dropped:
            self.complaints.append('transparency that begins after the first frame was left out')


def _pause(file: Image.Image) -> Fraction:
    """Return the duration of the present frame, in milliseconds."""
    stated = file.info.get('duration', 0)
    pause = Fraction(stated).limit_denominator(1000) if isinstance(stated, int | float) and stated == stated else 0
    return Fraction(pause if SHORTEST < pause < 1e7 else INSTEAD)
