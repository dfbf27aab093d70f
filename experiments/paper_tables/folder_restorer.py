"""Folders of aligned faces, restored once: what is there already, of the same weights and settings, is kept."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor
from tqdm import tqdm

from basicsr.inference.face_restorer import FaceRestorer
from basicsr.recognition.choose import choose_recognizer, embed_faces
from basicsr.utils.download import sha256_of
from basicsr.utils.folders import weights_folder
from basicsr.utils.image import ImageReadError, imread, imwrite

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


def draw(name: str, end: int) -> int:
    """Return a number from 0 to `end` - 1 that depends on the name only."""
    return int(np.random.default_rng(zlib.crc32(name.encode())).integers(end))


def planned(
    names: Sequence[str], recipe: Recipe, references_of: Callable[[str], Sequence[Path]]
) -> dict[str, tuple[str, Path | None]]:
    """Name of each restoration to its picture and its reference.

    Raises:
        ValueError: a picture has no references, and needs one.
    """
    plan: dict[str, tuple[str, Path | None]] = {}
    for name in names:
        if not recipe.references:
            plan[name] = (name, None)
            continue
        found = sorted(references_of(name))
        if not found:
            raise ValueError(f'{name}: no reference of that name or person')
        if recipe.references == 1:
            plan[name] = (name, found[draw(name, len(found))])
        else:
            plan |= {f'{name}__{path.stem}': (name, path) for path in found[: recipe.references]}
    return plan


def restore_folder(
    recipe: Recipe, inputs: Mapping[str, Path], references_of: Callable[[str], Sequence[Path]], out: Path
) -> list[str]:
    """Restore aligned faces into `out` as PNG, but for those that are there and not older than what they are made of.

    Args:
        recipe: the weights, and all settings.
        inputs: pictures by name.
        references_of: aligned faces of a picture's person.
        out: named after the recipe (`Recipe.folder`): what is in it is taken to be of the same one. Other PNG files in
            it, of inputs that are no more, are removed.

    Returns:
        What could not be read, one message each.

    Raises:
        OSError, ValueError, RuntimeError: weights or a recognizer that cannot be used, see `FaceRestorer`; a picture
            without reference; no room for the results. What was restored before stays.
    """
    plan = planned(list(inputs), recipe, references_of)
    for path in set(out.rglob('*.png')) - {out / f'{name}.png' for name in plan}:
        path.unlink()
    todo = [name for name, (source, path) in plan.items() if _is_older(out / f'{name}.png', inputs[source], path)]
    if not todo:
        return []
    restorer = FaceRestorer(recipe.weights, recipe.device)
    know = _Known(recipe, restorer) if recipe.references else None
    problems: list[str] = []
    for start in tqdm(range(0, len(todo), restorer.batch_size), desc=out.name, unit='batch', disable=None):
        faces: dict[str, np.ndarray] = {}
        known: dict[str, np.ndarray] = {}
        for name in todo[start : start + restorer.batch_size]:
            source, reference = plan[name]
            try:
                known |= {name: know.read(name, reference)} if know and reference else {}
                faces[name] = imread(inputs[source])
            except ImageReadError as error:
                problems.append(str(error))
        identity = know.embed([known[name] for name in faces]) if know else None
        restored = restorer.restore(list(faces.values()), recipe.w, recipe.adain, identity)
        for name, face in zip(faces, restored, strict=True):
            imwrite(out / f'{name}.png', face)
    return problems


def _is_older(result: Path, source: Path, reference: Path | None) -> bool:
    made_of = [path.stat().st_mtime for path in (source, reference) if path]
    return not result.is_file() or result.stat().st_mtime < max(made_of)


class _Known:
    """References, as the network is told of them: one a face."""

    def __init__(self, recipe: Recipe, restorer: FaceRestorer) -> None:
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
        self.embedder, self.side = embedder.to(restorer.device), recipe.side

    def embed(self, faces: Sequence[np.ndarray]) -> Tensor:
        """Return unit vectors (N,D)."""
        return embed_faces(self.embedder, faces)

    def read(self, name: str, path: Path) -> np.ndarray:
        """Return the reference of a face, RGB uint8, shrunk as the recipe says; the face's name draws its side."""
        face = imread(path)
        side = SMALLEST + draw(name, LARGEST - SMALLEST + 1) if self.side == 0 else self.side
        if side is None or side >= face.shape[0]:
            return face
        return cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
