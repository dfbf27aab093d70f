"""Whole pictures: restore the faces that gain by it, enlarge the rest, and paste back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from basicsr.faces.detection import FaceDetector
from basicsr.faces.paste import ParsingMask
from basicsr.inference.canvas import Canvas
from basicsr.inference.face_pipeline import FacePipeline
from basicsr.inference.face_restorer import FaceRestorer
from basicsr.inference.face_selection import EVERY_FACE, FaceSelection
from basicsr.inference.found_face import ALREADY_SHARP, LEFT_OUT, NO_FACE, RESTORED, UNCERTAIN, FoundFace
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.people import Person
from basicsr.utils.image import to_8_bits

if TYPE_CHECKING:  # spandrel imports torchvision, which takes seconds
    from basicsr.inference.upsampler import Upsampler


@dataclass(frozen=True, eq=False)
class ImageResult:
    """Result of a picture.

    Attributes:
        image: RGB, enlarged, with the restored faces; uint8 or uint16 like the original.
        faces: one for each face, the largest first; a `RestoredFace` for each that was restored.
    """

    image: np.ndarray
    faces: list[FoundFace]

    @property
    def status(self) -> str:
        """The first of restored, uncertain, already_sharp and left_out that a face has; no_face without any."""
        found = {face.status for face in self.faces}
        return next((status for status in (RESTORED, UNCERTAIN, ALREADY_SHARP, LEFT_OUT) if status in found), NO_FACE)


class ImageRestorer:
    """Restores whole pictures.

    Args:
        restorer: for the faces.
        detector: finds them; not needed for aligned faces.
        w: 0 for quality to 1 for fidelity.
        adain, only_center_face, force, guide, choose_w, keeps_grey, selection: see `FacePipeline`.
        upscale: of the result, above 0.
        bg_upsampler, face_upsampler, draw_box, parsing, grain, blend: see `Canvas`.

    Attributes:
        faces: finds, judges, cuts out and restores faces.
        canvas: enlarges pictures, and pastes restored faces.

    Raises:
        ValueError: a value is out of its range.
    """

    __slots__ = ('canvas', 'faces')  # so that a setting of either is not set here, where it would have no effect

    def __init__(
        self,
        restorer: FaceRestorer,
        detector: FaceDetector | None = None,
        w: float = 0.8,
        adain: bool = True,
        upscale: float = 2,
        bg_upsampler: Upsampler | None = None,
        face_upsampler: Upsampler | None = None,
        only_center_face: bool = False,
        draw_box: bool = False,
        parsing: ParsingMask | None = None,
        grain: bool = True,
        force: bool = False,
        guide: IdentityConditioner | None = None,
        choose_w: bool = False,
        keeps_grey: bool = True,
        selection: FaceSelection = EVERY_FACE,
        blend: float = 1.0,
    ) -> None:
        self.faces = FacePipeline(
            restorer, detector, w, adain, only_center_face, force, guide, choose_w, keeps_grey, selection
        )
        self.canvas = Canvas(restorer.size, upscale, bg_upsampler, face_upsampler, draw_box, parsing, grain, blend)

    def restore(self, image: np.ndarray) -> ImageResult:
        """Restore every face in an RGB (H,W,3) picture, uint8 or uint16; faces are looked at and restored in 8 bits.

        Raises:
            ValueError: there is no detector.
            RuntimeError: the network failed.
        """
        faces = self.faces.restore_faces(self.faces.cut(to_8_bits(image)))
        return ImageResult(self.canvas.finish(image, faces), faces)

    def restore_aligned(
        self, faces: Sequence[np.ndarray], persons: Sequence[Person | None] | None = None
    ) -> list[FoundFace]:
        """Restore pictures (RGB uint8, square) that are aligned faces themselves; see `FacePipeline`."""
        return self.faces.restore_aligned(faces, persons)
