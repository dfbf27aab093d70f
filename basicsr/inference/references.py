"""References: photographs of the people who are to be restored, found, cut out like any face, and checked.

What cannot tell who somebody is gets left out, with a note that names the file and says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from basicsr.faces.detection import FaceDetector
from basicsr.faces.geometry import align_face, crop_side
from basicsr.faces.sharpness import measure_sharpness
from basicsr.inference.people import THRESHOLD, People, Person
from basicsr.inference.reference_cache import ReferenceCache, Seen
from basicsr.recognition.choose import SIDE, embed_faces
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.image import ImageReadError, to_8_bits, to_tensor
from basicsr.utils.picture import PICTURE_EXTENSIONS, read_picture
from basicsr.utils.progress import progress

SMALLEST = 64  # pixels of the aligned face; networks are trained with references down to it
MAIN_FACE = 1.5  # of two faces the larger is the one meant, if its eye distance is this multiple of the other's
# A face must have detail beyond what 32 pixels hold. Of sharp faces reduced to 48 pixels all have 0.25 or more, and
# their cosine with the original is 0.88; of those reduced to 32 pixels, 95 % have below 0.17, and the cosine is 0.63.
BLUR_SIDE, LEAST_DETAIL = 32, 0.2
# Of 243 sharp photographs of 11 people, pairs of one person have cosines above 0.27 (99 %; the least is 0.13), pairs of
# two people below 0.24 (99 %).
SAME_PERSON = 0.2


class BadReferenceError(IDCodeFormerError, ValueError):
    """A photograph that tells nothing of a person, or references that leave nobody; the message says what to do."""


def gather(paths: Sequence[str | os.PathLike]) -> tuple[dict[str, list[Path]], bool]:
    """Return the photographs of each person, and whether they are all of one person, who the pictures are then of.

    Args:
        paths: photographs and folders of one person; or folders with a sub-folder for each person.

    Raises:
        FileNotFoundError: a path is not there, or a folder holds no pictures.
        BadReferenceError: photographs beside sub-folders, so that it is not clear who they show.
    """
    photos: list[Path] = []
    people: dict[str, list[Path]] = {}
    for path in map(Path, paths):
        if path.is_file():
            photos.append(path)
        elif not path.is_dir():
            raise FileNotFoundError(f'--ref {path}: no such file or folder')
        else:
            own = [file for file in sorted(path.iterdir()) if _is_photo(file)]
            below = {sub: _photos_below(sub) for sub in sorted(path.iterdir()) if sub.is_dir() and sub.name[0] != '.'}
            if not own and not any(below.values()):
                raise FileNotFoundError(f'--ref {path}: no pictures in it')
            photos += own
            for sub, files in below.items():
                people.setdefault(sub.name, []).extend(files)
    if photos and any(people.values()):
        raise BadReferenceError(
            f'--ref: {photos[0]} lies beside folders of people ({", ".join(sorted(people)[:3])}), so that it is not '
            'clear who it shows; give photographs of one person, or a folder with a sub-folder for each person'
        )
    if not photos:
        return people, False
    first = Path(paths[0])
    return {first.name if len(paths) == 1 and first.is_dir() else 'reference': photos}, True


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_EXTENSIONS and path.name[0] != '.' and path.is_file()


def _photos_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob('*') if _is_photo(path))


@dataclass(frozen=True)
class ReferenceReader:
    """Makes people of photographs.

    Args:
        detector: finds the faces.
        embedder: tells who they are.
        threshold: of the people, see `People`.
        cache: keeps the embeddings for the next run; None looks at every photograph.
        keeps_photos: people keep the aligned faces of their references, 0.8 MB each, for networks that are shown them.
    """

    detector: FaceDetector
    embedder: FaceEmbedder
    threshold: float = THRESHOLD
    cache: ReferenceCache | None = None
    keeps_photos: bool = False

    def __call__(self, paths: Sequence[str | os.PathLike]) -> People:
        """Everybody in `paths`, see `gather`.

        Raises:
            FileNotFoundError: see `gather`.
            BadReferenceError: see `gather`; or no reference of anybody can be used, with the reasons.
        """
        photos, only = gather(paths)
        notes: list[str] = []
        with progress(sum(map(len, photos.values())), 'reference') as step:
            found = [self._person(name, files, notes, step) for name, files in photos.items()]
        persons = tuple(person for person in found if person is not None)
        if not persons:
            raise BadReferenceError('no reference can be used: ' + '; '.join(notes))
        return People(persons, self.threshold, only, notes, self.embedder.recognizer.strangers)

    def _person(self, name: str, files: Sequence[Path], notes: list[str], step: Callable[[], object]) -> Person | None:
        """Somebody, or None if no reference can be used; what was left out goes to `notes`."""
        seen: dict[Path, Seen] = {}
        crops: dict[Path, np.ndarray] = {}
        for file in files:
            known = self.cache.read(file) if self.cache and not self.keeps_photos else None
            if known is None:
                known, crop = self._look_at(file)
                crops |= {} if crop is None else {file: crop}
            notes += [f'{file}{known.remark}'] if known.remark else []
            seen[file] = known
            step()
        for file, vector in zip(crops, embed_faces(self.embedder, list(crops.values())), strict=True):
            seen[file] = replace(seen[file], vector=vector)
            self._keep(file, seen[file])
        kept = _agreeing(name, {file: one.vector for file, one in seen.items() if one.vector is not None}, notes)
        if not kept:
            notes.append(f"nobody is restored as '{name}': no reference is left")
            return None
        faces = torch.stack([to_tensor(crops[file]) for file in kept]) if self.keeps_photos else None
        return Person(name, tuple(kept), torch.stack(list(kept.values())), crops=faces)

    def _look_at(self, file: Path) -> tuple[Seen, np.ndarray | None]:
        """Return the remark on a photograph, and its face where it tells who somebody is; see `_cut_out`."""
        notes: list[str] = []
        try:
            crop = self._cut_out(file, notes)
        except (BadReferenceError, ImageReadError) as error:
            seen = Seen(remark=f'{error}; left out'.removeprefix(str(file)))
            if isinstance(error, BadReferenceError):  # a file that cannot be read may be readable next time
                self._keep(file, seen)
            return seen, None
        return Seen(remark=''.join(notes).removeprefix(str(file))), crop

    def _keep(self, file: Path, seen: Seen) -> None:
        if self.cache is not None:
            self.cache.write(file, seen)

    def _cut_out(self, file: Path, notes: list[str]) -> np.ndarray:
        """Return the aligned face, RGB uint8 (SIDE,SIDE,3).

        Raises:
            ImageReadError: the file is damaged, or no picture.
            BadReferenceError: it does not tell who somebody is.
        """
        image = to_8_bits(read_picture(file).image)
        faces = self.detector.detect(image)
        if not faces:
            raise BadReferenceError(
                f'{file}: no face found; give a photograph with the whole face and some room around it'
            )
        if len(faces) > 1:
            if faces[0].eye_distance < MAIN_FACE * faces[1].eye_distance:
                raise BadReferenceError(
                    f'{file}: {len(faces)} faces, and it is not clear who is meant; cut out the one'
                )
            notes.append(f'{file}: {len(faces)} faces; the largest is taken')
        if not faces[0].consistent:
            raise BadReferenceError(
                f'{file}: two looks at the face disagree on where its eyes and mouth are; give a clearer photograph'
            )
        landmarks = faces[0].landmarks
        own_size = crop_side(landmarks)
        if own_size < SMALLEST:
            raise BadReferenceError(
                f'{file}: the face with its surroundings has {own_size:.0f} pixels; give a photograph in which it has '
                f'{SMALLEST} or more'
            )
        crop = align_face(image, landmarks, SIDE)[0]
        if measure_sharpness(crop, BLUR_SIDE).detail < LEAST_DETAIL:
            raise BadReferenceError(f'{file}: the face is too blurred to tell who it is; give a sharper photograph')
        return crop


def _agreeing(name: str, vectors: dict[Path, Tensor], notes: list[str]) -> dict[Path, Tensor]:
    """Return the references that show the same person as the most typical of them; none, if they are no majority."""
    if not vectors:
        return {}
    stacked = torch.stack(list(vectors.values()))
    cosines = stacked @ stacked.T  # (R,R)
    agree = cosines >= SAME_PERSON
    number = agree.sum(1)
    typical = int(cosines.sum(1).masked_fill(number < number.max(), -torch.inf).argmax())
    kept = {file: vector for file, vector, same in zip(vectors, stacked, agree[typical], strict=True) if same}
    others = {file: cosines[typical, row] for row, file in enumerate(vectors) if file not in kept}
    if 2 * len(kept) <= len(vectors):
        one, other = (', '.join(map(str, files)) for files in sorted((list(kept), list(others))))
        notes.append(
            f"'{name}': the references show different people, and it is not clear who is meant: {one} against {other}; "
            'remove the wrong ones; all left out'
        )
        return {}
    for file, cosine in others.items():
        notes.append(
            f"{file}: not the person whom most references of '{name}' show (cosine {cosine:.2f} with "
            f'{list(vectors)[typical].name}); remove it, or put it into a folder of its own; left out'
        )
    return kept
