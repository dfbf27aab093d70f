"""Files and folders: what to read, where to write it, and one record for each file, whatever happens to it."""

from __future__ import annotations

import errno
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2

from basicsr.inference.identity_meter import FaceIdentity
from basicsr.inference.image_restorer import FAILED, FaceResult, ImageRestorer
from basicsr.inference.report import FileRecord, describe_faces, why_left
from basicsr.utils.files import LONGEST_NAME, is_video_file, shorten_name
from basicsr.utils.image import to_8_bits
from basicsr.utils.picture import (
    MAX_MEGAPIXELS,
    PICTURE_EXTENSIONS,
    Picture,
    fill_hidden,
    read_picture,
    write_png,
)

FINAL, CROPPED, RESTORED_FACES = 'final_results', 'cropped_faces', 'restored_faces'
SUMMARY = 'summary.json'
RESULT_FOLDERS = (FINAL, CROPPED, RESTORED_FACES)
# What a single file may raise without stopping the others: unreadable pictures, full disks, failures of networks.
FILE_ERRORS = (OSError, ValueError, RuntimeError, MemoryError, cv2.error)


@dataclass(frozen=True)
class Job:
    """A picture or clip to restore.

    Attributes:
        path: where it is.
        name: what its results are called, sub-folders included, without extension; no two jobs share one.
    """

    path: Path
    name: str


def plan_jobs(source: str | os.PathLike, output: str | os.PathLike) -> list[Job]:
    """The pictures and clips of a file or folder. Sub-folders are kept; of files that differ in the extension only,
    the results carry the whole file name. Results of an earlier run below `source` are passed over.

    Links that lead nowhere and folders that cannot be entered are jobs too: reading them says what is wrong.

    Raises:
        FileNotFoundError: `source` does not exist, or has no pictures or clips.
        PermissionError: `source` is a folder that cannot be entered.
        ValueError: `source` lies in one of the folders that results are written to.
    """
    source = Path(source)
    if source.is_symlink() and not source.exists():
        raise FileNotFoundError(f'{source}: the link leads nowhere')
    results = result_folders(output)
    if any(source.resolve().is_relative_to(folder) for folder in results):
        raise ValueError(f'{source} lies in the results of {output}, and would be written over; choose another -o')
    if source.is_file():
        return [Job(source, source.stem)]
    if not source.is_dir():
        raise FileNotFoundError(f'{source}: no such file or folder')
    found, _ = _walk(source, output)
    if source in found:
        raise PermissionError(f'{source}: no permission to look into this folder')
    if not found:
        raise FileNotFoundError(f'{source}: no pictures in it, and no clips')
    return [
        Job(path, name) for path, name in zip(found, _unique_names([p.relative_to(source) for p in found]), strict=True)
    ]


def skipped_files(source: str | os.PathLike, output: str | os.PathLike) -> list[str]:
    """The files of a folder, hidden ones aside, whose names are not those of pictures or clips, and links to folders,
    which are not followed; relative to it, sorted."""
    root = Path(source)
    others = _walk(root, output)[1] if root.is_dir() else []
    return sorted(path.relative_to(root).as_posix() for path in others)


def result_folders(output: str | os.PathLike) -> set[Path]:
    """The folders that results are written to, resolved."""
    return {Path(output).resolve() / name for name in RESULT_FOLDERS}


def _walk(source: Path, output: str | os.PathLike) -> tuple[list[Path], list[Path]]:
    """What is below a folder, sorted: what has the name of a picture or clip, or is a folder that cannot be entered,
    and the rest.

    Passed over are hidden files and folders, folders of results, and the summary.
    """
    results, summary = result_folders(output), Path(output).resolve() / SUMMARY
    pictures: list[Path] = []
    others: list[Path] = []
    for name, folders, files in os.walk(source, onerror=lambda error: pictures.append(Path(error.filename))):
        folder = Path(name)
        if SUMMARY in files:  # of a run with another output
            results |= result_folders(folder)
        folders[:] = [sub for sub in folders if not sub.startswith('.') and (folder / sub).resolve() not in results]
        others += [folder / sub for sub in folders if (folder / sub).is_symlink()]
        for path in (folder / file for file in files if not file.startswith('.')):
            if path.suffix.lower() in PICTURE_EXTENSIONS or is_video_file(path):
                pictures.append(path)
            elif folder.resolve() / path.name != summary:
                others.append(path)
    return sorted(pictures), others


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Paths without extension where that is unambiguous (also where case does not count), else with it."""
    names = [path.with_suffix('').as_posix() for path in paths]
    folders = {parent.as_posix().casefold() for path in paths for parent in path.parents}
    while True:
        counts = Counter(name.casefold() for name in names)
        counts.update(name.casefold() for name in names if f'{name}.png'.casefold() in folders)
        wanted = [
            path.as_posix() if counts[name.casefold()] > 1 else name for path, name in zip(paths, names, strict=True)
        ]
        if wanted == names:
            return names
        names = wanted


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

    Raises:
        ValueError: `suffix` cannot be part of a file's name.
    """

    restorer: ImageRestorer
    output: Path
    suffix: str = ''
    aligned: bool = False
    max_megapixels: float = MAX_MEGAPIXELS
    fps: Fraction | None = None

    def __post_init__(self) -> None:
        if set(self.suffix) & set('/\\\0') or len(os.fsencode(self.suffix)) > LONGEST_NAME // 2:
            raise ValueError(f'suffix {self.suffix!r}: must be part of a file name, without slashes, and short')

    def run(self, jobs: Sequence[Job]) -> Iterator[FileRecord]:
        """One record for each job, in order, as they are done. A file that fails does not stop the others."""
        for clips, group in itertools.groupby(jobs, lambda job: is_video_file(job.path)):
            if clips or not self.aligned:
                yield from map(self._clip if clips else self._whole, group)
                continue
            while batch := list(itertools.islice(group, self.restorer.restorer.batch_size)):
                yield from self._aligned(batch)

    def _whole(self, job: Job) -> FileRecord:
        written: list[str] = []
        try:
            picture = self._read(job.path)
            result = self.restorer.restore(picture.image)
            for index, face in enumerate(result.faces):
                ending = f'_{index:02d}'
                written.append(self._write(CROPPED, job.name, picture.holding(face.crop), ending))
                if face.restored is not None:
                    written.append(self._write(RESTORED_FACES, job.name, picture.holding(face.restored), ending))
            boxes = self.restorer.draw_box and result.faces
            final = replace(picture.enlarged(result.image), grey=picture.grey and not boxes)
            written.append(self._write(FINAL, job.name, final))
        except FILE_ERRORS as error:
            return _failed(job, error, written)
        done = sum(face.restored is not None for face in result.faces)
        found = describe_faces(result.faces)
        nobody = '' if result.faces else 'no face found; the picture was only enlarged'
        message, identity = _joined([nobody, why_left(found), picture.note]), _likeness(result.faces)
        return FileRecord(str(job.path), result.status, len(found), done, written, message, identity, found)

    def _read(self, path: Path) -> Picture:
        """A picture to restore, if it and its result are within the limit."""
        factor = self.restorer.upscale
        network = self.restorer.bg_upsampler
        picture = read_picture(path, max(factor, network.model.scale if network else 0), self.max_megapixels)
        return picture if factor == 1 else fill_hidden(picture)

    def _aligned(self, jobs: Sequence[Job]) -> list[FileRecord]:
        """Aligned faces, restored in one batch; unreadable ones are left out of it."""
        read: dict[Job, Picture] = {}
        records: dict[Job, FileRecord] = {}
        for job in jobs:
            try:
                read[job] = _read_square(job.path, self.max_megapixels)
            except FILE_ERRORS as error:
                records[job] = _failed(job, error, [])
        try:
            results = self.restorer.restore_aligned([to_8_bits(picture.image) for picture in read.values()])
        except FILE_ERRORS as error:
            records |= {job: _failed(job, error, []) for job in read}
        else:
            pairs = zip(read.items(), results, strict=True)
            records |= {job: self._write_aligned(job, picture, face) for (job, picture), face in pairs}
        return [records[job] for job in jobs]

    def _write_aligned(self, job: Job, picture: Picture, face: FaceResult) -> FileRecord:
        left = face.restored is None
        try:
            result = picture if face.restored is None else picture.enlarged(face.restored)
            written = [self._write(RESTORED_FACES, job.name, result)]
        except FILE_ERRORS as error:
            return _failed(job, error, [])
        found = describe_faces([face])
        message, identity = _joined([why_left(found), picture.note]), _likeness([face])
        return FileRecord(str(job.path), face.status, 1, int(not left), written, message, identity, found)

    def _write(self, folder: str, name: str, picture: Picture, ending: str = '') -> str:
        """Write a result as PNG; its path relative to the output folder."""
        relative = self._place(folder, name, '.png', ending)
        write_png(self.output / relative, picture)
        return relative

    def _clip(self, job: Job) -> FileRecord:
        """A clip; its result is an mp4 file."""
        from basicsr.video.video_restorer import VideoRestorer  # imports PyAV, which pictures do not need

        try:
            relative = self._place(FINAL, job.name, '.mp4')
            restorer = VideoRestorer(self.restorer, self.aligned, progress=True)
            result = restorer.restore_file(job.path, self.output / relative, self.fps)
        except FILE_ERRORS as error:
            return _failed(job, error, [])
        numbers = (result.faces, result.restored)
        return FileRecord(str(job.path), result.status, *numbers, [relative], result.message, result.identity)

    def _place(self, folder: str, name: str, extension: str, ending: str = '') -> str:
        """Where a result goes, relative to the output folder. A name that would be too long is shortened.

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


def _read_square(path: Path, max_megapixels: float) -> Picture:
    picture = read_picture(path, 1, max_megapixels)
    height, width = picture.image.shape[:2]
    if height != width:
        size = f'{width}x{height}'
        raise ValueError(f'{path}: an aligned face must be square, not {size}; restore it without --has_aligned')
    return picture


def _likeness(faces: Sequence[FaceResult]) -> list[FaceIdentity]:
    return [replace(face.likeness, face=index) for index, face in enumerate(faces) if face.likeness is not None]


def _joined(messages: Sequence[str]) -> str:
    return '; '.join(message for message in messages if message)


def _failed(job: Job, error: BaseException, written: list[str]) -> FileRecord:
    text = ' '.join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        text = f'{job.path.name}: its path or that of its results is too long; choose a shorter output folder (-o)'
    return FileRecord(str(job.path), FAILED, outputs=written, message=text)
