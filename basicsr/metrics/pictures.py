"""The pictures of an evaluation: folders matched by name, each file read or refused with one message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from torch.utils.data import Dataset

from basicsr.metrics.identity import face_of, input_of
from basicsr.metrics.table import EvaluationError
from basicsr.utils.image import ImageReadError, imread, resized, scan_images, to_8_bits
from basicsr.utils.picture import read_picture


@dataclass
class Folder:
    """The pictures below a folder, by their path without extension.

    Attributes:
        root: the folder.
        files: name to file, sorted.
        problems: files of one name, which are left out.
    """

    root: Path
    files: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def scan(cls, root: str | Path, role: str) -> Folder:
        """Return the pictures below `root`.

        Args:
            root: sub-folders are included.
            role: what the folder is for, for messages.

        Raises:
            EvaluationError: no such folder, or no picture in it.
        """
        root = Path(root)
        try:
            paths = scan_images(root)
        except FileNotFoundError as error:
            raise EvaluationError(f'{role}: {error}') from error
        if not paths:
            raise EvaluationError(f'{role}: {root} holds no picture')
        named: dict[str, list[Path]] = {}
        for path in paths:
            named.setdefault(path.relative_to(root).with_suffix('').as_posix(), []).append(path)
        folder = cls(root)
        for name, files in named.items():
            if len(files) == 1:
                folder.files[name] = files[0]
            else:
                listing = ' and '.join(path.name for path in files)
                folder.problems.append(f'{root}: {name}: {listing} have one name; keep one')
        return folder

    @cached_property
    def _below(self) -> dict[str, list[str]]:
        """Folder to the names of the pictures in it and its sub-folders, so that no name is sought among all."""
        found: dict[str, list[str]] = {}
        for name in self.files:
            for folder in PurePosixPath(name).parents[:-1]:
                found.setdefault(folder.as_posix(), []).append(name)
        return found

    def find(self, name: str) -> Path | None:
        """Return the picture of a restored one: of the same name, or of the input that the name states."""
        names = (name, input_of(name), face_of(name))
        return next((self.files[key] for key in names if key in self.files), None)

    def references(self, name: str) -> list[Path]:
        """Return the references of a restored picture.

        Those of a folder of its name; else, for `<person>/<photo>`, the other photos of the person, because a reference
        is never the photo itself; else the picture of its name, or of the input that the name states.
        """
        folders = [folder for folder in (name, face_of(name)) if folder]
        own = [self.files[key] for folder in folders for key in self._below.get(folder, ())]
        person = name.rpartition('/')[0]
        siblings = [key for key in self._below.get(person, ()) if key.rpartition('/')[0] == person]
        others = [self.files[key] for key in siblings if key not in (name, input_of(name), face_of(name))]
        same = self.find(name)
        return own or others or ([same] if same and not siblings else [])


@dataclass
class Case:
    """One restored picture with what it is compared with, RGB uint8 (H,W,3).

    Attributes:
        name: its path below the folder without extension.
        paths: where they come from, by role: `restored`, `gt`, `lq`, `ref0`, `ref1`, ...
        images: the pictures by role.
        scores: what was computed on reading.
        problems: what is wrong, one message each; without images then.
        changes: what was done to the pictures before they were compared, each once.
    """

    name: str
    paths: dict[str, Path]
    images: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, float | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


DEEP = '16 bits a channel, converted to 8 (divided by 257, rounded)'
RESIZABLE = ('gt', 'restored')
"""Roles that may be resized to the other one's size."""


def read_colour(path: Path) -> tuple[np.ndarray, bool]:
    """Read a picture that metrics can be computed on; a grey one has three equal channels.

    Returns:
        RGB uint8 (H,W,3), and whether the file has 16 bits.

    Raises:
        ImageReadError: damaged; or with transparency, as the result would depend on the background.
    """
    picture = read_picture(path)
    if picture.alpha is not None:
        raise ImageReadError(f'{path}: transparency; put it on a background first')
    return to_8_bits(picture.image), picture.image.dtype != np.uint8


def fit(case: Case, resize: str | None) -> None:
    """Bring the picture of the role `resize` to the size of the other one, by area or bicubic; None changes nothing.

    Raises:
        ImageReadError: sizes differ, and nothing is to be resized or shapes differ, too.
    """
    images = {role: case.images[role] for role in reversed(RESIZABLE) if role in case.images}
    sizes = {role: image.shape[1::-1] for role, image in images.items()}
    if len(set(sizes.values())) < 2:
        return
    listing = ', '.join(f'{role} {width}x{height}' for role, (width, height) in sizes.items())
    problem = f'{case.paths["restored"]}: sizes differ ({listing})'
    (width, height), (other_width, other_height) = sizes.values()
    if width * other_height != height * other_width:
        raise ImageReadError(f'{problem}, and shapes too; crop one like the other')
    if resize is None:
        raise ImageReadError(f'{problem}; --resize gt, or --resize restored, brings one to the size of the other')
    target = sizes[next(role for role in RESIZABLE if role != resize)]
    way = 'by area' if target[0] < sizes[resize][0] else 'bicubic'
    case.images[resize] = resized(images[resize], *target)
    case.changes.append(f'{resize} resized to the size of the other, {way}')


class Cases(Dataset):
    """Restored pictures one by one, with the scores that need no network.

    Args:
        cases: name and paths; left as they are.
        scorers: metric to what computes it from a case; its ValueError becomes a problem of the picture.
        resize: see `fit`.
    """

    def __init__(
        self, cases: list[Case], scorers: Mapping[str, Callable[[Case], float | None]], resize: str | None = None
    ) -> None:
        self.cases = cases
        self.resize = resize
        self.scorers = dict(scorers)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Case:
        case = Case(self.cases[index].name, self.cases[index].paths)
        try:
            for role, path in case.paths.items():
                if role not in RESIZABLE:
                    case.images[role] = imread(path)
                    continue
                case.images[role], deep = read_colour(path)
                if deep and DEEP not in case.changes:
                    case.changes.append(DEEP)
            fit(case, self.resize)
        except (ImageReadError, OSError, MemoryError) as error:
            return Case(case.name, case.paths, problems=[str(error)])
        score(case, self.scorers)
        return case


REFUSED = (ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, MemoryError, cv2.error)
"""Errors of metrics on a picture that they cannot take."""


def score(case: Case, scorers: Mapping[str, Callable[[Case], float | None]]) -> None:
    """Put the scores of a case into it; a metric that refuses the picture leaves a problem instead."""
    for metric, compute in scorers.items():
        try:
            case.scores[metric] = compute(case)
        except REFUSED as error:  # a network for which it is too small, among others
            case.problems.append(f'{case.paths["restored"]}: {metric}: {error}')


def match(restored: Folder, others: Mapping[str, Folder], needed: set[str]) -> tuple[list[Case], list[str]]:
    """Return the restored pictures with their partners, and what has none.

    Args:
        restored: the folder to judge.
        others: folders by role, of `gt`, `lq` and `ref`.
        needed: roles that metrics need; a picture without one of these is left out. `gt` also lists what was not
            restored.
    """
    cases, problems = [], list(restored.problems)
    faces = Counter(face_of(name) for name in restored.files)
    for name, path in restored.files.items():
        paths = {'restored': path}
        missing = []
        picture = face_of(name)
        files = [others[role].files for role in needed if role != 'ref']
        if faces[picture] > 1 and any(picture in known and name not in known for known in files):
            problems.append(f'{path}: one of {faces[picture]} faces of {picture}; keep the one that the picture shows')
            continue
        for role, folder in others.items():
            found = folder.references(name) if role == 'ref' else [folder.find(name)]
            partners = [partner for partner in found if partner is not None]
            if not partners and role in needed:
                missing.append(f'{path}: no picture of that name in {folder.root} (--{role})')
            used = partners if role in needed else partners[:1]  # for the report one is enough
            paths |= {f'ref{i}' if role == 'ref' else role: partner for i, partner in enumerate(used)}
        problems += missing
        if not missing:
            cases.append(Case(name, paths))
    if 'gt' in others:
        tried = {others['gt'].find(name) for name in restored.files}
        left = (path for path in others['gt'].files.values() if path not in tried)
        problems += [f'{path}: not restored in {restored.root}' for path in left]
    return cases, problems
