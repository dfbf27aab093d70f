"""List the pictures and clips of files and folders, each with the name of its results."""

from __future__ import annotations

import glob
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from basicsr.utils.files import is_video_file, user_path
from basicsr.utils.picture import PICTURE_EXTENSIONS, is_animated
from basicsr.utils.picture_formats import EXTENSIONS

FINAL, CROPPED, RESTORED_FACES = 'final_results', 'cropped_faces', 'restored_faces'
SUMMARY = 'summary.json'
SUMMARY_NAME = re.compile(r'summary(_\d+_of_\d+)?\.json')
RESULT_FOLDERS = (FINAL, CROPPED, RESTORED_FACES)
RESULT_ENDINGS = ('.mp4', '.mov', *(f'.{extension}' for extension in EXTENSIONS))


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


def is_clip(path: Path) -> bool:
    """Return True if a file is restored frame by frame: clips by their names, and pictures that move."""
    return is_video_file(path) or is_animated(path)
