"""People who are known by their references, and which of them the faces of a picture are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

# A wrong person's identity does more harm than none. Of 243 faces of 11 people reduced to 128 pixels, at 0.3 one in
# 2,400 pairs of a face and another person is taken for a match, at 0.25 one in 200; 87 % of the faces find their person
# under the small degradation of training and 25 % under the large one (89 and 33 % at 0.25). With arcface_mbf512.
THRESHOLD = 0.3


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody who is known.

    Attributes:
        name: for messages.
        files: the references; none if the face in the input itself tells who it is.
        vectors: unit embeddings (R,D).
        trust: how far they can be trusted, 0 to 1.
    """

    name: str
    files: tuple[Path, ...]
    vectors: Tensor
    trust: float = 1.0

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
        only: they are the references of one person, who the pictures are of: a face that is alone in its picture is
            that person, whatever its cosine.
        notes: what was left out, and why.
    """

    persons: tuple[Person, ...]
    threshold: float = THRESHOLD
    only: bool = False
    notes: list[str] = field(default_factory=list)

    def match(self, faces: Tensor, alone: bool, taken: Collection[Person] = ()) -> list[Person | None]:
        """Who the faces of one picture are; a person is at most one of them, the most similar.

        Args:
            faces: unit embeddings (N,D).
            alone: there is one face, and surely no other.
            taken: who is somebody else in the picture.
        """
        if self.only and alone:
            return [self.persons[0]]
        found: list[Person | None] = [None] * len(faces)
        cosines = faces @ torch.stack([person.mean for person in self.persons]).T  # (N,P)
        used = set(taken)
        for place in cosines.flatten().argsort(descending=True).tolist():
            face, person = place // len(self.persons), self.persons[place % len(self.persons)]
            if cosines.flatten()[place] < self.threshold:
                break
            if found[face] is None and person not in used:
                found[face] = person
                used.add(person)
        return found


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
