"""Whole clips: frames stream from stage to stage, so that the memory they take does not depend on their number."""

from __future__ import annotations

import functools
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from av.error import FFmpegError
from tqdm import tqdm

from basicsr.faces.face import Face
from basicsr.faces.geometry import ffhq_template
from basicsr.inference.identity_meter import FaceIdentity
from basicsr.inference.image_restorer import ALREADY_SHARP, NO_FACE, RESTORED, FaceResult, ImageRestorer, is_grey
from basicsr.utils.files import replacing
from basicsr.video.pipeline import ahead, behind
from basicsr.video.track_identity import TrackIdentities
from basicsr.video.tracking import CutFinder, Tracked, Tracker
from basicsr.video.video_io import FINEST_RATE, MOST_RATE, TimedFrame, VideoReader, VideoReadError, resample
from basicsr.video.video_writer import VideoWriter

INCOMPLETE = 'incomplete'
DECODED = 4  # frames waiting to be looked at


@dataclass(frozen=True)
class VideoResult:
    """What became of a clip.

    Attributes:
        status: `restored`, `already_sharp` or `no_face`; `incomplete` if a part of the picture or sound is missing.
        frames: how many were read.
        faces: how many tracks there were: faces followed from where they appear to where they are lost.
        restored: in how many of them the face was restored.
        message: what else there is to say.
        output: the file written.
        seconds: from start to end.
        network_seconds: how much of it the restoration network was at work.
        identity: what became of the likeness of each track, where it was measured.
    """

    status: str
    frames: int
    faces: int
    restored: int
    message: str
    output: Path
    seconds: float
    network_seconds: float
    identity: list[FaceIdentity] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Frame:
    """A frame on its way, with its faces."""

    shown: TimedFrame
    faces: list[FaceResult]
    tracks: list[int]

    @property
    def by_track(self) -> dict[int, FaceResult]:
        """The faces by the number of their track."""
        return dict(zip(self.tracks, self.faces, strict=True))


@dataclass
class _Tally:
    """What is counted on the way."""

    faces: set[int] = field(default_factory=set)
    restored: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    sound_lost: bool = False
    network_seconds: float = 0
    people: TrackIdentities | None = None


@dataclass(frozen=True)
class VideoRestorer:
    """Restores clips with the parts of an `ImageRestorer`.

    Decoding, detection and encoding run in threads beside the network. At most `DECODED` + `LOOKAHEAD` + 4 x the batch
    size frames are in memory at a time. The faces of several frames make a batch.

    Args:
        images: for the frames.
        aligned: every frame is an aligned face itself, and so is every frame of the result.
        progress: show a bar on a terminal.
    """

    images: ImageRestorer
    aligned: bool = False
    progress: bool = False

    def restore_file(self, source: Path, target: Path, fps: Fraction | None = None) -> VideoResult:
        """Restore a clip, with its sound, its frame rate and its orientation, which is put into the pixels.

        The first picture track and every sound track are kept; subtitles, chapters and other tracks are not.

        Args:
            source: the clip.
            target: an mp4 file; it is there when everything is in it, and not before.
            fps: frames a second of the result, rounded to a fraction with a denominator up to 1001; frames are left out
                or repeated, and the duration stays. By default each frame keeps its time.

        Raises:
            FileNotFoundError: `source` is not there.
            VideoReadError: not one frame of it can be read.
            ValueError: `fps` is out of range, or a frame is not square though it is to be an aligned face; or w
                is to be chosen, which would differ from frame to frame.
            OSError: the result cannot be written.
            RuntimeError: the network failed.
        """
        if fps is not None and not 0 < fps.limit_denominator(FINEST_RATE) <= MOST_RATE:
            raise ValueError(f'{fps} frames a second: must be from 1/1001 to {MOST_RATE}')
        if self.images.choose_w:
            raise ValueError(f'{source}: -w auto is for pictures, in a clip faces would flicker; give a number')
        begin, tally, size = time.perf_counter(), _Tally(), self.images.restorer.batch_size
        if self.images.guide is not None:
            tally.people = TrackIdentities(self.images.guide)
        with VideoReader(source) as clip, replacing(target) as partial:
            rate = (fps or clip.rate).limit_denominator(FINEST_RATE)  # other clocks are too fine for FFmpeg
            shown = clip.frames() if fps is None else resample(clip.frames(), rate)
            write = functools.partial(self._write, partial, clip, rate, tally)
            bar = tqdm(
                desc=source.name,
                total=round(clip.duration * rate) or None,
                unit='frame',
                disable=None if self.progress else True,
            )
            with bar, closing(ahead(self._look(ahead(shown, DECODED)), size)) as looked, behind(write, 2 * size) as put:
                for frame in self._restore(looked, tally):
                    put(frame)
                    bar.update()
            if not clip.frames_read:
                raise VideoReadError(
                    f'{source}: no frame of it can be read; {"; ".join(clip.complaints) or "it is empty"}'
                )
        return self._result(clip, tally, target, time.perf_counter() - begin)

    def _look(self, frames: Generator[TimedFrame, None, None]) -> Generator[_Frame, None, None]:
        """Frames with their faces: found, tracked, steadied and cut out, not yet restored."""
        cuts = CutFinder()
        tracker: Tracker[TimedFrame] = Tracker(lambda frame, *face: self._is_sharp(frame.image, *face))
        with closing(frames):
            seen = ((f, float(f.times[0]), self._find(f.image), cuts.is_cut(f.image)) for f in frames)
            for frame, faces in tracker.follow(seen):
                yield _Frame(
                    frame, [self._cut_out(frame.image, face) for face in faces], [f.track.number for f in faces]
                )

    def _find(self, image: np.ndarray) -> list[Face]:
        if not self.aligned:
            return [face for face in self.images.find(image) if face.consistent]
        height, width = image.shape[:2]
        if height != width:
            raise ValueError(
                f'an aligned face must be square, not {width}x{height}; restore the clip without --has_aligned'
            )
        return [Face(np.array([0.0, 0.0, width, height]), 1.0, ffhq_template(width))]

    def _is_sharp(self, image: np.ndarray, face: Face, faces: Sequence[Face]) -> bool:
        status = self.images.take_aligned(image).status if self.aligned else self.images.judge(image, face, faces)
        return status == ALREADY_SHARP

    def _cut_out(self, image: np.ndarray, tracked: Tracked) -> FaceResult:
        status = ALREADY_SHARP if tracked.sharp else RESTORED
        if self.aligned:
            crop = FaceResult(image, None, None, status, whole=True, grey=is_grey(image))
        else:
            crop = self.images.cut_out(image, tracked.face, status)
        tracked.track.grey.vote(crop.grey)
        return replace(crop, grey=tracked.track.grey.value)

    def _restore(self, frames: Iterator[_Frame], tally: _Tally) -> Iterator[_Frame]:
        """The same frames, their faces restored in batches over several frames."""
        for batch in batches(frames, self.images.restorer.batch_size):
            begin = time.perf_counter()
            if tally.people is not None:
                told = tally.people.recognise([frame.by_track for frame in batch])
                batch = [replace(frame, faces=list(faces.values())) for frame, faces in zip(batch, told, strict=True)]
            crops = [face for frame in batch for face in frame.faces]
            faces = iter(self.images.restore_crops(crops, search=False))  # from frame to frame codes would flicker
            tally.network_seconds += time.perf_counter() - begin
            for frame in batch:
                done = [next(faces) for _ in frame.faces]
                tally.faces.update(frame.tracks)
                tally.restored.update(
                    n for n, face in zip(frame.tracks, done, strict=True) if face.restored is not None
                )
                restored = replace(frame, faces=done)
                if tally.people is not None:
                    tally.people.note(restored.by_track)
                yield restored

    def _write(self, path: Path, clip: VideoReader, rate: Fraction, tally: _Tally, frames: Iterator[_Frame]) -> None:
        """Paste the faces in and write the frames."""
        writer: VideoWriter | None = None
        try:
            with ExitStack() as stack:
                for frame in frames:
                    image = self._finish(frame)
                    if writer is None:
                        writer = stack.enter_context(VideoWriter(path, clip, (image.shape[1], image.shape[0]), rate))
                    for moment in frame.shown.times:
                        writer.write(image, moment)
                if writer is not None:
                    writer.finish()
                    tally.notes += writer.notes
                    tally.sound_lost = writer.sound_lost
        except FFmpegError as error:
            raise OSError(f'the result could not be written ({error.strerror})') from error

    def _finish(self, frame: _Frame) -> np.ndarray:
        if not self.aligned:
            return self.images.finish(frame.shown.image, frame.faces)
        (face,) = frame.faces
        image = face.crop if face.restored is None else face.restored
        side = max(frame.shown.image.shape[0], self.images.restorer.size)
        return cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)

    def _result(self, clip: VideoReader, tally: _Tally, target: Path, seconds: float) -> VideoResult:
        if clip.complaints or tally.sound_lost:
            status = INCOMPLETE
        elif not tally.faces:
            status = NO_FACE
        else:
            status = RESTORED if tally.restored else ALREADY_SHARP
        nobody = [] if tally.faces else ['no face found; the frames were only enlarged']
        left = len(tally.faces) - len(tally.restored)
        sharp = [f'{left} face(s) left alone: {self.images.sharp_enough}'] if left else []
        message = '; '.join([f'{clip.frames_read} frames', *nobody, *sharp, *clip.complaints, *tally.notes])
        return VideoResult(
            status,
            clip.frames_read,
            len(tally.faces),
            len(tally.restored),
            message,
            target,
            seconds,
            tally.network_seconds,
            tally.people.report() if tally.people else [],
        )


def batches(frames: Iterator[_Frame], size: int) -> Iterator[list[_Frame]]:
    """Frames in groups with at most `size` faces to restore and at most `size` frames, or of one frame with more."""
    group: list[_Frame] = []
    faces = 0
    for frame in frames:
        more = sum(face.status == RESTORED for face in frame.faces)
        if group and (faces + more > size or len(group) == size):
            yield group
            group, faces = [], 0
        group.append(frame)
        faces += more
    if group:
        yield group
