"""The adaptive weight of the adversarial loss."""

from __future__ import annotations

import torch
from torch import Tensor


def adaptive_disc_weight(
    recon_loss: Tensor, gan_loss: Tensor, last_layer: Tensor, disc_weight_max: float = 1.0
) -> Tensor:
    """|d recon_loss / d last_layer| / (|d gan_loss / d last_layer| + 1e-4), between 0 and `disc_weight_max`.

    It balances the two losses at the generator's last layer (VQGAN, Esser et al., CVPR 2021, equation 7). Both graphs
    are kept for the backward pass that follows.

    Args:
        recon_loss: scalar.
        gan_loss: scalar, the generator's.
        last_layer: the weight of the last layer that both depend on.
        disc_weight_max: upper bound.

    Returns:
        A scalar without a graph.
    """
    recon_grad = torch.autograd.grad(recon_loss, last_layer, retain_graph=True)[0]
    gan_grad = torch.autograd.grad(gan_loss, last_layer, retain_graph=True)[0]
    return (recon_grad.norm() / (gan_grad.norm() + 1e-4)).clamp(0, disc_weight_max).detach()
