"""Pixel losses (L1, MSE, Charbonnier), losses of codes, and what losses with a teacher share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.registry import LOSS_REGISTRY, nearest

REDUCTIONS = {'none': lambda loss: loss, 'mean': torch.mean, 'sum': torch.sum}


class PixelLoss(nn.Module, ABC):
    """The weight and the reduction that the pixel losses share.

    Args:
        loss_weight: factor on the result.
        reduction: `mean` or `sum` over all elements, or `none`.

    Raises:
        ValueError: unknown reduction.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: str = 'mean') -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"unknown reduction '{reduction}'{nearest(reduction, REDUCTIONS)}")
        self.loss_weight = loss_weight
        self.reduction = reduction

    @abstractmethod
    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each element, of the shape of the inputs."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the weighted loss of two tensors of one shape: a scalar, or that shape for reduction `none`.

        Raises:
            ValueError: the shapes differ.
        """
        if pred.shape != target.shape:
            raise ValueError(f'{type(self).__name__}: shapes {tuple(pred.shape)} and {tuple(target.shape)} differ')
        return self.loss_weight * REDUCTIONS[self.reduction](self.distance(pred, target))


@LOSS_REGISTRY.register()
class L1Loss(PixelLoss):
    """|pred - target|; arguments as for `PixelLoss`."""

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the absolute difference."""
        return F.l1_loss(pred, target, reduction='none')


@LOSS_REGISTRY.register()
class MSELoss(PixelLoss):
    """(pred - target)^2; arguments as for `PixelLoss`."""

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the squared difference."""
        return F.mse_loss(pred, target, reduction='none')


@LOSS_REGISTRY.register()
class CharbonnierLoss(PixelLoss):
    """sqrt((pred - target)^2 + eps), an L1 loss that is smooth at zero (Lai et al., LapSRN, CVPR 2017).

    Args:
        loss_weight: factor on the result.
        reduction: `mean`, `sum` or `none`.
        eps: added under the root; the loss of equal inputs is its root.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: str = 'mean', eps: float = 1e-12) -> None:
        super().__init__(loss_weight, reduction)
        self.eps = eps

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the smoothed absolute difference."""
        return torch.sqrt((pred - target) ** 2 + self.eps)


def code_feature_loss(lq_feat: Tensor, quant_gt: Tensor) -> Tensor:
    """Mean squared distance of the encoder's features to the target codes, which get no gradient.

    Args:
        lq_feat: features of the low-quality picture (N,C,h,w).
        quant_gt: code vectors of the ground truth, of the same shape.
    """
    return F.mse_loss(lq_feat.float(), quant_gt.detach().float())


def code_cross_entropy(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean cross entropy of the predicted codes.

    Args:
        logits: (N,P,K), P positions and K codes.
        codes: target codes (N,P), int64, 0 to K-1.
    """
    return F.cross_entropy(logits.float().transpose(1, 2), codes)


class TeacherLoss(nn.Module):
    """A loss that owns a frozen network, its teacher.

    The teacher follows the loss to a device or a precision, and is otherwise no part of it: it is in no state dict and
    no list of parameters, its gradients are off, and it stays in evaluation mode when the loss is switched to training.

    Args:
        teacher: a network with its weights loaded.
    """

    teacher: nn.Module

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        # Past nn.Module.__setattr__, which would register it.
        object.__setattr__(self, 'teacher', teacher.eval().requires_grad_(False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)
