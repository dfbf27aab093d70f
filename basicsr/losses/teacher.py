"""The base of losses that own a frozen network."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


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
