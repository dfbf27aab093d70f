"""Whole pictures: find the faces, restore those that gain by it, enlarge the rest, and paste back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.faces.detection import FaceDetector
from basicsr.faces.face import Face
from basicsr.faces.geometry import (
    affine_scale,
    align_face,
    apply_affine,
    compose,
    crop_side,
    ellipse_distance,
    frame_corners,
    invert_affine,
    scaling,
)
from basicsr.faces.grain import Grain, missing_grain
from basicsr.faces.paste import ParsingMask, face_mask, paste_face
from basicsr.faces.sharpness import is_sharper_than
from basicsr.inference.auto_fidelity import CANDIDATES, choose_fidelity, fidelity_from, sharpness_of
from basicsr.inference.face_restorer import FaceRestorer, check_fidelity
from basicsr.inference.face_selection import EVERY_FACE, FaceSelection
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.identity_meter import FaceIdentity, compare
from basicsr.inference.people import Person
from basicsr.utils.image import resized, to_8_bits
from basicsr.utils.progress import stop_if_cancelled
from basicsr.utils.templates import ffhq_template

if TYPE_CHECKING:  # spandrel imports torchvision, which takes seconds
    from basicsr.inference.upsampler import Upsampler

RESTORED, ALREADY_SHARP, UNCERTAIN, NO_FACE, FAILED = 'restored', 'already_sharp', 'uncertain', 'no_face', 'failed'
LEFT_OUT, RESTORED_BLIND = 'left_out', 'restored_blind'
ALIGNED_TOLERANCE = 0.045  # of the side: a square picture whose landmarks are this near the template's is itself a crop
GREY_TOLERANCE = 4  # largest mean difference of channels (of 255) in a picture without colour,
GREY_OF_DARK = (0.5, 0.03)  # and in a dark one: this, and so much of the mean level, as little light has little colour
BOX_COLOUR = (0, 255, 0)
# Between two faces, the part of the distance over which the restored one fades.
FADE = 0.2
CUBIC_REACH = 2  # pixels to each side
DISAGREEING = 'two looks at it disagree on where its eyes and mouth are'


@dataclass(frozen=True, eq=False)
class FaceResult:
    """Result of a face.

    Attributes:
        crop: the aligned face, RGB uint8 (size,size,3).
        restored: the restored face, or None where it was left alone.
        face: where it was found; None for a picture that was given aligned.
        status: `restored`, `already_sharp`, `uncertain` where two looks disagree on the landmarks, or `left_out` where
            the user chose others.
        matrix: from the original picture to `crop`, (2,3).
        whole: the picture is this one aligned face and nothing else.
        grey: the crop has no colour, and the restored face is to have none.
        reason: why it is left alone.
        person: who it is, as far as that is known.
        seen: embedding of the crop (D,), where likeness is to be measured.
        w: the fidelity weight of the restoration; None where it was left alone.
        likeness: what became of the likeness, where it was measured.
    """

    crop: np.ndarray
    restored: np.ndarray | None
    face: Face | None
    status: str
    matrix: np.ndarray = field(default_factory=lambda: scaling(1))
    whole: bool = False
    grey: bool = False
    reason: str = ''
    person: Person | None = None
    seen: Tensor | None = None
    w: float | None = None
    likeness: FaceIdentity | None = None

    @property
    def size(self) -> float:
        """Side in pixels of the picture that the aligned face covers."""
        return self.crop.shape[0] if self.face is None else crop_side(self.face.landmarks)


@dataclass(frozen=True, eq=False)
class ImageResult:
    """Result of a picture.

    Attributes:
        image: RGB, enlarged, with the restored faces; uint8 or uint16 like the original.
        faces: one for each face, the largest first.
    """

    image: np.ndarray
    faces: list[FaceResult]

    @property
    def status(self) -> str:
        """The first of restored, uncertain, already_sharp and left_out that a face has; no_face without any."""
        found = {face.status for face in self.faces}
        return next((status for status in (RESTORED, UNCERTAIN, ALREADY_SHARP, LEFT_OUT) if status in found), NO_FACE)


def is_grey(image: np.ndarray) -> bool:
    """Return True if an RGB uint8 picture has no colour, judged by some 250,000 pixels spread over it."""
    step = max(1, max(image.shape) // 512)
    channels = image[::step, ::step].reshape(-1, 3).astype(np.int16)
    least, part = GREY_OF_DARK
    tolerance = min(GREY_TOLERANCE, least + part * float(channels.mean()))
    return float(np.abs(channels - np.roll(channels, 1, axis=1)).mean()) < tolerance


@dataclass
class ImageRestorer:
    """Restores whole pictures, or pictures that are aligned faces.

    Args:
        restorer: for the faces.
        detector: finds them; not needed for aligned faces.
        w: 0 for quality to 1 for fidelity.
        adain: see `FaceRestorer.restore`.
        upscale: of the result, above 0.
        bg_upsampler: enlarges the picture; bicubic without one.
        face_upsampler: enlarges the restored faces before they are pasted.
        only_center_face: restore the face nearest to the middle only.
        draw_box: mark the crops in the result.
        parsing: narrows what is pasted to the face itself.
        grain: give restored faces the noise of the picture around them.
        force: restore faces that are already sharper than what the network makes, too.
        guide: knows the people and measures their likeness; None measures nothing.
        choose_w: choose w for each face, see `auto_fidelity`; needs a guide.
        keeps_grey: a face without colour is restored without colour.
        selection: which of the faces found are restored.
        blend: share of the restored face in the result, 0 (the original) to 1.

    Raises:
        ValueError: `w`, `upscale` or `blend` is out of range.
    """

    restorer: FaceRestorer
    detector: FaceDetector | None = None
    w: float = 0.8
    adain: bool = True
    upscale: float = 2
    bg_upsampler: Upsampler | None = None
    face_upsampler: Upsampler | None = None
    only_center_face: bool = False
    draw_box: bool = False
    parsing: ParsingMask | None = None
    grain: bool = True
    force: bool = False
    guide: IdentityConditioner | None = None
    choose_w: bool = False
    keeps_grey: bool = True
    selection: FaceSelection = EVERY_FACE
    blend: float = 1.0

    def __post_init__(self) -> None:
        check_fidelity(self.w)
        if not 0 <= self.blend <= 1:
            raise ValueError(f'blend = {self.blend}: must be from 0 (the original) to 1 (the restored face)')
        if not self.upscale > 0:
            raise ValueError(f'upscale {self.upscale}: must be above 0')
        if self.choose_w and self.guide is None:
            raise ValueError('choosing w needs a face recognizer (guide)')

    @property
    def sharp_enough(self) -> str:
        """Reason why a sharp face is left alone, for the screen."""
        return f'sharper already than the {self.restorer.input_size} pixels that this model sees; --force restores it'

    def restore(self, image: np.ndarray) -> ImageResult:
        """Restore every face in an RGB (H,W,3) picture, uint8 or uint16; faces are looked at and restored in 8 bits.

        Raises:
            ValueError: there is no detector.
            RuntimeError: the network failed.
        """
        faces = self.restore_faces(self.cut(to_8_bits(image)))
        return ImageResult(self.finish(image, faces), faces)

    def cut(self, image: np.ndarray) -> list[FaceResult]:
        """Find the faces of an RGB uint8 (H,W,3) picture, judge them and cut them out; the largest first.

        Raises:
            ValueError: there is no detector.
        """
        found = self.find(image)
        return [self._crop(image, face, found) for face in found]

    def restore_faces(self, faces: Sequence[FaceResult]) -> list[FaceResult]:
        """Restore the chosen ones of all faces of a picture, in batches.

        Raises:
            RuntimeError: the network failed.
        """
        return self.restore_crops(self.recognize(faces))

    def recognize(self, faces: Sequence[FaceResult]) -> list[FaceResult]:
        """Leave out the faces of a picture that are not chosen, and recognize all where there is a guide."""
        return self._recognize([self._selected(faces)])

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

    def finish(
        self,
        image: np.ndarray,
        faces: Sequence[FaceResult],
        numbers: Sequence[int] | None = None,
        enlarged: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the picture (uint8 or uint16) enlarged, with the restored ones of `faces` pasted in.

        Each pixel belongs to the face whose ellipse is nearest; those of faces that were left alone stay as they are.

        Args:
            image: RGB (H,W,3).
            faces: that are in it.
            numbers: that `draw_box` writes; by default the places in `faces`.
            enlarged: what `enlarge` made of `image`, where it is kept; it stays as it is.
        """
        canvas = self.enlarge(image) if enlarged is None else enlarged.copy()
        for face in faces:
            if face.restored is not None:
                stop_if_cancelled()
                others = [other for other in faces if other is not face]
                self._paste(canvas, face.restored, face, others, self._missing_grain(image, face, face.restored))
        if self.draw_box:
            self._draw_boxes(canvas, faces, range(len(faces)) if numbers is None else numbers)
        return canvas

    def blended(self, original: np.ndarray, restored: np.ndarray) -> np.ndarray:
        """Return a restored aligned face blended with its original, in the size of the restored one.

        Args:
            original: RGB (h,w,3) of any size.
            restored: RGB (n,n,3) of the same type, uint8 or uint16.
        """
        if self.blend == 1:
            return restored
        fitted = resized(original, *restored.shape[1::-1])
        return cv2.addWeighted(fitted, 1 - self.blend, restored, self.blend, 0)

    def restore_aligned(self, faces: Sequence[np.ndarray]) -> list[FaceResult]:
        """Restore pictures (RGB uint8, square) that are aligned faces themselves, in batches.

        Raises:
            RuntimeError: the network failed.
        """
        return self.restore_crops(self._recognize([self._selected([self.take_aligned(face)]) for face in faces]))

    def take_aligned(self, image: np.ndarray) -> FaceResult:
        """Return a picture (RGB uint8, square) that is an aligned face itself, and whether it is to be restored."""
        larger = image.shape[0] > self.restorer.input_size  # else its size says nothing of the photo it is from
        sharp = larger and not self.force and is_sharper_than(image, self.restorer.input_size)
        status = ALREADY_SHARP if sharp else RESTORED
        return FaceResult(image, None, None, status, whole=True, grey=is_grey(image), reason=self._reason(status))

    def judge(self, image: np.ndarray, face: Face, faces: Sequence[Face] = ()) -> str:
        """Return the status of a face in a picture: whether it is to be restored.

        Args:
            image: RGB uint8 (H,W,3).
            face: in it.
            faces: all that are in it; what belongs to others is not looked at.
        """
        if not face.consistent:
            return UNCERTAIN
        others = [other.landmarks for other in faces if other is not face]
        sharp = not self.force and is_sharper_than(image, self.restorer.input_size, face.landmarks, others)
        return ALREADY_SHARP if sharp else RESTORED

    def cut_out(self, image: np.ndarray, face: Face, status: str) -> FaceResult:
        """Return the aligned crop of a face."""
        crop, matrix = align_face(image, face.landmarks, self.restorer.size)
        return FaceResult(crop, None, face, status, matrix, grey=is_grey(crop), reason=self._reason(status))

    def _selected(self, faces: Sequence[FaceResult]) -> list[FaceResult]:
        """Return the faces of a picture, those that are to be restored and were not chosen with the reason."""
        return [self.chosen(face, number, self.selection.is_small(face.size)) for number, face in enumerate(faces)]

    def chosen(self, face: FaceResult, number: int, small: bool) -> FaceResult:
        """Return the face, left out where it is not chosen, whatever else is to be said of it.

        Args:
            face: cut out and judged.
            number: in its picture, or of its track.
            small: it is smaller than the selection has it.
        """
        reason = self.selection.reason(number, small) if face.status != LEFT_OUT else ''
        return replace(face, status=LEFT_OUT, reason=reason) if reason else face

    def _reason(self, status: str) -> str:
        return {ALREADY_SHARP: self.sharp_enough, UNCERTAIN: DISAGREEING}.get(status, '')

    def restore_crops(self, faces: Sequence[FaceResult], search: bool = True) -> list[FaceResult]:
        """Return the same faces, those with status `restored` now restored, in batches.

        Args:
            faces: cut out, and recognized where there is a guide.
            search: codes may be searched, as the guide says.

        Raises:
            RuntimeError: the network failed.
        """
        done = iter(self._restore([face for face in faces if face.status == RESTORED], search))
        return [next(done) if face.status == RESTORED else face for face in faces]

    def _recognize(self, pictures: Sequence[Sequence[FaceResult]]) -> list[FaceResult]:
        """Return the faces of all pictures, one after the other, now with who they are, as far as that is known."""
        faces = [face for picture in pictures for face in picture]
        if self.guide is None or not faces:
            return faces
        vectors = self.guide.embed([face.crop for face in faces])
        persons: list[Person | None] = []
        for picture, part in zip(pictures, vectors.split([len(picture) for picture in pictures]), strict=True):
            persons += self.guide.recognize([face.crop for face in picture], part, alone=len(picture) == 1)
        return [
            replace(face, person=person, seen=vector)
            for face, person, vector in zip(faces, persons, vectors, strict=True)
        ]

    def _restore(self, faces: Sequence[FaceResult], search: bool) -> list[FaceResult]:
        """Return the same faces, restored; the likeness of those with `seen` is measured."""
        tried = self._fidelities(faces)
        made: dict[tuple[int, float], np.ndarray] = {}
        for w in sorted(set().union(*tried)):
            places = [place for place, weights in enumerate(tried) if w in weights]
            some = [faces[place] for place in places]
            known = self.guide.condition([face.person for face in some], search) if self.guide else {}
            restored = self.restorer.restore([face.crop for face in some], w, self.adain, **known)
            made |= zip(((place, w) for place in places), self._in_grey(some, restored), strict=True)
        vectors: dict[tuple[int, float], Tensor] = {}
        measured = [key for key in made if faces[key[0]].seen is not None]
        if self.guide is not None and measured:
            vectors |= zip(measured, self.guide.embed([made[key] for key in measured]), strict=True)
        done = []
        for place, (face, weights) in enumerate(zip(faces, tried, strict=True)):
            images = {w: made[place, w] for w in weights}
            done.append(self._choose(face, images, {w: vectors[place, w] for w in weights if (place, w) in vectors}))
        return done

    def _fidelities(self, faces: Sequence[FaceResult]) -> list[tuple[float, ...]]:
        """Return the weights w for each face: one, or some to choose among for people with references."""
        if not self.choose_w or self.guide is None:
            return [(self.w,)] * len(faces)
        unknown = [place for place, face in enumerate(faces) if not (face.person and face.person.files)]
        tried: list[tuple[float, ...]] = [CANDIDATES] * len(faces)
        confidences = self.guide.confidence([faces[place].crop for place in unknown])
        for place, confidence in zip(unknown, confidences or [self.w] * len(unknown), strict=True):
            tried[place] = (fidelity_from(confidence),)
        return tried

    def _choose(
        self, face: FaceResult, images: Mapping[float, np.ndarray], vectors: Mapping[float, Tensor]
    ) -> FaceResult:
        """Return a face with the restoration that suits it, and its likeness where that is measured.

        Args:
            face: to be restored.
            images: restorations by w.
            vectors: their embeddings, where likeness is measured.
        """
        w = next(iter(images))
        if self.guide is None or face.seen is None:
            return replace(face, restored=images[w], w=w)
        if len(images) > 1:
            cosines = torch.stack([*vectors.values()]) @ self.guide.target(face.seen, face.person)
            sharpness = [sharpness_of(image) for image in images.values()]
            w = list(images)[choose_fidelity(cosines.tolist(), sharpness)]
        likeness = compare(face.seen, vectors[w], face.person, w, self.guide.people, self.guide.faithful)
        return replace(face, restored=images[w], w=w, likeness=likeness)

    def _in_grey(self, faces: Sequence[FaceResult], restored: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the restored faces, those without colour in grey."""
        return [
            cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            if face.grey and self.keeps_grey
            else image
            for face, image in zip(faces, restored, strict=True)
        ]

    def _crop(self, image: np.ndarray, face: Face, faces: Sequence[Face]) -> FaceResult:
        """Return a face of a picture, or the picture as an aligned face; and whether to restore it."""
        side = image.shape[0]
        offsets = np.linalg.norm(face.landmarks - ffhq_template(side), axis=1)
        if image.shape[1] == side and offsets.mean() < ALIGNED_TOLERANCE * side:
            return replace(self.take_aligned(image), face=face, matrix=scaling(self.restorer.size / side))
        return self.cut_out(image, face, self.judge(image, face, faces))

    def _missing_grain(self, image: np.ndarray, face: FaceResult, restored: np.ndarray) -> Grain | None:
        """Noise of the picture that a restored face lacks; none where the picture itself is enlarged without noise."""
        wanted = self.grain and self.bg_upsampler is None and not face.whole
        return missing_grain(image, restored, face.matrix) if wanted else None

    def enlarge(self, image: np.ndarray) -> np.ndarray:
        """Return the picture, RGB uint8 or uint16, in the size of the result."""
        if self.bg_upsampler is not None:
            return self.bg_upsampler.upscale(image, self.upscale)
        width, height = (max(1, round(side * self.upscale)) for side in (image.shape[1], image.shape[0]))
        return resized(image, width, height)

    def _paste(
        self,
        canvas: np.ndarray,
        face: np.ndarray,
        result: FaceResult,
        others: Sequence[FaceResult] = (),
        grain: Grain | None = None,
    ) -> None:
        """Blend a restored `face` into the enlarged picture, where `result` says that it came from; not over others."""
        size = face.shape[0]
        mask = np.ones((size, size), np.float32) if result.whole else face_mask(size)
        reach = CUBIC_REACH * max(1.0, affine_scale(result.matrix) / self.upscale)
        for other in others:
            mask = mask * share(result, other, size, reach)
        if self.parsing is not None:
            mask = mask * self.parsing(face)
        mask = mask * np.float32(self.blend)
        matrix = compose(result.matrix, scaling(1 / self.upscale))
        if self.face_upsampler is not None:
            factor = self.face_upsampler.model.scale
            face = self.face_upsampler.upscale(face, factor)
            mask = cv2.resize(mask, face.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            matrix = compose(scaling(factor), matrix)
        paste_face(canvas, face, matrix, mask, grain, self.upscale)

    def _draw_boxes(self, canvas: np.ndarray, faces: Sequence[FaceResult], numbers: Sequence[int]) -> None:
        thickness = max(1, round(max(canvas.shape) / 400))
        colour = [value * (np.iinfo(canvas.dtype).max // 255) for value in BOX_COLOUR]
        for number, face in zip(numbers, faces, strict=True):
            corners = frame_corners(self.restorer.size, self.restorer.size)
            outline = apply_affine(corners, compose(scaling(self.upscale), invert_affine(face.matrix)))
            cv2.polylines(canvas, [np.rint(outline).astype(np.int32)], True, colour, thickness, cv2.LINE_AA)
            _write_number(canvas, number, outline, colour, thickness)


def share(face: FaceResult, other: FaceResult, size: int, reach: float) -> np.ndarray:
    """Return the share of a face in each pixel of its crop, beside another face, (size,size) float32 in [0, 1].

    A pixel is nearest to the face in whose ellipse it lies deepest. Beside a face that is left alone the restored one
    fades on its own side; beside one that is restored, too, on the other's, so that nothing between them stays as it
    was.

    Args:
        face: that is restored.
        other: beside it.
        size: side of the crop.
        reach: pixels of the crop by which pasting blurs the result of this; so far from the other it is 0, too.
    """
    template = ffhq_template(size)
    apart = apply_affine(template, compose(face.matrix, invert_affine(other.matrix)))
    own, theirs = (ellipse_distance(points, size, size) for points in (template, apart))
    lead = (theirs - own) / np.maximum(np.minimum(own, theirs), 1e-3) / FADE
    t = np.clip(lead if other.restored is None else lead + 1, 0, 1)
    weight = (t * t * (3 - 2 * t)).astype(np.float32)
    if other.restored is not None:
        return weight
    window = 2 * int(np.ceil(reach)) + 1
    return cv2.erode(weight, np.ones((window, window), np.uint8))


def _write_number(canvas: np.ndarray, number: int, outline: np.ndarray, colour: Sequence[int], thickness: int) -> None:
    """Write the number of a face, upright on black, inside its outline (4,2) in the corner nearest the upper left."""
    height = max(10.0, 0.12 * float(np.linalg.norm(outline[3] - outline[0])))
    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = cv2.getFontScaleFromHeight(font, round(height), thickness)
    extent = np.array(cv2.getTextSize(str(number), font, scale, thickness)[0])
    corner = outline[outline.sum(1).argmin()]
    inwards = outline.mean(0) - corner
    centre = corner + inwards / np.linalg.norm(inwards) * (1.5 * height)
    half = extent / 2 + 2 * thickness
    centre = np.clip(centre, half, np.maximum(np.array(canvas.shape[1::-1]) - half, half))
    (left, top), (right, bottom) = (np.rint(centre + sign * half).astype(int) for sign in (-1, 1))
    canvas[top:bottom, left:right] = 0
    place = (left + 2 * thickness, bottom - 2 * thickness)
    inked = np.zeros(canvas.shape[:2], np.uint8)  # OpenCV writes into 8 bits only
    cv2.putText(inked, str(number), place, font, scale, 255, thickness, cv2.LINE_AA)
    rows, columns = np.nonzero(inked)
    share = inked[rows, columns, None] / 255
    canvas[rows, columns] = np.rint(canvas[rows, columns] * (1 - share) + np.array(colour) * share)
