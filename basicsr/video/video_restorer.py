"""Whole clips: frames stream from stage to stage, so that the memory they take does not depend on their number."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.error import FFmpegError

from basicsr.faces.face import Face
from basicsr.faces.geometry import crop_side, ffhq_template
from basicsr.inference.face_pipeline import is_grey
from basicsr.inference.found_face import (
    ALREADY_SHARP,
    LEFT_OUT,
    NO_FACE,
    RESTORED,
    FoundFace,
    RestoredFace,
)
from basicsr.inference.identity_meter import FaceIdentity
from basicsr.inference.image_restorer import ImageRestorer
from basicsr.utils.files import replacing
from basicsr.utils.image import resized
from basicsr.utils.picture import MAX_MEGAPIXELS, Picture, check_size, fill_hidden, is_animated
from basicsr.utils.pipeline import ahead, behind
from basicsr.utils.progress import progress
from basicsr.video.animation import AnimationReader
from basicsr.video.encoding import Encoding, check_encoder, choose_encoding
from basicsr.video.finding import EVERY, ClipFinder
from basicsr.video.track_identity import TrackIdentities
from basicsr.video.tracking import LOOKAHEAD, Tracked, Tracker
from basicsr.video.video_io import FINEST_RATE, MOST_RATE, TimedFrame, VideoReader, VideoReadError, resample
from basicsr.video.video_writer import VideoWriter

INCOMPLETE = 'incomplete'
DECODED = 4  # frames waiting to be looked at
Clip = VideoReader | AnimationReader
MOST_WAITING = 1e8  # pixels of frames waiting at each stage; of larger frames fewer wait


@dataclass(frozen=True)
class VideoResult:
    """Result of a clip.

    Attributes:
        status: `restored`, `already_sharp`, `left_out` or `no_face`; `incomplete` if a part of the picture or sound is
            missing.
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
    """A frame on its way, with its faces; `same` if all that becomes of it is what became of the frame before."""

    shown: TimedFrame
    faces: list[FoundFace]
    tracks: list[int]
    same: bool = False

    def repeats(self, before: _Frame | None) -> bool:
        """Return True if it shows what the frame before does, with the same faces to restore."""
        if before is None or not self.shown.still or self.tracks != before.tracks:
            return False
        pairs = zip(self.faces, before.faces, strict=True)
        return all((a.status, a.reason, a.grey) == (b.status, b.reason, b.grey) for a, b in pairs)

    @property
    def by_track(self) -> dict[int, FoundFace]:
        """The faces by the number of their track."""
        return dict(zip(self.tracks, self.faces, strict=True))


@dataclass
class _Tally:
    """Counters of a clip's restoration."""

    faces: set[int] = field(default_factory=set)
    restored: set[int] = field(default_factory=set)
    left_out: dict[int, str] = field(default_factory=dict)  # and why
    notes: list[str] = field(default_factory=list)
    sound_lost: bool = False
    network_seconds: float = 0
    people: TrackIdentities | None = None


@dataclass(frozen=True)
class VideoRestorer:
    """Restores clips with the parts of an `ImageRestorer`.

    Decoding, detection and encoding run in threads beside the network. At most `DECODED` + `EVERY` + `LOOKAHEAD` + 4
    x the batch size frames are in memory at a time, and of large frames fewer. The faces of several frames make a
    batch.

    Args:
        images: for the frames.
        aligned: every frame is an aligned face itself, and so is every frame of the result.
        max_megapixels: most pixels of a frame and of a frame of the result.
        network_size: aligned faces come out in the size of the network instead of their own.
        keep_gps: the result says where the clip was taken, as far as that does.
    """

    images: ImageRestorer
    aligned: bool = False
    max_megapixels: float = MAX_MEGAPIXELS
    network_size: bool = False
    keep_gps: bool = False

    def restore_file(self, source: Path, target: Path, fps: Fraction | None = None) -> VideoResult:
        """Restore a clip or an animated picture, with its sound, rate and orientation, which is put into the pixels.

        The first picture track and every sound track are kept, with title, date, languages and chapters;
        subtitles and other tracks are not, which is said. 8 bits become H.264, more bits HEVC, both in an mp4 file;
        frames with transparency become ProRes 4444 in a mov file.

        Args:
            source: the clip.
            target: an mp4 file (or the mov file of that name); it is there when everything is in it, and not before.
            fps: frames a second of the result, rounded to a fraction with a denominator up to 1001; frames are left out
                or repeated, and the duration stays. By default each frame keeps its time.

        Raises:
            FileNotFoundError: `source` is not there.
            VideoReadError: not one frame of it can be read, or its frames are too large.
            ValueError: `fps` is out of range, the encoder does not take frames of the result's size, or a frame is not
                square though it is to be an aligned face; or w is to be chosen, which would differ from frame to frame.
            OSError: the result cannot be written.
            RuntimeError: the network failed.
        """
        if fps is not None and not 0 < fps.limit_denominator(FINEST_RATE) <= MOST_RATE:
            raise ValueError(f'{fps} frames a second: must be from 1/1001 to {MOST_RATE}')
        if self.images.faces.choose_w:
            raise ValueError(f'{source}: -w auto is for pictures, in a clip faces would flicker; give a number')
        begin, tally = time.perf_counter(), _Tally()
        if self.images.faces.guide is not None:
            tally.people = TrackIdentities(self.images.faces.guide)
        with open_clip(source, self.max_megapixels) as clip:
            encoding = choose_encoding(clip.has_alpha, clip.is_deep)
            self._check_size(source, clip.size, encoding)
            target = target.with_suffix(f'.{encoding.container}')
            with replacing(target) as partial:
                self._restore_clip(clip, partial, encoding, fps, tally)
                if not clip.frames_read:
                    raise VideoReadError(
                        f'{source}: no frame of it can be read; {"; ".join(clip.complaints) or "it is empty"}'
                    )
            return self._result(clip, tally, target, time.perf_counter() - begin)

    def _check_size(self, source: Path, size: tuple[int, int], encoding: Encoding) -> None:
        """Raise ValueError where frames of (width, height), or those of the result, are too large."""
        if 0 in size:
            return  # the header does not say; the decoder has the limit too
        upscale, largest = self.images.canvas.upscale, self.images.canvas.largest_factor
        result = (max(1, round(size[0] * upscale)), max(1, round(size[1] * upscale)))
        if self.aligned:
            result = (self._aligned_side(size[0]), self._aligned_side(size[1]))
            largest = result[0] / size[0]
        check_size(source, size, largest, self.max_megapixels, VideoReadError)
        check_encoder(encoding, result, source)

    def _restore_clip(self, clip: Clip, partial: Path, encoding: Encoding, fps: Fraction | None, tally: _Tally) -> None:
        """Read, restore and write: side by side, or one after the other where frames are so large that few fit."""
        waiting = int(MOST_WAITING // max(1, clip.size[0] * clip.size[1]))
        size = max(1, min(self.images.faces.restorer.batch_size, waiting))
        rate = (fps or clip.rate).limit_denominator(FINEST_RATE)  # other clocks are too fine for FFmpeg
        shown = clip.frames() if fps is None else resample(clip.frames(), rate)
        write = functools.partial(self._write, partial, clip, rate, encoding, tally)
        with progress(round(clip.duration * rate) or None, 'frame', clip.path.name) as step:
            if waiting < 2:
                with closing(self._look(shown, 0)) as looked:
                    write(self._restore(looked, 1, tally, step))
                return
            looked = ahead(self._look(ahead(shown, min(DECODED, waiting)), waiting), size)
            with closing(looked), behind(write, 2 * size) as put:
                for frame in self._restore(looked, size, tally, step):
                    put(frame)

    def _look(self, frames: Generator[TimedFrame, None, None], most: int) -> Generator[_Frame, None, None]:
        """Frames with their faces: found, tracked, steadied and cut out, not yet restored; `most` frames wait."""
        follow = None if self.aligned else getattr(self.images.faces.detector, 'follow', None)
        finder = ClipFinder(self._find, follow, max(1, min(EVERY, most)), stills=most > 1)
        lookahead = min(LOOKAHEAD, most)
        tracker: Tracker[TimedFrame] = Tracker(lambda frame, *face: self._is_sharp(frame.seen, *face), lookahead)
        with closing(frames):
            seen = ((f.frame, float(f.frame.times[0]), f.faces, f.cut) for f in finder.faces_of(frames))
            for frame, faces in tracker.follow(seen):
                yield _Frame(
                    frame, [self._cut_out(frame.seen, face) for face in faces], [f.track.number for f in faces]
                )

    def _find(self, image: np.ndarray) -> list[Face]:
        if not self.aligned:
            return [face for face in self.images.faces.find(image) if face.consistent]
        height, width = image.shape[:2]
        if height != width:
            raise ValueError(
                f'an aligned face must be square, not {width}x{height}; restore the clip without --has_aligned'
            )
        return [Face(np.array([0.0, 0.0, width, height]), 1.0, ffhq_template(width))]

    def _is_sharp(self, image: np.ndarray, face: Face, faces: Sequence[Face]) -> bool:
        pipeline = self.images.faces
        status = pipeline.take_aligned(image).status if self.aligned else pipeline.judge(image, face, faces)
        return status == ALREADY_SHARP

    def _cut_out(self, image: np.ndarray, tracked: Tracked) -> FoundFace:
        status = ALREADY_SHARP if tracked.sharp else RESTORED
        if self.aligned:
            crop = FoundFace(image, None, status, whole=True, grey=is_grey(image))
        else:
            crop = self.images.faces.cut_out(image, tracked.face, status)
        track = tracked.track
        track.grey.vote(crop.grey)
        track.small.vote(self.images.faces.selection.is_small(crop_side(tracked.face.landmarks)))
        return self.images.faces.chosen(replace(crop, grey=track.grey.value), track.number, track.small.value)

    def _restore(
        self, frames: Iterator[_Frame], size: int, tally: _Tally, step: Callable[[], object]
    ) -> Iterator[_Frame]:
        """Yield the same frames, their faces restored in batches over several frames; `step` is called after each.

        A picture that stands still is restored once, where nobody's likeness is measured.
        """
        last: _Frame | None = None
        for batch in batches(frames, size):
            begin = time.perf_counter()
            if tally.people is not None:
                told = tally.people.recognize([frame.by_track for frame in batch])
                batch = [replace(frame, faces=list(faces.values())) for frame, faces in zip(batch, told, strict=True)]
            chain = [last, *batch]
            batch = [replace(f, same=tally.people is None and f.repeats(b)) for b, f in zip(chain, batch, strict=False)]
            crops = [face for frame in batch if not frame.same for face in frame.faces]
            # Codes that are searched would flicker from frame to frame.
            faces = iter(self.images.faces.restore_crops(crops, search=False))
            tally.network_seconds += time.perf_counter() - begin
            for frame in batch:
                done = last.faces if frame.same and last else [next(faces) for _ in frame.faces]
                tally.faces.update(frame.tracks)
                tally.restored.update(
                    n for n, face in zip(frame.tracks, done, strict=True) if isinstance(face, RestoredFace)
                )
                tally.left_out.update(
                    (n, face.reason) for n, face in zip(frame.tracks, done, strict=True) if face.status == LEFT_OUT
                )
                restored = last = replace(frame, faces=done)
                if tally.people is not None:
                    tally.people.note(restored.by_track)
                yield restored
                step()

    def _write(
        self, path: Path, clip: Clip, rate: Fraction, encoding: Encoding, tally: _Tally, frames: Iterator[_Frame]
    ) -> None:
        """Paste the faces in and write the frames."""
        writer: VideoWriter | None = None
        image: np.ndarray | None = None
        try:
            with ExitStack() as stack:
                for frame in frames:
                    image = image if frame.same and image is not None else self._finish(frame)
                    if writer is None:
                        size = (image.shape[1], image.shape[0])
                        writer = stack.enter_context(VideoWriter(path, clip, size, rate, encoding, self.keep_gps))
                    for moment in frame.shown.times:
                        writer.write(image, moment)
                if writer is not None:
                    writer.finish()
                    tally.notes += writer.notes
                    tally.sound_lost = writer.sound_lost
        except FFmpegError as error:
            raise OSError(f'the result could not be written ({error.strerror})') from error

    def _finish(self, frame: _Frame) -> np.ndarray:
        """Return a frame of the result, RGB or RGBA."""
        picture = Picture(frame.shown.image, frame.shown.alpha)
        if self.aligned:
            (face,) = frame.faces
            image = face.restored if isinstance(face, RestoredFace) else picture.image
            if picture.image.dtype == np.uint16 and image.dtype == np.uint8:
                image = image.astype(np.uint16) * 257
            side = self._aligned_side(picture.image.shape[0])
            image = self.images.canvas.blended(picture.image, resized(image, side, side))
        else:
            picture = picture if self.images.canvas.upscale == 1 else fill_hidden(picture)
            image = self.images.canvas.finish(picture.image, frame.faces, frame.tracks)
        alpha = picture.enlarged(image).alpha
        return image if alpha is None else np.dstack([image, alpha])

    def _aligned_side(self, own: int) -> int:
        """Return the side of an aligned face in the result."""
        return self.images.canvas.size if self.network_size else own

    def _result(self, clip: Clip, tally: _Tally, target: Path, seconds: float) -> VideoResult:
        if clip.complaints or tally.sound_lost:
            status = INCOMPLETE
        elif not tally.faces:
            status = NO_FACE
        elif tally.restored:
            status = RESTORED
        else:
            status = LEFT_OUT if tally.left_out.keys() == tally.faces else ALREADY_SHARP
        nobody = [] if tally.faces else ['no face found; the frames were only enlarged']
        omitted = {number: reason for number, reason in tally.left_out.items() if number not in tally.restored}
        reasons = Counter(omitted.values())
        reasons[self.images.faces.sharp_enough] += len(tally.faces) - len(tally.restored) - len(omitted)
        alone = [f'{count} face(s) left alone: {reason}' for reason, count in reasons.items() if count]
        hdr = ['HDR, kept in 10 bits; faces are restored in its tone curve'] if clip.colours.is_hdr else []
        missing = [f'left out: {", ".join(clip.left_out)}'] if clip.left_out else []
        said = [*nobody, *alone, *clip.complaints, *clip.notes, *hdr, *missing, *tally.notes]
        message = '; '.join([f'{clip.frames_read} frames', *said])
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


def open_clip(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Clip:
    """Return a clip, or a picture that moves, to be read frame by frame.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: it cannot be read, or its frames have too many pixels.
    """
    return AnimationReader(path, max_megapixels) if is_animated(path) else VideoReader(path, max_megapixels)


def batches(frames: Iterator[_Frame], size: int) -> Iterator[list[_Frame]]:
    """Frames in groups with at most `size` faces to restore and at most `size` frames, or of one frame with more."""
    group: list[_Frame] = []
    faces = 0
    for frame in frames:
        more = sum(face.status == RESTORED for face in frame.faces)
        if group and faces + more > size:
            yield group
            group, faces = [], 0
        group.append(frame)
        faces += more
        if len(group) == size:
            yield group
            group, faces = [], 0
    if group:
        yield group
