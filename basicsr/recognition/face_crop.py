"""The crop of an aligned face that a recognizer wants: a differentiable, anti-aliased similarity warp."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.templates import ARCFACE_112, FFHQ_512

SMALLEST = 64  # side of a face, pixels
ROOM = 2.0  # landmarks may shrink a face this much more than the template before samples lie over a pixel apart
MOST_SAMPLES = 16  # a side, for one pixel of the crop


def _spread(points: np.ndarray) -> float:
    """Root of the summed squared distances to the mean; the scale of a similarity is nearly the ratio of two."""
    return float(np.sqrt(((points - points.mean(0)) ** 2).sum()))


FFHQ_SPREAD = _spread(FFHQ_512)
FFHQ_POINTS = FFHQ_512.tolist()


def inverse_similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the way back of the least-squares similarity from `source` to `target`.

    With both point sets about their means, the best factor of rotation and scale is a + ib = <source, target> /
    <source, source> in complex numbers (Umeyama 1991 in two dimensions).

    Args:
        source: (N,5,2), pixels.
        target: (5,2), pixels of the crop.

    Returns:
        The matrices (N,2,3) from crop to picture, and the scales (N,) from picture to crop.
    """
    source_mean, target_mean = source.mean(dim=1), target.mean(dim=0)
    z, t = source - source_mean[:, None], target - target_mean
    spread = z.square().sum(dim=(1, 2))
    a = (z * t).sum(dim=(1, 2)) / spread
    b = (z[..., 0] * t[..., 1] - z[..., 1] * t[..., 0]).sum(dim=1) / spread
    power = a.square() + b.square()
    linear = torch.stack([a, b, -b, a], dim=1).view(-1, 2, 2) / power[:, None, None]
    shift = source_mean - linear @ target_mean
    return torch.cat([linear, shift[..., None]], dim=2), power.sqrt()


class FaceCrop(nn.Module):
    """Faces seen through the similarity that brings their landmarks nearest to a template.

    Where the crop shrinks the face, each of its pixels is the mean of a grid of bilinear samples over the area that it
    covers. Bilinear interpolation has about a pixel's blur already; the grid's width adds what lacks to the blur of the
    whole area (variances add up), so that it is nothing where nothing shrinks, and grows from there without a step. The
    number of samples follows from the picture's size alone: no value on the device decides what is computed.

    Args:
        template: where the landmarks belong in the crop, (5,2) pixels.
        size: height and width of the crop.
    """

    def __init__(self, template: np.ndarray, size: tuple[int, int]) -> None:
        super().__init__()
        self.points = template.tolist()
        self.spread = _spread(template)
        self.size = size

    def forward(self, faces: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Return the crops (N,C,h,w); what lies outside a picture is 0.

        Args:
            faces: (N,C,H,W); square and on the FFHQ template unless `landmarks` are given.
            landmarks: (N,5,2), pixels (x, y) with (0, 0) the centre of the first; they get no gradient.

        Raises:
            ValueError: faces too small, or not square without landmarks; landmarks of another shape or in one place.
        """
        number, _, height, width = faces.shape
        _check(faces, landmarks)
        dtype = torch.promote_types(faces.dtype, torch.float32)
        if landmarks is None:
            source = (torch.tensor(FFHQ_POINTS, dtype=dtype, device=faces.device)[None] + 0.5) * (height / 512) - 0.5
        else:
            source = landmarks.detach().to(faces.device, dtype)
        target = torch.tensor(self.points, dtype=dtype, device=faces.device)
        matrix, scale = inverse_similarity(source, target)
        samples = self._samples(max(height, width), landmarks is not None)
        x, y = (self._positions(side, samples, scale) for side in (self.size[1], self.size[0]))
        column, row = matrix[:, None, None, :, 0], matrix[:, None, None, :, 1]
        places = x[:, None, :, None] * column + y[:, :, None, None] * row + matrix[:, None, None, :, 2]
        grid = (2 * places + 1) / places.new_tensor([width, height]) - 1
        grid = grid.expand(number, -1, -1, -1).to(faces.dtype)
        return F.avg_pool2d(F.grid_sample(faces, grid, padding_mode='zeros', align_corners=False), samples)

    def _samples(self, side: int, with_landmarks: bool) -> int:
        shrinking = FFHQ_SPREAD * side / 512 / self.spread * (ROOM if with_landmarks else 1)
        return min(max(1, ceil(shrinking - 1e-6)), MOST_SAMPLES)  # rounding must not cost a sample

    @staticmethod
    def _positions(side: int, samples: int, scale: Tensor) -> Tensor:
        """Return the positions of each pixel's samples in a row, (N,side*samples), in pixels of the crop."""
        steps = torch.arange(side * samples, dtype=scale.dtype, device=scale.device)
        pixel = torch.div(steps, samples, rounding_mode='floor')
        offset = (steps - pixel * samples + 0.5) / samples - 0.5
        area = (1 - scale.square()).clamp(min=0).sqrt()
        return pixel + offset * area[:, None]


def _check(faces: Tensor, landmarks: Tensor | None) -> None:
    number, _, height, width = faces.shape
    if min(height, width) < SMALLEST:
        raise ValueError(f'a face of {width}x{height} pixels is too small to be recognized; {SMALLEST} are the least')
    if landmarks is None and height != width:
        raise ValueError(f'a picture of {width}x{height} pixels is no face on the FFHQ template; give its landmarks')
    if landmarks is None:
        return
    if landmarks.shape != (number, 5, 2):
        raise ValueError(f'landmarks of shape {tuple(landmarks.shape)} instead of {(number, 5, 2)}')
    # Looking at values waits for the device and cannot be compiled.
    if not torch.compiler.is_compiling() and not (landmarks.std(dim=1).sum(dim=1) > 0).all():
        raise ValueError(f'landmarks that coincide or are no numbers: {landmarks.tolist()}')


def image_encoder_crop() -> FaceCrop:
    """Return the crop for the image encoder of IP-Adapter FaceID-Plus: a recognizer's, twice as large."""
    return FaceCrop(2 * ARCFACE_112, (224, 224))
