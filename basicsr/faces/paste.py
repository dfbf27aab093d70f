"""Pasting a restored face back where it came from, without a visible seam."""

from __future__ import annotations

import os
import zlib

import cv2
import numpy as np
import torch

from basicsr.faces.geometry import apply_affine, compose, covering_rectangle, frame_corners, invert_affine, warp
from basicsr.faces.grain import Grain
from basicsr.utils.checkpoint import load_state, load_state_dict_file
from basicsr.utils.errors import extra
from basicsr.utils.image import to_tensor
from basicsr.utils.numerics import check_finite

PARSING_FILE = 'facelib/parsing_parsenet.pth'
PARSING_SIDE = 512
BAND_PIXELS = 2**21  # pasted at a time, so that a face that fills a huge picture takes no more memory than another
BLENDED_ROWS = 64  # at a time, which stay in the cache from one operation to the next
NOT_FACE = (0, 14, 16, 17, 18)  # of ParseNet's 19 labels, those that the published paste-back leaves as they were


def face_mask(size: int, border: float = 0.15) -> np.ndarray:
    """Return the weight of the restored face at each pixel of the crop.

    Along each axis the mask rises from exactly 0 at the outermost pixel to 1 with two continuous derivatives
    (6t^5 - 15t^4 + 10t^3), so that the eye finds no edge.

    Args:
        size: side of the crop.
        border: width of the rise, as a part of `size`.

    Returns:
        (size,size) float32 in [0, 1].
    """
    place = np.arange(size)
    t = np.clip(np.minimum(place, size - 1 - place) / (border * size), 0, 1)
    rise = t**3 * (t * (6 * t - 15) + 10)
    return np.outer(rise, rise).astype(np.float32)


class ParsingMask:
    """The part of a crop that is face (no background, hair or clothes), by facexlib's ParseNet.

    Args:
        path: the weights, as published by facexlib.
        device: where the network runs.

    Raises:
        CheckpointError: the file is not that network's.
    """

    def __init__(self, path: str | os.PathLike, device: str = 'cpu') -> None:
        with extra('detectors'):
            from facexlib.parsing.parsenet import ParseNet  # imports torchvision, which takes seconds

        self.network = ParseNet(in_size=PARSING_SIDE, out_size=PARSING_SIDE, parsing_ch=19)
        load_state(self.network, load_state_dict_file(path), source=path)
        self.network.eval().to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, face: np.ndarray) -> np.ndarray:
        """RGB uint8 (size,size,3) to a soft mask (size,size) float32 in [0, 1]."""
        size = face.shape[0]
        resized = cv2.resize(face, (PARSING_SIDE, PARSING_SIDE), interpolation=cv2.INTER_LINEAR)
        scores = self.network(to_tensor(resized)[None].to(self.device))[0]
        check_finite(scores, 'the parsing network')
        labels = scores.argmax(1)[0].cpu().numpy()
        inside = np.isin(labels, NOT_FACE, invert=True).astype(np.float32)
        soft = cv2.GaussianBlur(inside, (0, 0), PARSING_SIDE / 32)
        return np.clip(cv2.resize(soft, (size, size), interpolation=cv2.INTER_AREA), 0, 1)


def paste_face(
    background: np.ndarray,
    face: np.ndarray,
    matrix: np.ndarray,
    mask: np.ndarray,
    grain: Grain | None = None,
    upscale: float = 1,
) -> None:
    """Blend `face` into `background`, which is changed in place.

    Only the rectangle around the face is worked on; where the mask is 0, pixels keep their values bit for bit.

    Args:
        background: RGB uint8 or uint16 (H,W,3).
        face: RGB uint8 (h,w,3); its values are brought to the range of `background`.
        matrix: from `background` to `face`, (2,3).
        mask: weight of `face`, (h,w) float32 in [0, 1]; it goes on outside `face` as it is at the edge.
        grain: noise to be added to `face`, drawn from its content.
        upscale: factor by which `background` was enlarged, as the noise is to be.
    """
    height, width = face.shape[:2]
    to_background = invert_affine(matrix)
    corners = apply_affine(frame_corners(width, height), to_background)
    left, top, right, bottom = covering_rectangle(corners, background.shape[1], background.shape[0])
    if left == right or top == bottom:
        return
    levels = np.iinfo(background.dtype).max
    seed = zlib.crc32(face.tobytes())
    if levels > 255:
        face = face * np.float32(levels / 255)
    rows = max(1, BAND_PIXELS // (right - left))
    for start in range(top, bottom, rows):
        part = background[start : min(start + rows, bottom), left:right]
        to_part = compose(np.array([[1.0, 0, -left], [0, 1.0, -start]]), to_background)
        size = part.shape[1::-1]
        warped = warp(face, to_part, *size, border=cv2.BORDER_REPLICATE)
        if grain is not None:
            noise = grain.draw(part.shape[0], part.shape[1], upscale, seed + start)
            warped = warped + noise * np.float32(levels / 255)
        weight = warp(mask, to_part, *size, border=cv2.BORDER_REPLICATE)
        for above in range(0, len(part), BLENDED_ROWS):
            few = slice(above, above + BLENDED_ROWS)
            _blend(part[few], warped[few].clip(0, levels), weight[few].clip(0, 1))


def _blend(part: np.ndarray, face: np.ndarray, weight: np.ndarray) -> None:
    """Change `part`, RGB uint8 or uint16 (h,w,3), to `face`, of any type, by `weight` (h,w) float32 in [0, 1]."""
    change = cv2.subtract(face, part, dtype=cv2.CV_32F)
    change *= cv2.merge([weight] * 3)
    change += part
    part[:] = np.rint(change, out=change)
