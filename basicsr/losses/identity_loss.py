"""Identity loss: how far the face recognizer puts a face from the one it should be."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.losses.basic_loss import REDUCTIONS, TeacherLoss
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.registry import LOSS_REGISTRY, nearest


@LOSS_REGISTRY.register()
class IdentityLoss(TeacherLoss):
    """1 - cos(R(pred), R(target)) with a frozen face recognizer R (Deng et al., ArcFace, CVPR 2019).

    The target is a picture, or an embedding, for example that of a reference photograph of the same person. Only the
    prediction gets a gradient.

    Args:
        loss_weight: factor on the result, lambda_ids.
        weights: the recognizer, see `FaceEmbedder`. Required.
        reduction: `mean` or `sum` over the faces, or `none`.
        every: the iterations between two on which the loss is due; the one who calls it asks `is_due`.
        flip: embed the mirrored faces as well.
        arch: the recognizer that the file must hold.

    Raises:
        ValueError: unknown reduction, or `every` below 1.
        CheckpointError: see `FaceEmbedder`.
    """

    def __init__(
        self,
        loss_weight: float = 0.1,
        weights: str | Path | None = None,
        reduction: str = 'mean',
        every: int = 1,
        flip: bool = False,
        arch: str | None = None,
    ) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(f"unknown reduction '{reduction}'{nearest(reduction, REDUCTIONS)}")
        if every < 1:
            raise ValueError(f"IdentityLoss: 'every' is {every}, and must be at least 1")
        super().__init__(FaceEmbedder(weights, flip, arch))
        self.loss_weight = loss_weight
        self.reduction = reduction
        self.every = every

    @property
    def embedder(self) -> FaceEmbedder:
        """The frozen recognizer with its crop."""
        return cast(FaceEmbedder, self.teacher)

    def is_due(self, iteration: int) -> bool:
        """Return True if iteration `iteration` computes this loss: every `every`-th does, 0 included."""
        return iteration % self.every == 0

    def cosine(
        self,
        pred: Tensor,
        target: Tensor | None = None,
        landmarks: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> Tensor:
        """Return the cosine of each face and its target, (N,), float32; arguments as for `forward`."""
        if (target is None) == (embedding is None):
            raise ValueError('IdentityLoss: give a target picture or a target embedding, and not both')
        with torch.no_grad():
            wanted = self.teacher(target, landmarks) if embedding is None else F.normalize(embedding, dim=-1)
        found = self.teacher(pred, landmarks)
        if wanted.shape[-1] != found.shape[-1] or wanted.shape[:-1] not in ((), (1,), found.shape[:-1]):
            raise ValueError(
                f'IdentityLoss: target embeddings of shape {tuple(wanted.shape)} for predictions of '
                f'{tuple(found.shape)} by {self.embedder.name}'
            )
        return (found * wanted.to(found)).sum(dim=-1)

    def forward(
        self,
        pred: Tensor,
        target: Tensor | None = None,
        landmarks: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted loss, a scalar, or (N,) for reduction `none`.

        Args:
            pred: faces (N,3,H,W), RGB, in [-1, 1], on the FFHQ template; they get the gradient.
            target: faces that the predictions should be, of any side; they get none.
            landmarks: (N,5,2) pixels of both pictures, instead of the template's.
            embedding: (N,D) or (D,) instead of `target`: what this loss's `embedder` makes of other photographs.

        Raises:
            ValueError: not exactly one of `target` and `embedding`, or shapes that do not fit.
        """
        loss = 1 - self.cosine(pred, target, landmarks, embedding)
        return self.loss_weight * REDUCTIONS[self.reduction](loss)
