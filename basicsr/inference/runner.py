"""Restore files one after the other, write their results, and give one record for each, whatever happens to it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from basicsr.inference.attempt import attempt
from basicsr.inference.found_face import (
    LEFT_OUT,
    NO_FACE,
    RESTORED,
    RESTORED_BLIND,
    FoundFace,
    RestoredFace,
    restored_of,
)
from basicsr.inference.identity_meter import FaceIdentity
from basicsr.inference.image_restorer import ImageRestorer, ImageResult
from basicsr.inference.jobs import CROPPED, FINAL, RESTORED_FACES, RESULT_FOLDERS, Job, is_clip
from basicsr.inference.people import Person
from basicsr.inference.report import FileRecord, describe_faces, why_left
from basicsr.inference.tasks import RESTORE, Task
from basicsr.utils.files import LONGEST_NAME, remove_abandoned, shorten_name
from basicsr.utils.image import resized, to_8_bits
from basicsr.utils.picture import MAX_MEGAPIXELS, Picture, fill_hidden, read_picture
from basicsr.utils.picture_formats import DEFAULT_QUALITY, EXTENSIONS, left_behind, write_picture
from basicsr.utils.pipeline import ahead
from basicsr.utils.progress import CancelledError, stop_if_cancelled


@dataclass(frozen=True)
class Runner:
    """Restores files one after the other.

    Args:
        restorer: for the pictures.
        output: the folder for the results.
        suffix: appended to the names of results.
        aligned: the pictures are aligned faces themselves.
        max_megapixels: most pixels of a picture and of its result.
        fps: frames a second of the results of clips, their own by default.
        network_size: aligned faces come out in the size of the network instead of their own.
        task: what the pictures are restored for.
        extension: of the pictures written, `png`, `jpg` or `webp`.
        quality: of JPEG and WebP, 1 to 100.
        keep_gps: results say where a picture or clip was taken, as far as it does.
        shared: others write to `output` at the same time, so nothing is cleaned up there.
        who: says who the aligned faces of a batch are; None recognizes them.
        folder: of restored aligned faces, below `output`.

    Raises:
        ValueError: `suffix` cannot be part of a file's name, or an extension or quality that is none.
    """

    restorer: ImageRestorer
    output: Path
    suffix: str = ''
    aligned: bool = False
    max_megapixels: float = MAX_MEGAPIXELS
    fps: Fraction | None = None
    network_size: bool = False
    task: Task = RESTORE
    extension: str = 'png'
    quality: int = DEFAULT_QUALITY
    keep_gps: bool = False
    shared: bool = False
    who: Callable[[Sequence[Job]], Sequence[Person | None]] | None = None
    folder: str = RESTORED_FACES

    def __post_init__(self) -> None:
        if self.extension not in EXTENSIONS:
            raise ValueError(f"extension '{self.extension}': must be one of {', '.join(EXTENSIONS)}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f'quality {self.quality}: must be from 1 to 100')
        if set(self.suffix) & set('/\\\0') or len(os.fsencode(self.suffix)) > LONGEST_NAME // 2:
            raise ValueError(f'suffix {self.suffix!r}: must be part of a file name, without slashes, and short')

    def run(self, jobs: Sequence[Job]) -> Iterator[FileRecord]:
        """One record for each job, in order, as they are done. A file that fails does not stop the others."""
        if not self.shared:
            self._clean()
        for clips, group in itertools.groupby(jobs, lambda job: is_clip(job.path)):
            if clips or not self.aligned:
                for job in group:
                    stop_if_cancelled()
                    written: list[str] = []
                    work = partial(self._clip, job) if clips else partial(self._whole, job, written)
                    yield self._as_asked(attempt(job, work, written), clips)
                continue
            yield from map(self._as_asked, self._aligned(group))

    def _as_asked(self, record: FileRecord, clip: bool = False) -> FileRecord:
        """Return a record; it says so where references had no effect."""
        faces = self.restorer.faces
        reason = faces.guide.without_effect(clip) if faces.guide is not None and not faces.choose_w else ''
        if not reason or record.status != RESTORED:
            return record
        return replace(record, status=RESTORED_BLIND, message=_joined([reason, record.message]))

    def _clean(self) -> None:
        """Remove what a killed run left half written."""
        with suppress(OSError):  # what cannot be looked into is in nobody's way
            remove_abandoned(self.output, recursive=False)
            for folder in RESULT_FOLDERS:
                remove_abandoned(self.output / folder)

    def _whole(self, job: Job, written: list[str]) -> FileRecord:
        picture = self._read(job.path)
        result, note = self._result(job, picture)
        return self.write(job, picture, result, written, note)

    def write(
        self, job: Job, picture: Picture, result: ImageResult, written: list[str] | None = None, note: str = ''
    ) -> FileRecord:
        """Write what became of a picture, and describe it.

        Args:
            job: whose picture it is.
            picture: as read.
            result: of its restoration.
            written: takes the paths of what is written, relative to the output folder.
            note: for the message.

        Raises:
            OSError, ValueError: it cannot be written.
        """
        written = [] if written is None else written
        for index, face in enumerate(result.faces):
            ending = f'_{index:02d}'
            written.append(self._write(CROPPED, job.name, picture.holding(face.crop), ending))
            if isinstance(face, RestoredFace):
                written.append(self._write(RESTORED_FACES, job.name, picture.holding(face.restored), ending))
        boxes = self.restorer.canvas.draw_box and result.faces
        final = replace(picture.enlarged(result.image), grey=picture.grey and not boxes)
        written.append(self._write(FINAL, job.name, final))
        done = len(restored_of(result.faces))
        found = describe_faces(result.faces)
        status, chosen = result.status, ''
        if found:
            status, chosen = self._asked_for(status, len(found))
        elif not note:
            chosen = 'no face found; the picture was only enlarged'
        message = _joined([note, chosen, why_left(found), picture.note, left_behind(final, self.extension)])
        identity = likeness_of(result.faces)
        return FileRecord(str(job.path), status, len(found), done, written, message, identity, found)

    def _asked_for(self, status: str, count: int) -> tuple[str, str]:
        """Return the status of a picture with `count` faces, and a message on chosen faces that are not there."""
        selection = self.restorer.faces.selection
        missing = selection.missing(count)
        if not missing:
            return status, ''
        none_there = status == LEFT_OUT and len(missing) == len(selection.only or ())
        return NO_FACE if none_there else status, f'no face {", ".join(map(str, missing))} among its {count} (--faces)'

    def _result(self, job: Job, picture: Picture) -> tuple[ImageResult, str]:
        """Restore a picture; return its status, and a note on it or ''."""
        result = self.restorer.restore(picture.image)
        return result, ''

    def _read(self, path: Path) -> Picture:
        """Return a picture to restore, if it and its result are within the limit."""
        canvas = self.restorer.canvas
        picture = self._prepared(read_picture(path, canvas.largest_factor, self.max_megapixels))
        return picture if canvas.upscale == 1 else fill_hidden(picture)

    def _prepared(self, picture: Picture) -> Picture:
        """Return a picture without its position, unless that is kept, and with colours where the task gives them."""
        if not self.keep_gps:
            picture = replace(picture, metadata=picture.metadata.without_position())
        return picture if self.task.keeps_grey else replace(picture, grey=False)

    def _aligned(self, jobs: Iterator[Job]) -> Iterator[FileRecord]:
        """Restore aligned faces in batches; the next is read and the one before written while the network works."""
        with closing(ahead(self._read_batches(jobs), 1)) as batches, ThreadPoolExecutor(1) as writer:
            written: Future[list[FileRecord]] | None = None
            try:
                for batch in batches:
                    stop_if_cancelled()
                    done = self._restored(batch)
                    if written is not None:
                        yield from written.result()
                        written = None
                    written = writer.submit(self._written, batch, done)
            except (CancelledError, KeyboardInterrupt):  # what is written has its records
                if written is not None:
                    yield from written.result()
                raise
            if written is not None:
                yield from written.result()

    def _read_batches(self, jobs: Iterator[Job]) -> Generator[dict[Job, Picture | FileRecord], None, None]:
        """Yield the pictures of some jobs at a time, or where one cannot be read, the record that says so."""
        while batch := list(itertools.islice(jobs, self.restorer.faces.restorer.batch_size)):
            yield {job: attempt(job, partial(self._read_aligned, job)) for job in batch}

    def _restored(self, batch: Mapping[Job, Picture | FileRecord]) -> dict[Job, FoundFace | FileRecord]:
        """Restore the pictures of a batch together, or one by one where that fails; a record where one fails."""
        faces = {job: to_8_bits(read.image) for job, read in batch.items() if isinstance(read, Picture)}
        if not faces:
            return {}
        results = attempt(next(iter(faces)), partial(self._together, faces))
        if not isinstance(results, FileRecord):
            return dict(zip(faces, results, strict=True))
        if len(faces) == 1:
            return dict.fromkeys(faces, results)
        return {key: value for job in faces for key, value in self._restored({job: batch[job]}).items()}

    def _together(self, faces: Mapping[Job, np.ndarray]) -> list[FoundFace]:
        persons = None if self.who is None else self.who([*faces])
        return self.restorer.restore_aligned([*faces.values()], persons)

    def _written(
        self, batch: Mapping[Job, Picture | FileRecord], done: Mapping[Job, FoundFace | FileRecord]
    ) -> list[FileRecord]:
        """Write the results of a batch; return the records of all its jobs, in order."""
        records = []
        for job, read in batch.items():
            face = read if isinstance(read, FileRecord) else done[job]
            if isinstance(read, Picture) and isinstance(face, FoundFace):
                face = attempt(job, partial(self._write_aligned, job, read, face))
            records.append(cast(FileRecord, face))
        return records

    def _read_aligned(self, job: Job) -> Picture:
        return self._prepared(read_square(job.path, self.max_megapixels))

    def _write_aligned(self, job: Job, picture: Picture, face: FoundFace) -> FileRecord:
        restored = isinstance(face, RestoredFace)
        result = self._in_depth_and_size(picture, face.restored) if restored else picture
        side, own = self.restorer.canvas.size, picture.image.shape[0]
        smaller = restored and not self.network_size and own < side
        size = f'reduced from {side} to its own {own} pixels; --network_size keeps them' if smaller else ''
        return self._record_aligned(job, face, result, size)

    def _record_aligned(self, job: Job, face: FoundFace, result: Picture, note: str = '') -> FileRecord:
        """Return the record of an aligned face, whose result is written."""
        written = [self._write(self.folder, job.name, result)]
        found, done = describe_faces([face]), int(isinstance(face, RestoredFace))
        message = _joined([why_left(found), note, result.note, left_behind(result, self.extension)])
        return FileRecord(str(job.path), face.status, 1, done, written, message, likeness_of([face]), found)

    def _in_depth_and_size(self, picture: Picture, restored: np.ndarray) -> Picture:
        """Return a restored face, RGB uint8 (n,n,3), in the depth and (but with `network_size`) size of `picture`."""
        image = restored.astype(np.uint16) * 257 if picture.image.dtype == np.uint16 else restored
        if not self.network_size:
            image = resized(image, *picture.image.shape[1::-1])
        return picture.enlarged(self.restorer.canvas.blended(picture.image, image))

    def _write(self, folder: str, name: str, picture: Picture, ending: str = '') -> str:
        """Write a result; its path relative to the output folder."""
        relative = self._place(folder, name, f'.{self.extension}', ending)
        write_picture(self.output / relative, picture, self.quality)
        return relative

    def _clip(self, job: Job) -> FileRecord:
        """Return a clip; its result is an mp4 file, or a mov file where it has transparency."""
        from basicsr.video.video_restorer import VideoRestorer  # imports PyAV, which pictures do not need

        target = self.output / self._place(FINAL, job.name, '.mp4')
        images = self._for_frames(job)
        restorer = VideoRestorer(images, self.aligned, self.max_megapixels, self.network_size, self.keep_gps)
        result = restorer.restore_file(job.path, target, self.fps)
        written = [result.output.relative_to(self.output).as_posix()]
        numbers = (result.faces, result.restored)
        return FileRecord(str(job.path), result.status, *numbers, written, result.message, result.identity)

    def _for_frames(self, job: Job) -> ImageRestorer:
        """Return what restores the frames of a clip."""
        return self.restorer

    def _place(self, folder: str, name: str, extension: str, ending: str = '') -> str:
        """Return the path of a result, relative to the output folder. A name that would be too long is shortened.

        Raises:
            ValueError: links in the output folder lead out of it.
        """
        last = f'_{self.suffix}{extension}' if self.suffix else extension
        parent, _, stem = name.rpartition('/')
        stem = shorten_name(stem, LONGEST_NAME - len(os.fsencode(f'_0000{last}')))
        target = self.output / folder / parent / f'{stem}{ending}{last}'
        if not target.parent.resolve().is_relative_to(self.output.resolve()):
            raise ValueError(f'{target.parent}: leads out of the output folder; remove the link, or choose another -o')
        return target.relative_to(self.output).as_posix()


def read_square(path: Path, max_megapixels: float) -> Picture:
    """Read a picture that is an aligned face.

    Raises:
        ImageReadError: as `read_picture`.
        ValueError: it is not square.
    """
    picture = read_picture(path, 1, max_megapixels)
    height, width = picture.image.shape[:2]
    if height != width:
        size = f'{width}x{height}'
        raise ValueError(f'{path}: an aligned face must be square, not {size}; restore it without --has_aligned')
    return picture


def likeness_of(faces: Sequence[FoundFace]) -> list[FaceIdentity]:
    """Return the similarities of the faces of a picture, by their numbers, where measured."""
    return [
        replace(face.likeness, face=index)
        for index, face in enumerate(faces)
        if isinstance(face, RestoredFace) and face.likeness is not None
    ]


def _joined(messages: Sequence[str]) -> str:
    return '; '.join(message for message in messages if message)
