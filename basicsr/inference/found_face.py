"""Faces of a picture: found, recognized, restored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from torch import Tensor

from basicsr.faces.face import Face
from basicsr.faces.geometry import crop_side, scaling
from basicsr.inference.identity_meter import FaceIdentity
from basicsr.inference.people import Person

RESTORED, ALREADY_SHARP, UNCERTAIN, NO_FACE, FAILED = 'restored', 'already_sharp', 'uncertain', 'no_face', 'failed'
LEFT_OUT, RESTORED_BLIND = 'left_out', 'restored_blind'


@dataclass(frozen=True, eq=False)
class FoundFace:
    """Face that was found in a picture, judged and cut out.

    Attributes:
        crop: the aligned face, RGB uint8 (size,size,3).
        face: where it was found; None for a picture that was given aligned.
        status: `restored` where it is to be restored, `already_sharp`, `uncertain` where two looks disagree on the
            landmarks, or `left_out` where the user chose others.
        matrix: from the original picture to `crop`, (2,3).
        whole: the picture is this one aligned face and nothing else.
        grey: the crop has no colour, and the restored face is to have none.
        reason: why it is left alone.
    """

    crop: np.ndarray
    face: Face | None
    status: str
    matrix: np.ndarray = field(default_factory=lambda: scaling(1))
    whole: bool = False
    grey: bool = False
    reason: str = ''

    @property
    def size(self) -> float:
        """Side in pixels of the picture that the aligned face covers."""
        return self.crop.shape[0] if self.face is None else crop_side(self.face.landmarks)

    def recognized(self, person: Person | None, embedding: Tensor | None) -> RecognizedFace:
        """Return the face with what a recognizer says of it, see `RecognizedFace`."""
        return RecognizedFace(**self._found(), person=person, embedding=embedding)

    def with_restoration(
        self, restored: np.ndarray, w: float, person: Person | None = None, likeness: FaceIdentity | None = None
    ) -> RestoredFace:
        """Return the face with its restoration, see `RestoredFace`."""
        return RestoredFace(**self._found(), restored=restored, w=w, person=person, likeness=likeness)

    def _found(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in fields(FoundFace)}


@dataclass(frozen=True, eq=False)
class RecognizedFace(FoundFace):
    """Face that a recognizer has seen.

    Attributes:
        person: who it is; None for nobody who is known.
        embedding: of the crop (D,), which its restoration is compared with; None where that is not to be measured.
    """

    person: Person | None = field(kw_only=True)
    embedding: Tensor | None = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class RestoredFace(FoundFace):
    """Face that was restored.

    Attributes:
        restored: the restored face, RGB uint8 (n,n,3).
        w: fidelity weight of the restoration.
        person: who it is; None for nobody who is known.
        likeness: its similarity before and after, where that was measured.
    """

    restored: np.ndarray = field(kw_only=True)
    w: float = field(kw_only=True)
    person: Person | None = field(default=None, kw_only=True)
    likeness: FaceIdentity | None = field(default=None, kw_only=True)


def restored_of(faces: Iterable[FoundFace]) -> list[RestoredFace]:
    """Return those of `faces` that were restored."""
    return [face for face in faces if isinstance(face, RestoredFace)]
