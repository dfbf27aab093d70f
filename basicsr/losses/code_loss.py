"""Losses on the code sequence (CodeFormer, Zhou et al., NeurIPS 2022, equations 4 and 5)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
