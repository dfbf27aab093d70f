"""What a stage passes on between predicting codes and the terms that judge them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from basicsr.archs.idcodeformer_arch import Identity


class Prediction(NamedTuple):
    """What a network says of degraded faces.

    Attributes:
        lq_feat: encoder features (N,emb_dim,s,s).
        seen: encoder features for the fusion, by side; empty without fusion.
        logits: code logits (N,positions,K).
    """

    lq_feat: Tensor
    seen: Mapping[int, Tensor]
    logits: Tensor

    def fused(self, faces: int | None = None, detach: bool = True) -> dict[int, Tensor]:
        """What the fusion gets of the first faces (all by default); detached, as published, or not."""
        return {side: (feat.detach() if detach else feat)[:faces] for side, feat in self.seen.items()}


def known(who: Identity | None) -> dict[str, Any]:
    """The argument by which a conditioned network's parts are told whom they see; none for another network."""
    return {} if who is None else {'who': who}
