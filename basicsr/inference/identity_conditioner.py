"""Identity of the people in pictures: conditions a network, and measures its restorations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basicsr.inference.code_search import CodeSearch
from basicsr.inference.people import People, Person, as_identity, as_photos
from basicsr.recognition.choose import embed_faces
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.image import resized, to_tensor
from basicsr.utils.numerics import check_finite

OWN = 'input'


@dataclass(frozen=True, eq=False)
class IdentityConditioner:
    """Says who faces are, and how much of that is left after restoration.

    Args:
        embedder: the recognizer.
        people: those with references.
        own: aligned faces (N,3,H,W) in [-1, 1] to embeddings (N,D) and how far each can be trusted (N,), where the
            recognizer is calibrated; for damaged faces alone in a picture, and with `tells_own` for faces
            without reference.
        size: side at which `own` is shown faces, pixels.
        tells_people: the network is told who has references.
        tells_own: the network is told what `own` says of the others.
        id_scale: strength of its identity styling.
        search_steps: of the search for codes that show who has references, see `CodeSearch`; 0 for none.
        notes: what the user should know: references that were left out, and why.
        tells_photos: the network is shown the photographs of the references, too.
    """

    embedder: FaceEmbedder
    people: People | None = None
    own: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    size: int = 256
    tells_people: bool = False
    tells_own: bool = False
    id_scale: float = 1.0
    search_steps: int = 0
    notes: Sequence[str] = ()
    tells_photos: bool = False

    @property
    def faithful(self) -> float:
        """Cosine below which a person is hardly to be known again, on the recognizer's scale."""
        return self.embedder.recognizer.threshold

    def embed(self, crops: Sequence[np.ndarray]) -> Tensor:
        """Return unit vectors (N,D) of aligned faces, RGB uint8 (n,n,3)."""
        return embed_faces(self.embedder, crops)

    def recognize(
        self, crops: Sequence[np.ndarray], vectors: Tensor, alone: bool, taken: Collection[Person] = ()
    ) -> list[Person | None]:
        """Return the person of each face: one with references, else one by the face itself, else None.

        Args:
            crops: the aligned faces, RGB uint8.
            vectors: their embeddings (N,D).
            alone: there is one face, and surely no other.
            taken: who is somebody else in the picture.
        """
        found: list[Person | None] = [None] * len(crops)
        if self.people is not None:
            found = self.people.match(vectors, taken)
            if alone and found == [None] and self.own is not None:
                found = [self.people.assume(vectors[0], lambda: self.confidence(crops)[0])]
        if not self.tells_own:
            return found
        nobody = [place for place, person in enumerate(found) if person is None]
        for place, person in zip(nobody, self._by_itself([crops[place] for place in nobody]), strict=True):
            found[place] = person
        return found

    def confidence(self, crops: Sequence[np.ndarray]) -> list[float]:
        """Calibrated confidence in the identity of damaged faces, 0 to 1; `own` is needed."""
        return [person.trust for person in self._by_itself(crops)]

    @torch.inference_mode()
    def _by_itself(self, crops: Sequence[np.ndarray]) -> list[Person]:
        """Return persons whose embeddings are of the faces themselves."""
        if self.own is None or not crops:
            return []
        shown = [resized(crop, self.size, self.size) for crop in crops]
        device = next(self.embedder.network.parameters()).device
        vectors, trust = self.own(torch.stack([to_tensor(face) for face in shown]).to(device))
        check_finite(torch.cat([vectors.float(), trust.float()[:, None]], 1), 'what reads identity from the input')
        return [
            Person(OWN, (), vector[None], value)
            for vector, value in zip(vectors.float().cpu(), trust.tolist(), strict=True)
        ]

    def condition(self, persons: Sequence[Person | None], search: bool = True) -> dict[str, Any]:
        """Return the identity arguments of `FaceRestorer.restore`; none where nothing is known.

        Args:
            persons: who they are.
            search: codes may be searched.
        """
        told = [
            person if person and (self.tells_people if person.files else self.tells_own) else None for person in persons
        ]
        known: dict[str, Any] = {}
        if any(told):
            identity, mask = as_identity(told, self.embedder.dim)
            known = {'identity': identity, 'mask': mask, 'id_scale': self.id_scale}
            photos = as_photos(told, identity.shape[1]) if self.tells_photos else None
            known |= {} if photos is None else {'photos': photos}
        if search and self.search_steps and any(person and person.files for person in persons):
            nobody = torch.zeros(self.embedder.dim)
            targets = [person.mean if person and person.files else nobody for person in persons]
            known['search'] = CodeSearch(self.embedder, torch.stack(targets), self.search_steps)
        return known

    def without_effect(self, clip: bool = False) -> str:
        """Return why references change nothing in a picture or clip; empty if they do, or there are none.

        Args:
            clip: codes are not searched in clips, as they would flicker.
        """
        if self.people is None or self.tells_people or (self.search_steps and not clip):
            return ''
        search = 'codes are not searched in clips' if clip and self.search_steps else 'the search is off (--id_search)'
        return f'--ref had no effect: the network is not told who people are, and {search}'

    @staticmethod
    def target(seen: Tensor, person: Person | None) -> Tensor:
        """Return the embedding (D,) to compare a restoration with: of the person's references, else of the input.

        Args:
            seen: embedding of the input (D,).
            person: who it is.
        """
        return person.mean if person and person.files else seen
