"""Identity of the faces of a batch, as networks take it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Normalize vectors along `dim`, and keep zero.

    The usual 1e-12 is zero in float16.
    """
    return F.normalize(vectors, dim=dim, eps=max(1e-12, torch.finfo(vectors.dtype).tiny))


class Identity(NamedTuple):
    """Identity of the faces of a batch.

    Attributes:
        vectors: unit embeddings of the references (N,R,D); zero where there is none.
        confidence: how far each can be trusted (N,R), from 0 (as if it were not there) to 1.
        scale: strength of the styling path of IA-CFT, 0 to 2.
    """

    vectors: Tensor
    confidence: Tensor
    scale: float = 1.0

    def to(self, dtype: torch.dtype) -> Identity:
        """Return the identity in another precision."""
        return self._replace(vectors=self.vectors.to(dtype), confidence=self.confidence.to(dtype))

    def first(self, faces: int) -> Identity:
        """Return the identity of the first faces of the batch."""
        return self._replace(vectors=self.vectors[:faces], confidence=self.confidence[:faces])

    def only(self, reference: int) -> Identity:
        """Return the identity by one of the references alone."""
        part = slice(reference, reference + 1)
        return self._replace(vectors=self.vectors[:, part], confidence=self.confidence[:, part])

    def rolled(self) -> Identity:
        """Return the identity of the next face of the batch for each face."""
        return self._replace(vectors=self.vectors.roll(-1, 0), confidence=self.confidence.roll(-1, 0))

    @property
    def max_confidence(self) -> Tensor:
        """Confidence of the most trusted reference of each face (N,)."""
        return self.confidence.amax(1)

    @property
    def mean(self) -> Tensor:
        """The mean embedding (N,D) by confidence, of unit length; zero where nothing is known."""
        return unit((self.confidence[..., None] * self.vectors).sum(1), dim=1)
