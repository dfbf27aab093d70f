"""Faces of pictures: find, judge and cut them out, recognize and restore them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.faces.detection import FaceDetector
from basicsr.faces.face import Face
from basicsr.faces.geometry import align_face, scaling
from basicsr.faces.sharpness import is_sharper_than
from basicsr.inference.auto_fidelity import CANDIDATES, choose_fidelity, fidelity_from, sharpness_of
from basicsr.inference.face_restorer import FaceRestorer, check_fidelity
from basicsr.inference.face_selection import EVERY_FACE, FaceSelection
from basicsr.inference.found_face import (
    ALREADY_SHARP,
    LEFT_OUT,
    RESTORED,
    UNCERTAIN,
    FoundFace,
    RecognizedFace,
    RestoredFace,
)
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.identity_meter import compare
from basicsr.inference.people import Person
from basicsr.utils.progress import stop_if_cancelled
from basicsr.utils.templates import ffhq_template

ALIGNED_TOLERANCE = 0.045  # of the side: a square picture whose landmarks are this near the template's is itself a crop
GREY_TOLERANCE = 4  # largest mean difference of channels (of 255) in a picture without colour,
GREY_OF_DARK = (0.5, 0.03)  # and in a dark one: this, and so much of the mean level, as little light has little colour
DISAGREEING = 'two looks at it disagree on where its eyes and mouth are'


def is_grey(image: np.ndarray) -> bool:
    """Return True if an RGB uint8 picture has no colour, judged by some 250,000 pixels spread over it."""
    step = max(1, max(image.shape) // 512)
    channels = image[::step, ::step].reshape(-1, 3).astype(np.int16)
    least, part = GREY_OF_DARK
    tolerance = min(GREY_TOLERANCE, least + part * float(channels.mean()))
    return float(np.abs(channels - np.roll(channels, 1, axis=1)).mean()) < tolerance


@dataclass
class FacePipeline:
    """Finds, judges, cuts out, recognizes and restores the faces of pictures.

    Args:
        restorer: the network.
        detector: finds faces; not needed for aligned ones.
        w: 0 for quality to 1 for fidelity.
        adain: see `FaceRestorer.restore`.
        only_center_face: restore the face nearest to the middle only.
        force: restore faces that are already sharper than what the network makes, too.
        guide: knows the people and measures their likeness; None measures nothing.
        choose_w: choose w for each face, see `auto_fidelity`; needs a guide.
        keeps_grey: a face without colour is restored without colour.
        selection: which of the faces found are restored.

    Raises:
        ValueError: `w` is out of range, or is to be chosen without a guide.
    """

    restorer: FaceRestorer
    detector: FaceDetector | None = None
    w: float = 0.8
    adain: bool = True
    only_center_face: bool = False
    force: bool = False
    guide: IdentityConditioner | None = None
    choose_w: bool = False
    keeps_grey: bool = True
    selection: FaceSelection = EVERY_FACE

    def __post_init__(self) -> None:
        check_fidelity(self.w)
        if self.choose_w and self.guide is None:
            raise ValueError('choosing w needs a face recognizer (guide)')

    @property
    def sharp_enough(self) -> str:
        """Reason why a sharp face is left alone, for the screen."""
        return f'sharper already than the {self.restorer.input_size} pixels that this model sees; --force restores it'

    def find(self, image: np.ndarray) -> list[Face]:
        """Return the faces in an RGB uint8 (H,W,3) picture that are asked for, the largest first.

        Raises:
            ValueError: there is no detector.
        """
        stop_if_cancelled()
        if self.detector is None:
            raise ValueError('whole pictures need a face detector')
        found = self.detector.detect(image)
        if self.only_center_face and found:
            middle = (np.array(image.shape[1::-1]) - 1) / 2
            found = [min(found, key=lambda face: np.linalg.norm(face.landmarks.mean(0) - middle))]
        return found

    def cut(self, image: np.ndarray) -> list[FoundFace]:
        """Find the faces of an RGB uint8 (H,W,3) picture, judge them and cut them out; the largest first.

        Raises:
            ValueError: there is no detector.
        """
        found = self.find(image)
        return [self._crop(image, face, found) for face in found]

    def judge(self, image: np.ndarray, face: Face, faces: Sequence[Face] = ()) -> str:
        """Judge a face of a picture: `restored` if it is to be, `already_sharp` or `uncertain`.

        Args:
            image: RGB uint8 (H,W,3).
            face: in it.
            faces: all that are in it; pixels nearer to another one do not count.
        """
        if not face.consistent:
            return UNCERTAIN
        others = [other.landmarks for other in faces if other is not face]
        sharp = not self.force and is_sharper_than(image, self.restorer.input_size, face.landmarks, others)
        return ALREADY_SHARP if sharp else RESTORED

    def cut_out(self, image: np.ndarray, face: Face, status: str) -> FoundFace:
        """Cut a face out of an RGB uint8 (H,W,3) picture, aligned on the network's side."""
        crop, matrix = align_face(image, face.landmarks, self.restorer.size)
        return FoundFace(crop, face, status, matrix, grey=is_grey(crop), reason=self._reason(status))

    def take_aligned(self, image: np.ndarray) -> FoundFace:
        """Judge a picture, RGB uint8 (n,n,3), that is an aligned face itself."""
        larger = image.shape[0] > self.restorer.input_size  # else its size says nothing of the photo it is from
        sharp = larger and not self.force and is_sharper_than(image, self.restorer.input_size)
        status = ALREADY_SHARP if sharp else RESTORED
        return FoundFace(image, None, status, whole=True, grey=is_grey(image), reason=self._reason(status))

    def _crop(self, image: np.ndarray, face: Face, faces: Sequence[Face]) -> FoundFace:
        """Judge a face and cut it out; a picture that is an aligned face stays whole."""
        side = image.shape[0]
        offsets = np.linalg.norm(face.landmarks - ffhq_template(side), axis=1)
        if image.shape[1] == side and offsets.mean() < ALIGNED_TOLERANCE * side:
            return replace(self.take_aligned(image), face=face, matrix=scaling(self.restorer.size / side))
        return self.cut_out(image, face, self.judge(image, face, faces))

    def _reason(self, status: str) -> str:
        return {ALREADY_SHARP: self.sharp_enough, UNCERTAIN: DISAGREEING}.get(status, '')

    def selected(self, faces: Sequence[FoundFace]) -> list[FoundFace]:
        """Return the faces of a picture, each of them `chosen` or left out."""
        return [self.chosen(face, number, self.selection.is_small(face.size)) for number, face in enumerate(faces)]

    def chosen(self, face: FoundFace, number: int, small: bool) -> FoundFace:
        """Return the face, with the status `left_out` and the reason where it is not chosen.

        Args:
            face: cut out and judged.
            number: in its picture, or of its track.
            small: it is smaller than the selection has it.
        """
        reason = self.selection.reason(number, small) if face.status != LEFT_OUT else ''
        return replace(face, status=LEFT_OUT, reason=reason) if reason else face

    def recognize(self, faces: Sequence[FoundFace]) -> list[FoundFace]:
        """Leave out faces of a picture that are not chosen, and recognize all if there is a guide."""
        return self.recognize_all([self.selected(faces)])

    def recognize_all(self, pictures: Sequence[Sequence[FoundFace]]) -> list[FoundFace]:
        """Recognize the faces of several pictures, and return them in one list; unchanged without a guide."""
        faces = [face for picture in pictures for face in picture]
        if self.guide is None or not faces:
            return faces
        vectors = self.guide.embed([face.crop for face in faces])
        persons: list[Person | None] = []
        for picture, part in zip(pictures, vectors.split([len(picture) for picture in pictures]), strict=True):
            persons += self.guide.recognize([face.crop for face in picture], part, alone=len(picture) == 1)
        return [face.recognized(person, vector) for face, person, vector in zip(faces, persons, vectors, strict=True)]

    def restore_faces(self, faces: Sequence[FoundFace]) -> list[FoundFace]:
        """Restore the chosen ones of all faces of a picture, in batches.

        Raises:
            RuntimeError: the network failed.
        """
        return self.restore_crops(self.recognize(faces))

    def restore_aligned(
        self, faces: Sequence[np.ndarray], persons: Sequence[Person | None] | None = None
    ) -> list[FoundFace]:
        """Restore pictures that are aligned faces themselves, in batches.

        Args:
            faces: RGB uint8, square.
            persons: who they are; None recognizes them where there is a guide. Likeness is not measured with `persons`.

        Raises:
            RuntimeError: the network failed.
        """
        taken = [self.selected([self.take_aligned(face)]) for face in faces]
        if persons is None:
            return self.restore_crops(self.recognize_all(taken))
        known = zip(itertools.chain.from_iterable(taken), persons, strict=True)
        return self.restore_crops([face.recognized(person, None) for face, person in known])

    def restore_crops(self, faces: Sequence[FoundFace], search: bool = True) -> list[FoundFace]:
        """Restore faces whose status is `restored`, in batches; return all in their order.

        Args:
            faces: cut out, and recognized where there is a guide.
            search: codes may be searched, as the guide says.

        Raises:
            RuntimeError: the network failed.
        """
        done = iter(self._restore([face for face in faces if face.status == RESTORED], search))
        return [next(done) if face.status == RESTORED else face for face in faces]

    def _restore(self, faces: Sequence[FoundFace], search: bool) -> list[RestoredFace]:
        """Return the same faces, restored; the likeness of those with an embedding is measured."""
        tried = self._fidelities(faces)
        made: dict[tuple[int, float], np.ndarray] = {}
        for w in sorted(set().union(*tried)):
            places = [place for place, weights in enumerate(tried) if w in weights]
            some = [faces[place] for place in places]
            known = self.guide.condition([_person(face) for face in some], search) if self.guide else {}
            restored = self.restorer.restore([face.crop for face in some], w, self.adain, **known)
            made |= zip(((place, w) for place in places), self._in_grey(some, restored), strict=True)
        vectors: dict[tuple[int, float], Tensor] = {}
        measured = [key for key in made if _embedding(faces[key[0]]) is not None]
        if self.guide is not None and measured:
            vectors |= zip(measured, self.guide.embed([made[key] for key in measured]), strict=True)
        done = []
        for place, (face, weights) in enumerate(zip(faces, tried, strict=True)):
            images = {w: made[place, w] for w in weights}
            done.append(self._choose(face, images, {w: vectors[place, w] for w in weights if (place, w) in vectors}))
        return done

    def _fidelities(self, faces: Sequence[FoundFace]) -> list[tuple[float, ...]]:
        """Return the weights w for each face: one, or some to choose among for people with references."""
        if not self.choose_w or self.guide is None:
            return [(self.w,)] * len(faces)
        unknown = [place for place, face in enumerate(faces) if not ((person := _person(face)) and person.files)]
        tried: list[tuple[float, ...]] = [CANDIDATES] * len(faces)
        confidences = self.guide.confidence([faces[place].crop for place in unknown])
        for place, confidence in zip(unknown, confidences or [self.w] * len(unknown), strict=True):
            tried[place] = (fidelity_from(confidence),)
        return tried

    def _choose(
        self, face: FoundFace, images: Mapping[float, np.ndarray], vectors: Mapping[float, Tensor]
    ) -> RestoredFace:
        """Return a face with the restoration that suits it, and its likeness where that is measured.

        Args:
            face: to be restored.
            images: restorations by w.
            vectors: their embeddings, where likeness is measured.
        """
        w, person, embedding = next(iter(images)), _person(face), _embedding(face)
        if self.guide is None or embedding is None:
            return face.with_restoration(images[w], w, person)
        if len(images) > 1:
            cosines = torch.stack([*vectors.values()]) @ self.guide.target(embedding, person)
            sharpness = [sharpness_of(image) for image in images.values()]
            w = list(images)[choose_fidelity(cosines.tolist(), sharpness)]
        likeness = compare(embedding, vectors[w], person, w, self.guide.people, self.guide.faithful)
        return face.with_restoration(images[w], w, person, likeness)

    def _in_grey(self, faces: Sequence[FoundFace], restored: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the restored faces, those without colour in grey."""
        return [
            cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            if face.grey and self.keeps_grey
            else image
            for face, image in zip(faces, restored, strict=True)
        ]


def _person(face: FoundFace) -> Person | None:
    return face.person if isinstance(face, RecognizedFace) else None


def _embedding(face: FoundFace) -> Tensor | None:
    return face.embedding if isinstance(face, RecognizedFace) else None
