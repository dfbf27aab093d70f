"""Files and folders: what to read, where to write it, and one record for each file, whatever happens to it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from basicsr.inference.image_restorer import FAILED, FaceResult, ImageRestorer
from basicsr.inference.report import FileRecord
from basicsr.utils.image import imread, imwrite, is_image_file, scan_images

FINAL, CROPPED, RESTORED_FACES = 'final_results', 'cropped_faces', 'restored_faces'
SUMMARY = 'summary.json'
RESULT_FOLDERS = (FINAL, CROPPED, RESTORED_FACES)
# What a single file may raise without stopping the others: unreadable pictures, full disks, failures of networks.
FILE_ERRORS = (OSError, ValueError, RuntimeError, MemoryError, cv2.error)


@dataclass(frozen=True)
class Job:
    """A picture to restore.

    Attributes:
        path: where it is.
        name: what its results are called, sub-folders included, without extension; no two jobs share one.
    """

    path: Path
    name: str


def plan_jobs(source: str | os.PathLike, output: str | os.PathLike) -> list[Job]:
    """The pictures of a file or folder. Sub-folders are kept; of files that differ in the extension only, the results
    carry the whole file name. Results of an earlier run below `source` are passed over.

    Raises:
        FileNotFoundError: `source` does not exist, or has no pictures.
        ValueError: `source` lies in one of the folders that results are written to.
    """
    source = Path(source)
    results = [Path(output).resolve() / name for name in RESULT_FOLDERS]
    if any(source.resolve().is_relative_to(folder) for folder in results):
        raise ValueError(f'{source} lies in the results of {output}, and would be written over; choose another -o')
    if source.is_file():
        return [Job(source, source.stem)]
    if not source.is_dir():
        raise FileNotFoundError(f'{source}: no such file or folder')
    found = [path for path in scan_images(source) if not any(path.resolve().is_relative_to(f) for f in results)]
    if not found:
        raise FileNotFoundError(f'{source}: no pictures in it')
    return [
        Job(path, name) for path, name in zip(found, _unique_names([p.relative_to(source) for p in found]), strict=True)
    ]


def skipped_files(source: str | os.PathLike, output: str | os.PathLike) -> list[str]:
    """The files of a folder, hidden ones aside, whose names are not those of pictures; relative to it, sorted."""
    root = Path(source)
    summary = Path(output) / SUMMARY
    found = (path for path in root.rglob('*') if path.is_file() and not is_image_file(path))
    others = (path.relative_to(root) for path in found if path.resolve() != summary.resolve())
    return sorted(path.as_posix() for path in others if not any(part.startswith('.') for part in path.parts))


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Paths without extension where that is unambiguous (also where case does not count), else with it."""
    names = [path.with_suffix('').as_posix() for path in paths]
    while True:
        counts = Counter(name.casefold() for name in names)
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
    """

    restorer: ImageRestorer
    output: Path
    suffix: str = ''
    aligned: bool = False

    def run(self, jobs: Sequence[Job]) -> Iterator[FileRecord]:
        """One record for each job, in order, as they are done. A file that fails does not stop the others."""
        if not self.aligned:
            yield from map(self._whole, jobs)
            return
        step = self.restorer.restorer.batch_size
        for start in range(0, len(jobs), step):
            yield from self._aligned(jobs[start : start + step])

    def _whole(self, job: Job) -> FileRecord:
        written: list[str] = []
        try:
            result = self.restorer.restore(imread(job.path))
            for index, face in enumerate(result.faces):
                written.append(self._write(CROPPED, f'{job.name}_{index:02d}', face.crop))
                if face.restored is not None:
                    written.append(self._write(RESTORED_FACES, f'{job.name}_{index:02d}', face.restored))
            written.append(self._write(FINAL, job.name, result.image))
        except FILE_ERRORS as error:
            return _failed(job, error, written)
        done = sum(face.restored is not None for face in result.faces)
        message = '' if result.faces else 'no face found; the picture was only enlarged'
        return FileRecord(str(job.path), result.status, len(result.faces), done, written, message)

    def _aligned(self, jobs: Sequence[Job]) -> list[FileRecord]:
        """Aligned faces, restored in one batch; unreadable ones are left out of it."""
        read: dict[Job, np.ndarray] = {}
        records: dict[Job, FileRecord] = {}
        for job in jobs:
            try:
                read[job] = _read_square(job.path)
            except FILE_ERRORS as error:
                records[job] = _failed(job, error, [])
        try:
            results = self.restorer.restore_aligned(list(read.values()))
        except FILE_ERRORS as error:
            records |= {job: _failed(job, error, []) for job in read}
        else:
            records |= {job: self._write_aligned(job, face) for job, face in zip(read, results, strict=True)}
        return [records[job] for job in jobs]

    def _write_aligned(self, job: Job, face: FaceResult) -> FileRecord:
        image, message = (face.crop, 'left as it was') if face.restored is None else (face.restored, '')
        try:
            written = [self._write(RESTORED_FACES, job.name, image)]
        except FILE_ERRORS as error:
            return _failed(job, error, [])
        return FileRecord(str(job.path), face.status, 1, int(face.restored is not None), written, message)

    def _write(self, folder: str, name: str, image: np.ndarray) -> str:
        """Write a result as PNG; its path relative to the output folder."""
        relative = f'{folder}/{name}_{self.suffix}.png' if self.suffix else f'{folder}/{name}.png'
        imwrite(self.output / relative, image)
        return relative


def _read_square(path: Path) -> np.ndarray:
    image = imread(path)
    if image.shape[0] != image.shape[1]:
        size = f'{image.shape[1]}x{image.shape[0]}'
        raise ValueError(f'{path}: an aligned face must be square, not {size}; restore it without --has_aligned')
    return image


def _failed(job: Job, error: BaseException, written: list[str]) -> FileRecord:
    text = ' '.join(str(error).split()) or type(error).__name__
    return FileRecord(str(job.path), FAILED, outputs=written, message=text)
