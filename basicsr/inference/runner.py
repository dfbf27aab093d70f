"""Files and folders: what to read, where to write it, and one record for each file, whatever happens to it."""

from __future__ import annotations

import errno
import glob
import itertools
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import cv2
import numpy as np

from basicsr.inference.identity_meter import FaceIdentity
from basicsr.inference.image_restorer import (
    FAILED,
    LEFT_OUT,
    NO_FACE,
    RESTORED,
    RESTORED_BLIND,
    FaceResult,
    ImageRestorer,
    ImageResult,
)
from basicsr.inference.report import FileRecord, describe_faces, why_left
from basicsr.inference.tasks import RESTORE, Task
from basicsr.utils.errors import MissingExtraError
from basicsr.utils.files import LONGEST_NAME, is_video_file, remove_abandoned, shorten_name, user_path
from basicsr.utils.image import resized, to_8_bits
from basicsr.utils.picture import (
    MAX_MEGAPIXELS,
    PICTURE_EXTENSIONS,
    Picture,
    fill_hidden,
    is_animated,
    read_picture,
)
from basicsr.utils.picture_formats import DEFAULT_QUALITY, EXTENSIONS, left_behind, write_picture
from basicsr.utils.pipeline import ahead
from basicsr.utils.progress import CancelledError, stop_if_cancelled

FINAL, CROPPED, RESTORED_FACES = 'final_results', 'cropped_faces', 'restored_faces'
SUMMARY = 'summary.json'
SUMMARY_NAME = re.compile(r'summary(_\d+_of_\d+)?\.json')
RESULT_FOLDERS = (FINAL, CROPPED, RESTORED_FACES)
RESULT_ENDINGS = ('.mp4', '.mov', *(f'.{extension}' for extension in EXTENSIONS))
# What a single file may raise without stopping the others: unreadable pictures, full disks, failures of networks.
FILE_ERRORS = (OSError, ValueError, RuntimeError, MemoryError, MissingExtraError, cv2.error)
UNEXPECTED = 'unexpected error'  # begins the message of any other

logger = logging.getLogger('basicsr')

T = TypeVar('T')


@dataclass(frozen=True)
class Job:
    """A picture or clip to restore.

    Attributes:
        path: where it is.
        name: what its results are called, sub-folders included, without extension; no two jobs share one.
    """

    path: Path
    name: str


Source = str | os.PathLike
Sources = Source | Sequence[Source]


def expand_inputs(texts: Sequence[str]) -> list[Path]:
    """Paths from what a user gave, with `~` for the home folder and patterns for what matches them, sorted.

    What exists under its very name is no pattern. Of matches, pictures, clips and folders are taken.

    Raises:
        FileNotFoundError: nothing matches a pattern.
    """
    paths: list[Path] = []
    for text in map(user_path, texts):
        if not text:
            raise FileNotFoundError('-i: an empty path; name a picture, clip or folder')
        if os.path.lexists(text) or not glob.has_magic(text):
            paths.append(Path(text))
            continue
        matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - absolute too
        known = [path for path in matches if path.is_dir() or has_known_name(path)]
        if not known:
            raise FileNotFoundError(f'{text}: no picture, clip or folder matches this pattern')
        paths += known
    return paths


def has_known_name(path: Path) -> bool:
    """Return True if the extension is that of a picture or a clip."""
    return path.suffix.lower() in PICTURE_EXTENSIONS or is_video_file(path)


def plan_jobs(sources: Sources, output: Source) -> list[Job]:
    """Return the pictures and clips of files and folders, but results of an earlier run.

    Sub-folders are kept. Of files that differ in the extension only, the results carry the whole file name.

    Links that lead nowhere and folders that cannot be entered are jobs too: reading them says what is wrong. Of
    several sources, the results of a folder are in one of its name, and a file that is given twice is one job.

    Args:
        sources: files and folders.
        output: the folder for the results.

    Raises:
        FileNotFoundError: a source does not exist, or there are no pictures and no clips.
        PermissionError: a source is a folder that cannot be entered.
        ValueError: a source lies in one of the folders that results are written to.
    """
    listed = _listed(sources)
    found: dict[Path, Path] = {}  # and what a result is called, with the extension
    for source in listed:
        for path, name in _found_in(source, output):
            inner = len(listed) > 1 and source.is_dir()
            found.setdefault(path, Path(source.resolve().name, name) if inner else name)
    if not found:
        raise FileNotFoundError(f'{", ".join(map(str, listed))}: no pictures in it, and no clips')
    return [Job(path, name) for path, name in zip(found, _unique_names(list(found.values())), strict=True)]


def _listed(sources: Sources) -> list[Path]:
    return [Path(sources)] if isinstance(sources, str | os.PathLike) else [Path(source) for source in sources]


def _found_in(source: Path, output: Source) -> list[tuple[Path, Path]]:
    """Return the pictures and clips of one file or folder, and their paths relative to it. See `plan_jobs`."""
    if source.is_symlink() and not source.exists():
        raise FileNotFoundError(f'{source}: the link leads nowhere')
    if any(source.resolve().is_relative_to(folder) for folder in result_folders(output)):
        raise ValueError(f'{source} lies in the results of {output}, and would be written over; choose another -o')
    if source.is_dir():
        found, _ = _walk(source, output)
        if source in found:
            raise PermissionError(f'{source}: no permission to look into this folder')
        return [(path, path.relative_to(source)) for path in found]
    if not source.exists():
        raise FileNotFoundError(f'{source}: no such file or folder')
    return [(source, Path(source.name))]


def skipped_files(sources: Sources, output: Source) -> list[str]:
    """Return the files of folders, except hidden ones, that are not named as pictures or clips, and links to folders.

    Sorted, and relative to the folder where there is one.
    """
    listed = _listed(sources)
    others = [(path, root) for root in listed if root.is_dir() for path in _walk(root, output)[1]]
    return sorted((path.relative_to(root) if len(listed) == 1 else path).as_posix() for path, root in others)


def is_summary(name: str) -> bool:
    """Check whether a file name is that of a summary."""
    return SUMMARY_NAME.fullmatch(name) is not None


def result_folders(output: str | os.PathLike) -> set[Path]:
    """Return the folders that results are written to, resolved."""
    return {Path(output).resolve() / name for name in RESULT_FOLDERS}


def _walk(source: Path, output: str | os.PathLike) -> tuple[list[Path], list[Path]]:
    """List a folder, sorted: files named like pictures or clips, and folders that cannot be entered,
    and the rest.

    Passed over are hidden files and folders, folders of results, and summaries.
    """
    results, own = result_folders(output), Path(output).resolve()
    pictures: list[Path] = []
    others: list[Path] = []
    for name, folders, files in os.walk(source, onerror=lambda error: pictures.append(Path(error.filename))):
        folder = Path(name)
        if any(map(is_summary, files)):  # of a run with another output
            results |= result_folders(folder)
        folders[:] = [sub for sub in folders if not sub.startswith('.') and (folder / sub).resolve() not in results]
        others += [folder / sub for sub in folders if (folder / sub).is_symlink()]
        for path in (folder / file for file in files if not file.startswith('.')):
            if has_known_name(path):
                pictures.append(path)
            elif not (is_summary(path.name) and folder.resolve() == own):
                others.append(path)
    return sorted(pictures), others


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Paths without extension, numbered where several would be one: `same`, `same~2`.

    Names that differ only in case, or in how letters with accents are composed, are one name to some file systems.
    """

    def key(name: str) -> str:
        return unicodedata.normalize('NFC', name).casefold()

    names = [path.with_suffix('').as_posix() for path in paths]
    counts = Counter(map(key, names))
    folders = {key(parent.as_posix()) for path in paths for parent in path.parents}
    taken = {key(name) for name in names if counts[key(name)] == 1}

    def is_free(name: str) -> bool:
        return key(name) not in taken and not any(key(name + ending) in folders for ending in RESULT_ENDINGS)

    for place, name in enumerate(names):
        alone = counts[key(name)] == 1
        taken -= {key(name)} if alone else set()
        numbered = (f'{name}~{number}' if number > 1 else name for number in itertools.count(1))
        names[place] = next(each for each in numbered if is_free(each))
        taken.add(key(names[place]))
    return names


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
        guide = self.restorer.guide
        reason = guide.without_effect(clip) if guide is not None and not self.restorer.choose_w else ''
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
            if face.restored is not None:
                written.append(self._write(RESTORED_FACES, job.name, picture.holding(face.restored), ending))
        boxes = self.restorer.draw_box and result.faces
        final = replace(picture.enlarged(result.image), grey=picture.grey and not boxes)
        written.append(self._write(FINAL, job.name, final))
        done = sum(face.restored is not None for face in result.faces)
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
        selection = self.restorer.selection
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
        factor = self.restorer.upscale
        network = self.restorer.bg_upsampler
        picture = self._prepared(
            read_picture(path, max(factor, network.model.scale if network else 0), self.max_megapixels)
        )
        return picture if factor == 1 else fill_hidden(picture)

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
        while batch := list(itertools.islice(jobs, self.restorer.restorer.batch_size)):
            yield {job: attempt(job, partial(self._read_aligned, job)) for job in batch}

    def _restored(self, batch: Mapping[Job, Picture | FileRecord]) -> dict[Job, FaceResult | FileRecord]:
        """Restore the pictures of a batch together, or one by one where that fails; a record where one fails."""
        faces = {job: to_8_bits(read.image) for job, read in batch.items() if isinstance(read, Picture)}
        if not faces:
            return {}
        results = attempt(next(iter(faces)), lambda: self.restorer.restore_aligned([*faces.values()]))
        if not isinstance(results, FileRecord):
            return dict(zip(faces, results, strict=True))
        if len(faces) == 1:
            return dict.fromkeys(faces, results)
        return {key: value for job in faces for key, value in self._restored({job: batch[job]}).items()}

    def _written(
        self, batch: Mapping[Job, Picture | FileRecord], done: Mapping[Job, FaceResult | FileRecord]
    ) -> list[FileRecord]:
        """Write the results of a batch; return the records of all its jobs, in order."""
        records = []
        for job, read in batch.items():
            face = read if isinstance(read, FileRecord) else done[job]
            if isinstance(read, Picture) and isinstance(face, FaceResult):
                face = attempt(job, partial(self._write_aligned, job, read, face))
            records.append(cast(FileRecord, face))
        return records

    def _read_aligned(self, job: Job) -> Picture:
        return self._prepared(read_square(job.path, self.max_megapixels))

    def _write_aligned(self, job: Job, picture: Picture, face: FaceResult) -> FileRecord:
        result = picture if face.restored is None else self._in_depth_and_size(picture, face.restored)
        side, own = self.restorer.restorer.size, picture.image.shape[0]
        smaller = face.restored is not None and not self.network_size and own < side
        size = f'reduced from {side} to its own {own} pixels; --network_size keeps them' if smaller else ''
        return self._record_aligned(job, face, result, size)

    def _record_aligned(self, job: Job, face: FaceResult, result: Picture, note: str = '') -> FileRecord:
        """Return the record of an aligned face, whose result is written."""
        written = [self._write(RESTORED_FACES, job.name, result)]
        found, done = describe_faces([face]), int(face.restored is not None)
        message = _joined([why_left(found), note, result.note, left_behind(result, self.extension)])
        return FileRecord(str(job.path), face.status, 1, done, written, message, likeness_of([face]), found)

    def _in_depth_and_size(self, picture: Picture, restored: np.ndarray) -> Picture:
        """Return a restored face, RGB uint8 (n,n,3), in the depth and (but with `network_size`) size of `picture`."""
        image = restored.astype(np.uint16) * 257 if picture.image.dtype == np.uint16 else restored
        if not self.network_size:
            image = resized(image, *picture.image.shape[1::-1])
        return picture.enlarged(self.restorer.blended(picture.image, image))

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


def is_clip(path: Path) -> bool:
    """Return True if a file is restored frame by frame: clips by their names, and pictures that move."""
    return is_video_file(path) or is_animated(path)


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


def likeness_of(faces: Sequence[FaceResult]) -> list[FaceIdentity]:
    """Return the similarities of the faces of a picture, by their numbers, where measured."""
    return [replace(face.likeness, face=index) for index, face in enumerate(faces) if face.likeness is not None]


def _joined(messages: Sequence[str]) -> str:
    return '; '.join(message for message in messages if message)


def attempt(job: Job, work: Callable[[], T], written: Sequence[str] = ()) -> T | FileRecord:
    """Return the result of some work on a job, or where it fails in any way, the record that says so.

    This is the one place that catches errors of any type: what a file does to decoders and networks is not known, and
    the other files are to go on.

    Args:
        job: whose record it is.
        work: to do.
        written: paths of results that are there when it fails, relative to the output folder.
    """
    try:
        return work()
    except Exception as error:
        return _failed(job, error, list(written))


def _failed(job: Job, error: Exception, written: list[str]) -> FileRecord:
    text = ' '.join(str(error).split()) or type(error).__name__
    if not isinstance(error, FILE_ERRORS):
        logger.debug('%s', job.path, exc_info=error)
        text = f'{UNEXPECTED} ({type(error).__name__}: {text}); please report it with the file'
    elif isinstance(error, MemoryError):
        text = f'{job.path}: not enough memory ({text}); reduce the picture or --batch_size'
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        text = f'{job.path.name}: its path or that of its results is too long; choose a shorter output folder (-o)'
    return FileRecord(str(job.path), FAILED, outputs=written, message=text)
