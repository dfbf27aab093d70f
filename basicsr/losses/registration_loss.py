"""Registration loss: correlation of two faces, smoothness, known bends.

Local normalized cross-correlation as in VoxelMorph (Balakrishnan et al., IEEE TMI 2019), on luma.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.face_aligner_arch import warp
from basicsr.utils.registry import LOSS_REGISTRY

LUMA = (0.299, 0.587, 0.114)
REFERENCE_SIDE = 128
"""Displacements are judged in pixels of a face of this side."""
SIDES = (128, 256)
"""Sides to which larger pictures are reduced for the correlation."""


def luma(image: Tensor) -> Tensor:
    """Brightness (N,1,H,W) of RGB pictures (N,3,H,W)."""
    return (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def lncc(a: Tensor, b: Tensor, window: int = 9, eps: float = 1e-3) -> Tensor:
    """Local normalized cross-correlation, ().

    The mean of cov / sqrt((var_a + eps) (var_b + eps)) over all windows. Those at the edges count the pixels that they
    have, and flat ones count nothing.

    Args:
        a, b: (N,1,H,W), float32 or better.
        window: side in pixels, odd.
        eps: added to the variances.
    """

    def box(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)

    mean_a, mean_b = box(a), box(b)
    var_a, var_b = box(a * a) - mean_a**2, box(b * b) - mean_b**2
    cov = box(a * b) - mean_a * mean_b
    return (cov / ((var_a + eps) * (var_b + eps)).sqrt()).mean()


def similarity(a: Tensor, b: Tensor, window: int = 9) -> Tensor:
    """Mean `lncc` of the luma of faces (N,3,S,S), ().

    Faces larger than a side of `SIDES` are reduced to it by area.
    """
    a, b = luma(a.float()), luma(b.float())
    sides = sorted({min(a.shape[2], side) for side in SIDES})
    pairs = [[F.interpolate(x, size=(side, side), mode='area') for x in (a, b)] for side in sides]
    values = [lncc(x, y, window) for x, y in pairs]
    return torch.stack(values).mean()


def smoothness(phi: Tensor) -> Tensor:
    """Mean squared slope of a field (N,2,S,S), ().

    mean |dphi/dx|^2 + mean |dphi/dy|^2 by forward differences; the same at every scale.
    """
    return (phi.diff(dim=3) ** 2).sum(1).mean() + (phi.diff(dim=2) ** 2).sum(1).mean()


def residual_bend(phi: Tensor, bend: Tensor, eps: float = 0.01) -> Tensor:
    """Mean distance of each field from the inverse of a bend, (N,).

    mean sqrt(|phi(x) + bend(x + phi(x))|^2 + eps) of fields (N,2,S,S), in pixels of a face of `REFERENCE_SIDE`;
    sqrt(eps) for the exact inverse.
    """
    left = (phi + warp(bend, phi)) * (REFERENCE_SIDE / phi.shape[3])
    return (left.square().sum(1) + eps).sqrt().mean((1, 2))


class RegistrationTerms(NamedTuple):
    """Terms of the loss, weighted, and the correlation for the log.

    Attributes:
        similarity: 1 - LNCC.
        smoothness: of the field.
        bend: of the faces whose bend is known; None where there is none.
        lncc: LNCC, without a graph.
    """

    similarity: Tensor
    smoothness: Tensor
    bend: Tensor | None
    lncc: Tensor


@LOSS_REGISTRY.register()
class RegistrationLoss(nn.Module):
    """Loss of the first stage of CodeFormer++.

    (1 - LNCC) + smooth_weight * smoothness + bend_weight * residual bend.

    Args:
        smooth_weight: of `smoothness`.
        bend_weight: of `residual_bend`.
        window: side of the correlation's windows, odd.

    Raises:
        ValueError: a weight below 0, or a window that is even or below 3.
    """

    def __init__(self, smooth_weight: float = 0.1, bend_weight: float = 0.1, window: int = 9) -> None:
        super().__init__()
        if smooth_weight < 0 or bend_weight < 0:
            raise ValueError('RegistrationLoss: smooth_weight and bend_weight must be 0 or more')
        if window < 3 or window % 2 == 0:
            raise ValueError(f"RegistrationLoss: 'window' is {window}, and must be odd and 3 or more")
        self.smooth_weight, self.bend_weight, self.window = smooth_weight, bend_weight, window

    def forward(
        self, generated: Tensor, faithful: Tensor, phi: Tensor, bend: Tensor | None = None, bent: Tensor | None = None
    ) -> RegistrationTerms:
        """Judge a field by what it makes of pictures.

        Args:
            generated: faces to be bent (N,3,S,S) in [-1, 1].
            faithful: faces that they should lie on (N,3,S,S).
            phi: the field (N,2,S,S) in pixels; it gets the gradient.
            bend: fields that the generated faces were bent by before (N,2,S,S).
            bent: which faces were (N,), bool; None means all where `bend` is given.
        """
        correlation = similarity(warp(generated, phi), faithful, self.window)
        known = None
        if bend is not None and (bent is None or bent.any()):
            residual = residual_bend(phi, bend)
            known = self.bend_weight * (residual if bent is None else residual[bent]).mean()
        return RegistrationTerms(1 - correlation, self.smooth_weight * smoothness(phi), known, correlation.detach())
