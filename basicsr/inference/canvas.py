"""Canvas of a picture: enlarge it, paste restored faces beside their neighbours, draw boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from basicsr.faces.geometry import (
    affine_scale,
    apply_affine,
    compose,
    ellipse_distance,
    frame_corners,
    invert_affine,
    scaling,
)
from basicsr.faces.grain import Grain, missing_grain
from basicsr.faces.paste import ParsingMask, face_mask, paste_face
from basicsr.inference.found_face import FoundFace, RestoredFace, restored_of
from basicsr.utils.image import resized
from basicsr.utils.progress import stop_if_cancelled
from basicsr.utils.templates import ffhq_template

if TYPE_CHECKING:  # spandrel imports torchvision, which takes seconds
    from basicsr.inference.upsampler import Upsampler

BOX_COLOUR = (0, 255, 0)
# Between two faces, the part of the distance over which the restored one fades.
FADE = 0.2
CUBIC_REACH = 2  # pixels to each side


@dataclass
class Canvas:
    """Enlarges pictures and pastes restored faces into them.

    Args:
        size: side of the aligned crops, which the matrices of faces lead to.
        upscale: of the result, above 0.
        bg_upsampler: enlarges the picture; bicubic without one.
        face_upsampler: enlarges the restored faces before they are pasted.
        draw_box: mark the crops in the result.
        parsing: narrows what is pasted to the face itself.
        grain: give restored faces the noise of the picture around them.
        blend: share of the restored face in the result, 0 (the original) to 1.

    Raises:
        ValueError: `upscale` or `blend` is out of range.
    """

    size: int
    upscale: float = 2
    bg_upsampler: Upsampler | None = None
    face_upsampler: Upsampler | None = None
    draw_box: bool = False
    parsing: ParsingMask | None = None
    grain: bool = True
    blend: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.blend <= 1:
            raise ValueError(f'blend = {self.blend}: must be from 0 (the original) to 1 (the restored face)')
        if not self.upscale > 0:
            raise ValueError(f'upscale {self.upscale}: must be above 0')

    @property
    def largest_factor(self) -> float:
        """Largest factor by which a picture is enlarged on the way to the result."""
        return max(self.upscale, self.bg_upsampler.model.scale if self.bg_upsampler else 0)

    def finish(
        self,
        image: np.ndarray,
        faces: Sequence[FoundFace],
        numbers: Sequence[int] | None = None,
        enlarged: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the picture (uint8 or uint16) enlarged, with the restored ones of `faces` pasted in, and boxes.

        Args:
            image: RGB (H,W,3).
            faces: that are in it.
            numbers: that `draw_box` writes; by default the places in `faces`.
            enlarged: what `enlarge` made of `image`, where it is kept; it stays as it is.
        """
        canvas = self.paste(image, faces, enlarged)
        self.draw_boxes(canvas, faces, numbers)
        return canvas

    def paste(self, image: np.ndarray, faces: Sequence[FoundFace], enlarged: np.ndarray | None = None) -> np.ndarray:
        """Return the picture enlarged, with the restored ones of `faces` pasted in; see `finish`.

        Each pixel belongs to the face whose ellipse is nearest; those of faces that were left alone stay as they are.
        """
        canvas = self.enlarge(image) if enlarged is None else enlarged.copy()
        for face in restored_of(faces):
            stop_if_cancelled()
            self._paste(canvas, face, [other for other in faces if other is not face], self._missing_grain(image, face))
        return canvas

    def enlarge(self, image: np.ndarray) -> np.ndarray:
        """Return the picture, RGB uint8 or uint16, in the size of the result."""
        if self.bg_upsampler is not None:
            return self.bg_upsampler.upscale(image, self.upscale)
        width, height = (max(1, round(side * self.upscale)) for side in (image.shape[1], image.shape[0]))
        return resized(image, width, height)

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

    def draw_boxes(self, canvas: np.ndarray, faces: Sequence[FoundFace], numbers: Sequence[int] | None = None) -> None:
        """Mark the crops of `faces` in the enlarged picture, if boxes are wanted; see `finish`."""
        if not self.draw_box:
            return
        thickness = max(1, round(max(canvas.shape) / 400))
        colour = [value * (np.iinfo(canvas.dtype).max // 255) for value in BOX_COLOUR]
        for number, face in zip(range(len(faces)) if numbers is None else numbers, faces, strict=True):
            corners = frame_corners(self.size, self.size)
            outline = apply_affine(corners, compose(scaling(self.upscale), invert_affine(face.matrix)))
            cv2.polylines(canvas, [np.rint(outline).astype(np.int32)], True, colour, thickness, cv2.LINE_AA)
            write_number(canvas, number, outline, colour, thickness)

    def _missing_grain(self, image: np.ndarray, face: RestoredFace) -> Grain | None:
        """Noise of the picture that a restored face lacks; none where the picture itself is enlarged without noise."""
        wanted = self.grain and self.bg_upsampler is None and not face.whole
        return missing_grain(image, face.restored, face.matrix) if wanted else None

    def _paste(self, canvas: np.ndarray, face: RestoredFace, others: Sequence[FoundFace], grain: Grain | None) -> None:
        """Blend a restored face into the enlarged picture where it came from; not over others."""
        restored, size = face.restored, face.restored.shape[0]
        mask = np.ones((size, size), np.float32) if face.whole else face_mask(size)
        reach = CUBIC_REACH * max(1.0, affine_scale(face.matrix) / self.upscale)
        for other in others:
            mask = mask * share(face, other, size, reach)
        if self.parsing is not None:
            mask = mask * self.parsing(restored)
        mask = mask * np.float32(self.blend)
        matrix = compose(face.matrix, scaling(1 / self.upscale))
        if self.face_upsampler is not None:
            factor = self.face_upsampler.model.scale
            restored = self.face_upsampler.upscale(restored, factor)
            mask = cv2.resize(mask, restored.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            matrix = compose(scaling(factor), matrix)
        paste_face(canvas, restored, matrix, mask, grain, self.upscale)


def share(face: FoundFace, other: FoundFace, size: int, reach: float) -> np.ndarray:
    """Return the share of a face in each pixel of its crop, beside another face, (size,size) float32 in [0, 1].

    A pixel belongs to the face in whose ellipse it lies deeper. From there the share falls to 0 over `FADE` of the
    distance between the two: on this face's side beside a face that was left alone, on the other's side beside one that
    was restored. So nothing between two restored faces stays as it was.

    Args:
        face: restored.
        other: beside it.
        size: side of the crop.
        reach: pixels of the crop by which pasting blurs the share; it is 0 so far around a face that was left alone.
    """
    template = ffhq_template(size)
    apart = apply_affine(template, compose(face.matrix, invert_affine(other.matrix)))
    own, theirs = (ellipse_distance(points, size, size) for points in (template, apart))
    lead = (theirs - own) / np.maximum(np.minimum(own, theirs), 1e-3) / FADE
    shared = isinstance(other, RestoredFace)
    t = np.clip(lead + 1 if shared else lead, 0, 1)
    weight = (t * t * (3 - 2 * t)).astype(np.float32)
    if shared:
        return weight
    window = 2 * int(np.ceil(reach)) + 1
    return cv2.erode(weight, np.ones((window, window), np.uint8))


def write_number(canvas: np.ndarray, number: int, outline: np.ndarray, colour: Sequence[int], thickness: int) -> None:
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
