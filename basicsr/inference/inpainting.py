"""Inpainting: fill what is masked in a face, and leave every other pixel as it is, bit for bit.

The network sees masked pixels in pure white, as in its training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from basicsr.faces.face import Face
from basicsr.faces.geometry import apply_affine, ellipse_distance, scaling, warp
from basicsr.faces.paste import paste_face
from basicsr.inference.attempt import attempt
from basicsr.inference.canvas import Canvas
from basicsr.inference.face_pipeline import FacePipeline
from basicsr.inference.found_face import LEFT_OUT, FoundFace, RestoredFace, restored_of
from basicsr.inference.image_restorer import ImageRestorer, ImageResult
from basicsr.inference.jobs import Job
from basicsr.inference.report import FileRecord
from basicsr.inference.runner import Runner, read_square
from basicsr.utils.image import is_image_file, resized, scan_images, to_8_bits, whitened
from basicsr.utils.picture import Picture, read_picture
from basicsr.utils.progress import stop_if_cancelled
from basicsr.utils.templates import ffhq_template

MIDDLE = 127  # level above which a mask is white
BRIDGED_RADIUS = 3  # pixels; of the provisional filling
TOUCHED = 1e-3  # share of masked pixels from which a resampled pixel counts as masked


def white_pixels(image: np.ndarray) -> np.ndarray:
    """Return which pixels of RGB (H,W,3), uint8 or uint16, are pure white: bool (H,W)."""
    return (image == np.iinfo(image.dtype).max).all(axis=2)


def bridge(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Continue RGB uint8 (H,W,3) into its mask (Telea, 2004), for the detector and for resampling beside the mask."""
    return cv2.inpaint(image, mask.astype(np.uint8), BRIDGED_RADIUS, cv2.INPAINT_TELEA)


@dataclass(frozen=True)
class MaskReader:
    """Masks of pictures.

    Args:
        path: a picture for all, or a folder with one for each, by name, white and opaque where something is to be
            filled; None: the pure white pixels of the pictures themselves.

    Raises:
        FileNotFoundError: `path` is not there.
        ValueError: it is neither a picture nor a folder of pictures.
    """

    path: Path | None = None

    def __post_init__(self) -> None:
        if self.path is None:
            return
        if not self.path.exists():
            raise FileNotFoundError(f'--mask_path {self.path}: no such file or folder')
        if not (any(scan_images(self.path)) if self.path.is_dir() else is_image_file(self.path)):
            raise ValueError(f'--mask_path {self.path}: give a picture, or a folder of pictures')

    def __call__(self, job: Job, image: np.ndarray) -> np.ndarray:
        """Return where the picture of a job, RGB (H,W,3), is to be filled: bool (H,W), true somewhere.

        Raises:
            ImageReadError: the mask cannot be read.
            ValueError: there is none, it has another size, or nothing is masked.
        """
        if self.path is not None:
            mask = self.read(job)
            check_mask(mask, image)
            return mask
        mask = white_pixels(image)
        if not mask.any():
            remedy = 'paint what is to be filled pure white, or give masks with --mask_path'
            raise ValueError(f'{job.path}: nothing is masked; {remedy}')
        return mask

    def read(self, job: Job) -> np.ndarray:
        """Return the mask that a file gives for a job: bool (H,W), true somewhere.

        Raises:
            ImageReadError: the mask cannot be read.
            ValueError: there is none, or nothing is masked.
        """
        if self.path is None:
            raise ValueError(f'{job.path}: no frame of a clip is purely white anywhere; give a mask with --mask_path')
        file = self._find(job)
        given = read_picture(file)
        mask = to_8_bits(given.image).max(axis=2) > MIDDLE
        if given.alpha is not None:
            mask &= to_8_bits(given.alpha) > MIDDLE
        if not mask.any():
            raise ValueError(f'{file}: nothing is masked; a mask is white and opaque where something is to be filled')
        return mask

    def _find(self, job: Job) -> Path:
        """Return the mask of a job.

        Raises:
            ValueError: there is none of its name.
        """
        if self.path is None or not self.path.is_dir():
            return self.path or Path()
        named = {path.relative_to(self.path).with_suffix('').as_posix(): path for path in scan_images(self.path)}
        found = named.get(job.name) or named.get(job.path.stem)
        if found is None:
            raise ValueError(f'{job.path}: no mask of that name in {self.path} (--mask_path)')
        return found


def check_mask(mask: np.ndarray, image: np.ndarray) -> None:
    """Raise ValueError unless a mask (H,W) has the size of its picture."""
    if mask.shape != image.shape[:2]:
        sizes = ('x'.join(map(str, each.shape[1::-1])) for each in (mask, image))
        raise ValueError('--mask_path: the mask is {}, and the picture {}; give both in one size'.format(*sizes))


@dataclass(frozen=True)
class Inpainter:
    """Fills masked parts of faces, in whole pictures or in pictures that are aligned faces.

    Args:
        images: finds and restores the faces; it enlarges nothing.

    Raises:
        ValueError: the pictures would be enlarged.
    """

    images: ImageRestorer

    def __post_init__(self) -> None:
        canvas = self.images.canvas
        if canvas.upscale != 1 or canvas.bg_upsampler or canvas.face_upsampler:
            raise ValueError('inpainting leaves the picture as it is; leave out --upscale and the upsamplers')

    @property
    def size(self) -> int:
        """Side of aligned crops in pixels."""
        return self.images.canvas.size

    def inpaint(self, image: np.ndarray, mask: np.ndarray) -> ImageResult:
        """Fill the masked parts of the faces in a picture.

        Args:
            image: RGB (H,W,3), uint8 or uint16.
            mask: bool (H,W).

        Returns:
            The picture, which differs from `image` in masked pixels only, and the faces that are masked somewhere.

        Raises:
            ValueError: there is no detector.
            RuntimeError: the network failed.
        """
        crops = self.images.faces.cut(bridge(to_8_bits(image), mask))
        masked = [face for face in crops if seen_mask(mask, face.matrix, self.size).any()]
        return self._fill(image, mask, self.images.faces.selected(masked))

    def inpaint_aligned(self, image: np.ndarray, mask: np.ndarray) -> ImageResult:
        """Fill the masked part of a picture, RGB (n,n,3), that is an aligned face itself; see `inpaint`."""
        face = self.images.faces.take_aligned(bridge(to_8_bits(image), mask))
        return self._fill(image, mask, [replace(face, matrix=scaling(self.size / image.shape[0]))])

    def for_frames(self, mask: np.ndarray) -> ImageRestorer:
        """Return what fills the same part of every frame of a clip: bool (H,W), of the size of the frames."""
        frames = copy.copy(self.images)
        frames.faces = MaskedFaces(**vars(self.images.faces), mask=mask)
        frames.canvas = MaskedCanvas(**vars(self.images.canvas), mask=mask, blends=self._blends)
        return frames

    @property
    def _blends(self) -> bool:
        return self.images.faces.restorer.follows_input

    def _fill(self, image: np.ndarray, mask: np.ndarray, faces: Sequence[FoundFace]) -> ImageResult:
        shown = [whiten(face, mask, self.size) for face in faces]
        done = self.images.faces.restore_crops(self.images.faces.recognize_all([shown]))
        canvas = fill(image, mask, done, self.size, self._blends)
        self.images.canvas.draw_boxes(canvas, done)
        return ImageResult(canvas, done)


@dataclass
class MaskedFaces(FacePipeline):
    """Faces of frames that are masked in the same place.

    Args: those of `FacePipeline`, and
        mask: bool (H,W), of the size of the frames.
    """

    mask: np.ndarray = field(kw_only=True)

    def find(self, image: np.ndarray) -> list[Face]:
        """Return the faces of a frame, looked for where the mask is bridged."""
        check_mask(self.mask, image)
        return super().find(bridge(image, self.mask))

    def cut_out(self, image: np.ndarray, face: Face, status: str) -> FoundFace:
        """Return the aligned crop of a face, white where the mask is."""
        crop = super().cut_out(bridge(image, self.mask), face, status)
        if not seen_mask(self.mask, crop.matrix, self.restorer.size).any():
            return replace(crop, status=LEFT_OUT, reason='nothing of it is masked')
        return whiten(crop, self.mask, self.restorer.size)


@dataclass
class MaskedCanvas(Canvas):
    """Canvas of frames that are masked in the same place.

    Args: those of `Canvas`, and
        mask: bool (H,W), of the size of the frames.
        blends: see `fill`.
    """

    mask: np.ndarray = field(kw_only=True)
    blends: bool = field(kw_only=True)

    def paste(self, image: np.ndarray, faces: Sequence[FoundFace], enlarged: np.ndarray | None = None) -> np.ndarray:
        """Return a frame with the masked parts of its faces filled."""
        return fill(image, self.mask, faces, self.size, self.blends)


def whiten(face: FoundFace, mask: np.ndarray, size: int) -> FoundFace:
    """Return a face as the network sees it: white where `mask` (H,W) of the picture is, (size,size,3)."""
    crop = face.crop if face.crop.shape[0] == size else resized(face.crop, size, size)
    return replace(face, crop=whitened(crop, seen_mask(mask, face.matrix, size)))


def fill(image: np.ndarray, mask: np.ndarray, faces: Sequence[FoundFace], size: int, blends: bool) -> np.ndarray:
    """Return a picture with its masked parts taken from restored faces.

    Args:
        image: RGB (H,W,3), uint8 or uint16.
        mask: bool (H,W).
        faces: of the picture.
        size: side of the aligned crops.
        blends: a filling takes on the colours around it, see `blended`.
    """
    canvas, restored = image.copy(), restored_of(faces)
    if blends:
        restored = [blended(face, seen_mask(mask, face.matrix, size)) for face in restored]
    owner = nearest_face(mask, [face.matrix for face in restored], size)
    for number, face in enumerate(restored):
        painted = image.copy()
        paste_face(painted, face.restored, face.matrix, np.ones((size, size), np.float32))
        canvas[owner == number] = painted[owner == number]
    return canvas


def blended(face: RestoredFace, mask: np.ndarray) -> RestoredFace:
    """Return a face whose filling, where `mask` (n,n) is, has the colours of its surroundings at its border.

    What the input has beyond the restoration there is continued into the mask, the more smoothly the farther inside
    (a cheap form of Poisson editing; Perez et al., 2003).
    """
    restored = face.restored.astype(np.float32)
    size = len(restored)
    outside = (~mask).astype(np.float32)
    missing = (resized(face.crop, size, size) - restored) * outside[..., None]
    change = np.zeros_like(restored)
    for sigma in (size / 2**level for level in range(2, 8)):  # from coarse to fine
        weight = cv2.GaussianBlur(outside, (0, 0), sigma)[..., None]
        near = cv2.GaussianBlur(missing, (0, 0), sigma) / np.maximum(weight, 1e-6)
        change += (near - change) * np.minimum(2 * weight, 1)
    return replace(face, restored=np.rint((restored + change).clip(0, 255)).astype(np.uint8))


def seen_mask(mask: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Return a mask (H,W) of a picture in an aligned crop: bool (size,size), true where a masked pixel contributes."""
    return warp(mask.astype(np.float32), matrix, size, size, border=cv2.BORDER_CONSTANT) > TOUCHED


def nearest_face(mask: np.ndarray, matrices: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Return to which face each masked pixel belongs: the one in whose ellipse it lies deepest.

    Args:
        mask: bool (H,W).
        matrices: from the picture to each aligned crop, (2,3).
        size: side of the crops.

    Returns:
        int (H,W), -1 outside the mask and outside every crop.
    """
    owner = np.full(mask.shape, -1)
    rows, columns = np.nonzero(mask)
    if not matrices:
        return owner
    depth = ellipse_distance(ffhq_template(size), size, size)
    distances = np.full((len(matrices), len(rows)), np.inf)
    for distance, matrix in zip(distances, matrices, strict=True):
        x, y = np.rint(apply_affine(np.stack([columns, rows], axis=1), matrix)).astype(int).T
        inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
        distance[inside] = depth[y[inside], x[inside]]
    nearest = np.where(np.isfinite(distances.min(0)), distances.argmin(0), -1)
    owner[rows, columns] = nearest
    return owner


@dataclass(frozen=True)
class InpaintingRunner(Runner):
    """A `Runner` that fills the masked parts of pictures.

    Args: those of `Runner`, and
        masks: of the pictures.
    """

    masks: MaskReader = field(default_factory=MaskReader)
    inpainter: Inpainter = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, 'inpainter', Inpainter(self.restorer))  # the dataclass is frozen

    def _result(self, job: Job, picture: Picture) -> tuple[ImageResult, str]:
        mask = self.masks(job, picture.image)
        result = self.inpainter.inpaint(picture.image, mask)
        if not result.faces:
            return result, 'no face with masked pixels found; the picture stays as it is'
        return result, left_over(mask, result, self.inpainter.size)

    def _for_frames(self, job: Job) -> ImageRestorer:
        if self.aligned:
            raise ValueError(f'{job.path}: the frames of clips are filled as whole pictures; give --no-has_aligned')
        return self.inpainter.for_frames(self.masks.read(job))

    def _aligned(self, jobs: Iterator[Job]) -> Iterator[FileRecord]:
        for job in jobs:
            stop_if_cancelled()
            yield attempt(job, partial(self._inpaint_aligned, job))

    def _inpaint_aligned(self, job: Job) -> FileRecord:
        picture = self._prepared(read_square(job.path, self.max_megapixels))
        result = self.inpainter.inpaint_aligned(picture.image, self.masks(job, picture.image))
        return self._record_aligned(job, result.faces[0], replace(picture, image=result.image))


def left_over(mask: np.ndarray, result: ImageResult, size: int) -> str:
    """Return a note on masked pixels that lie in no face; '' without any."""
    owner = nearest_face(mask, [face.matrix for face in restored_of(result.faces)], size)
    count = int((mask & (owner < 0)).sum())
    return f'{count} masked pixels lie in no restored face and stay as they are' if count else ''
