"""People who are known by their references, and which of them the faces of a picture are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

# A wrong person's identity does more harm than none. Of 243 faces of 11 people reduced to 128 pixels, at 0.3 one in
# 2,400 pairs of a face and another person is taken for a match, at 0.25 one in 200; 87 % of the faces find their person
# under the small degradation of training and 25 % under the large one (89 and 33 % at 0.25). With arcface_mbf512.
# Other recognizers have their own, see `Recognizer.threshold`.
THRESHOLD = 0.3
# Of faces under the large degradation whose confidence is below 0.5, an eighth reach 0.3 with references of their own
# person, so that a low cosine says little. A third of 0.3 is reached by 57 % of them, and by 9 % of strangers.
LOW_CONFIDENCE, LOW_SHARE = 0.5, 1 / 3


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody who is known.

    Attributes:
        name: for messages.
        files: the references; none if the face in the input itself tells who it is.
        vectors: unit embeddings (R,D).
        trust: how far they can be trusted, 0 to 1.
        assumed: the face is too damaged to be recognized, and taken for the only person with references.
        crops: the aligned faces of the references (R,3,S,S) in [-1, 1], where they are kept.
    """

    name: str
    files: tuple[Path, ...]
    vectors: Tensor
    trust: float = 1.0
    assumed: bool = False
    crops: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """The mean embedding (D,), of unit length."""
        return F.normalize(self.vectors.mean(0), dim=0)


@dataclass(frozen=True, eq=False)
class People:
    """Everybody with references.

    Args:
        persons: one or more.
        threshold: smallest cosine of a face and a person's mean embedding at which the face is that person's.
        only: they are the references of one person, who the pictures are of: a face that is alone in its picture and
            too damaged to be recognized is assumed to be that person, see `assume`.
        notes: what was left out, and why.
        strangers: mean cosine of the faces of two people.
    """

    persons: tuple[Person, ...]
    threshold: float = THRESHOLD
    only: bool = False
    notes: list[str] = field(default_factory=list)
    strangers: float = 0.0

    def cosines(self, faces: Tensor) -> Tensor:
        """Cosines (N,P) of unit embeddings (N,D) with the mean references of everybody."""
        return faces @ torch.stack([person.mean for person in self.persons]).T

    def nearest(self, face: Tensor) -> tuple[Person, float]:
        """Return the person most similar to a unit embedding (D,), and the cosine."""
        cosine, place = self.cosines(face[None])[0].max(0)
        return self.persons[int(place)], float(cosine)

    def assume(self, face: Tensor, confidence: Callable[[], float]) -> Person | None:
        """Return the only person, for a face alone in its picture that is too damaged to reach the threshold.

        Args:
            face: its unit embedding (D,), below the threshold.
            confidence: measures the calibrated confidence in the embedding, 0 to 1.

        Returns:
            None if the confidence is not below `LOW_CONFIDENCE`, or the cosine less than `LOW_SHARE` of the way from
            that of strangers to the threshold.
        """
        person, cosine = self.nearest(face)
        least = self.strangers + LOW_SHARE * (self.threshold - self.strangers)
        if not self.only or cosine < least or confidence() >= LOW_CONFIDENCE:
            return None
        return replace(person, assumed=True)

    def match(self, faces: Tensor, taken: Collection[Person] = ()) -> list[Person | None]:
        """Return the person of each face; a person is at most one of them, the most similar.

        Args:
            faces: unit embeddings (N,D).
            taken: who is somebody else in the picture.
        """
        found: list[Person | None] = [None] * len(faces)
        cosines = self.cosines(faces)
        used = set(taken)
        for place in cosines.flatten().argsort(descending=True).tolist():
            face, person = place // len(self.persons), self.persons[place % len(self.persons)]
            if cosines.flatten()[place] < self.threshold:
                break
            if found[face] is None and person not in used:
                found[face] = person
                used.add(person)
        return found


def as_photos(persons: Sequence[Person | None], references: int) -> Tensor | None:
    """Return photographs (N,references,3,S,S) in [-1, 1], zeros where there is none; None without any."""
    sides = {person.crops.shape[-1] for person in persons if person and person.crops is not None}
    if not sides:
        return None
    photos = torch.zeros(len(persons), references, 3, max(sides), max(sides))
    for row, person in enumerate(persons):
        if person is not None and person.crops is not None:
            photos[row, : len(person.crops)] = person.crops
    return photos


def as_identity(persons: Sequence[Person | None], dim: int) -> tuple[Tensor, Tensor]:
    """Embeddings (N,R,D) and how far each can be trusted (N,R), as `IDCodeFormer.forward` takes them.

    Args:
        persons: who the faces are; None for nobody known.
        dim: D.
    """
    most = max([1, *(len(person.vectors) for person in persons if person)])
    identity, mask = torch.zeros(len(persons), most, dim), torch.zeros(len(persons), most)
    for row, person in enumerate(persons):
        if person is not None:
            identity[row, : len(person.vectors)] = person.vectors
            mask[row, : len(person.vectors)] = person.trust
    return identity, mask
