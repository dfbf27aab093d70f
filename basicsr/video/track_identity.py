"""Identity of the faces of a clip: matched for each track until a person is found, and measured now and then."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.inference.found_face import RESTORED, FoundFace, RecognizedFace, RestoredFace
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.identity_meter import FaceIdentity, average
from basicsr.inference.people import Person

MEASURE_EVERY = 5  # frames of a track
Faces = Mapping[int, FoundFace]  # those of a frame, by track


class TrackIdentities:
    """Gives each track of a clip one identity: from its first frames, or later if those tell of nobody with references.

    Args:
        guide: knows the people.
    """

    def __init__(self, guide: IdentityConditioner) -> None:
        self.guide = guide
        self._persons: dict[int, Person | None] = {}
        self._sightings: Counter[int] = Counter()
        self._measured: dict[int, list[FaceIdentity]] = defaultdict(list)

    def recognize(self, frames: Sequence[Faces]) -> list[dict[int, RecognizedFace]]:
        """Return the faces with their people, and in some frames with an embedding, so that similarity is measured."""
        fresh = self._embed_new(frames)
        for faces in frames:
            self._decide({track: face for track, face in faces.items() if track not in self._persons}, faces, fresh)
        return [{track: self._told(track, face, faces) for track, face in faces.items()} for faces in frames]

    def note(self, faces: Faces) -> None:
        """Keep what was measured on a restored frame."""
        for track, face in faces.items():
            if isinstance(face, RestoredFace) and face.likeness is not None:
                self._measured[track].append(face.likeness)

    def report(self) -> list[FaceIdentity]:
        """Of every track that was measured, in order."""
        people, faithful = self.guide.people, self.guide.faithful
        return [average(track, frames, people, faithful) for track, frames in sorted(self._measured.items())]

    def _embed_new(self, frames: Sequence[Faces]) -> dict[int, Tensor]:
        """Return the mean embedding over these frames of each track that is new."""
        new = [(track, face) for faces in frames for track, face in faces.items() if track not in self._persons]
        vectors: dict[int, list[Tensor]] = defaultdict(list)
        for (track, _), vector in zip(new, self.guide.embed([face.crop for _, face in new]), strict=True):
            vectors[track].append(vector)
        return {track: F.normalize(sum(found[1:], found[0]), dim=0) for track, found in vectors.items()}

    def _decide(self, new: Faces, faces: Faces, vectors: Mapping[int, Tensor]) -> None:
        """Match the new faces of a frame; a person who is in it already is left out."""
        if not new:
            return
        stacked = torch.stack([vectors[track] for track in new])
        crops = [face.crop for face in new.values()]
        self._persons.update(zip(new, self.guide.recognize(crops, stacked, False, self._taken(faces)), strict=True))

    def _taken(self, faces: Faces) -> set[Person]:
        """Return the people who are in a frame, as far as matched."""
        return {person for track in faces if (person := self._persons.get(track)) is not None}

    def _told(self, track: int, face: FoundFace, faces: Faces) -> RecognizedFace:
        seen = None
        if face.status == RESTORED:
            if self._sightings[track] % MEASURE_EVERY == 0:
                (seen,) = self.guide.embed([face.crop])
                self._ask_again(track, seen, faces)
            self._sightings[track] += 1
        return face.recognized(self._persons[track], seen)

    def _ask_again(self, track: int, seen: Tensor, faces: Faces) -> None:
        """Ask again for tracks that began blurred or turned away, which may show somebody with references now."""
        known = self._persons[track]
        if self.guide.people is None or (known is not None and known.files):
            return
        (found,) = self.guide.people.match(seen[None], self._taken(faces))
        if found is not None:
            self._persons[track] = found
            self._measured.pop(track, None)  # against the input
