"""Folders of aligned faces, restored once: what is there already, of the same weights and settings, is kept."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from basicsr.inference.face_restorer import FaceRestorer
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.jobs import Job
from basicsr.inference.people import Person
from basicsr.metrics.pictures import Folder
from basicsr.recognition.choose import choose_recognizer
from basicsr.utils.download import sha256_of
from basicsr.utils.folders import weights_folder
from basicsr.utils.image import imread
from experiments.references import draw, own_references
from experiments.restoring import restore_faces

SMALLEST, LARGEST = 64, 512  # sides of references of mixed size (RIDFR, section 4.1)


@dataclass(frozen=True)
class Recipe:
    """Settings of a folder's restoration.

    Attributes:
        weights: of a CodeFormer or IDCodeFormer.
        w: fidelity weight.
        adain: see `FaceRestorer.restore`.
        references: most that a picture is restored with, each by itself; 0 for none. With 1 it is drawn by the name.
        side: of the references, pixels; 0 for sides drawn by the names from `SMALLEST` to `LARGEST`, None for as is.
        recognizer: of the references, as `choose_recognizer` takes it; None for the one that the weights name.
        device: see `FaceRestorer`.
    """

    weights: Path
    w: float = 0.8
    adain: bool = True
    references: int = 0
    side: int | None = None
    recognizer: str | None = None
    device: str = 'auto'

    def folder(self, name: str, source: Path) -> str:
        """Return a folder's name with the sum of all that the restorations of a folder depend on, weights above all."""
        given = Path(self.recognizer or '')
        told = sha256_of(given) if given.is_file() else self.recognizer
        settings = [sha256_of(self.weights), self.w, self.adain, self.references, self.side, told]
        settings.append(str(source.resolve()))
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:10]
        return f'{re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()}-{digest}'


def planned(names: Sequence[str], recipe: Recipe, photos: Folder | None) -> dict[str, tuple[str, Path | None]]:
    """Name of each restoration to its picture and its reference, one of `photos`.

    Raises:
        ValueError: a picture has no references, and needs one.
    """
    if photos is None or not recipe.references:
        return {name: (name, None) for name in names}
    plan: dict[str, tuple[str, Path | None]] = {}
    one = recipe.references == 1
    for name in names:
        found = own_references(photos, name, recipe.references, 'drawn' if one else 'first')
        if not found:
            raise ValueError(f'{name}: no reference of that name or person')
        plan |= {name if one else f'{name}__{path.stem}': (name, path) for path in found}
    return plan


def restore_folder(recipe: Recipe, inputs: Mapping[str, Path], photos: Folder | None, out: Path) -> list[str]:
    """Restore aligned faces into `out` as PNG, but for those that are there and not older than what they are made of.

    Args:
        recipe: the weights, and all settings.
        inputs: pictures by name.
        photos: aligned faces of people, where there are references.
        out: named after the recipe (`Recipe.folder`): what is in it is taken to be of the same one. Other PNG files in
            it, of inputs that are no more, are removed.

    Returns:
        What could not be restored, one message each.

    Raises:
        OSError, ValueError, RuntimeError: weights or a recognizer that cannot be used, see `FaceRestorer`; a picture
            without reference; nothing could be restored. What was restored before stays.
    """
    plan = planned(list(inputs), recipe, photos)
    for path in set(out.rglob('*.png')) - {out / f'{name}.png' for name in plan}:
        path.unlink()
    jobs = [
        Job(inputs[source], name)
        for name, (source, path) in plan.items()
        if _is_older(out / f'{name}.png', inputs[source], path)
    ]
    if not jobs:
        return []
    restorer = FaceRestorer(recipe.weights, recipe.device)
    guide = _guide(recipe, restorer) if recipe.references else None

    def who(batch: Sequence[Job]) -> list[Person]:
        assert guide is not None
        paths = {job.name: path for job in batch if (path := plan[job.name][1])}
        vectors = guide.embed([_reduced(imread(path), name, recipe.side) for name, path in paths.items()])
        return [Person(name, (path,), vectors[i : i + 1]) for i, (name, path) in enumerate(paths.items())]

    problems = restore_faces(restorer, jobs, out, recipe.w, recipe.adain, guide, who if guide else None)
    if len(problems) == len(jobs):
        raise ValueError(problems[0])
    return problems


def _is_older(result: Path, source: Path, reference: Path | None) -> bool:
    made_of = [path.stat().st_mtime for path in (source, reference) if path]
    return not result.is_file() or result.stat().st_mtime < max(made_of)


def _guide(recipe: Recipe, restorer: FaceRestorer) -> IdentityConditioner:
    """Return what tells a network of references.

    Raises:
        ValueError: it takes none, or those of another recognizer.
    """
    if not restorer.takes_identity:
        raise ValueError(f'{recipe.weights}: a CodeFormer, which takes no references; give an IDCodeFormer')
    work, (trained_with, dim) = 'restoring with references', restorer.told_by
    embedder = choose_recognizer(recipe.recognizer, trained_with, weights_folder(), dim, work)
    if embedder is None or embedder.dim != dim:
        found = f'; {embedder.name} gives {embedder.dim}' if embedder else ''
        raise ValueError(
            f'{work} needs a face recognizer of {dim} numbers (the network was trained with '
            f'{trained_with or "one that it does not name"}){found}: name it with --reference_recognizer'
        )
    return IdentityConditioner(embedder.to(restorer.device), tells_people=True)


def _reduced(face: np.ndarray, name: str, side: int | None) -> np.ndarray:
    """Return a reference, RGB uint8, reduced to the recipe's side, or for 0 to one that the name draws."""
    side = SMALLEST + draw(name, LARGEST - SMALLEST + 1) if side == 0 else side
    if side is None or side >= face.shape[0]:
        return face
    return cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
