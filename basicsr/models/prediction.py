"""Predicted codes and features, passed from a stage to its loss terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Prediction(NamedTuple):
    """Output of a network for degraded faces.

    Attributes:
        lq_feat: encoder features (N,emb_dim,s,s).
        seen: encoder features for the fusion, by side; empty without fusion.
        logits: code logits (N,positions,K).
    """

    lq_feat: Tensor
    seen: Mapping[int, Tensor]
    logits: Tensor

    def fused(self, faces: int | None = None, detach: bool = True) -> dict[int, Tensor]:
        """Return the fused features of the first faces (all by default); detached, as published, or not."""
        return {side: (feat.detach() if detach else feat)[:faces] for side, feat in self.seen.items()}
