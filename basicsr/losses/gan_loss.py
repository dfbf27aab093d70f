"""Adversarial losses on a discriminator's output, and their weight beside the reconstruction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.registry import LOSS_REGISTRY, nearest

GAN_TYPES = ('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge')


@LOSS_REGISTRY.register()
class GANLoss(nn.Module):
    """The loss of one discriminator output, for the discriminator's step or the generator's.

    With D the output and y the label value:

    - `vanilla`: binary cross entropy of sigmoid(D) and y (Goodfellow et al., 2014)
    - `lsgan`: (D - y)^2 (Mao et al., 2017)
    - `wgan`: -D for real, D for fake (Arjovsky et al., 2017)
    - `wgan_softplus`: log(1 + exp(-D)) for real, log(1 + exp(D)) for fake (Karras et al., StyleGAN2, 2020)
    - `hinge`: discriminator max(0, 1 - D) for real and max(0, 1 + D) for fake; generator -D (Lim and Ye, 2017)

    Args:
        gan_type: one of the above.
        real_label_val: y of real pictures (`vanilla`, `lsgan`).
        fake_label_val: y of fake ones.
        loss_weight: factor on the generator's loss; the discriminator's is not weighted.

    Raises:
        ValueError: unknown `gan_type`.
    """

    def __init__(
        self, gan_type: str, real_label_val: float = 1.0, fake_label_val: float = 0.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        if gan_type not in GAN_TYPES:
            raise ValueError(f"unknown gan_type '{gan_type}'{nearest(gan_type, GAN_TYPES)}")
        self.gan_type = gan_type
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target_is_real: bool, is_disc: bool = False) -> Tensor:
        """Return the mean loss, a scalar.

        Args:
            pred: discriminator output of any shape, before any sigmoid.
            target_is_real: whether `pred` is to be judged real. The generator asks for True on its fakes.
            is_disc: the discriminator's step: no weight, and for `hinge` its two-sided form.
        """
        loss = self._loss(pred.float(), target_is_real, is_disc)
        return loss if is_disc else self.loss_weight * loss

    def _loss(self, pred: Tensor, target_is_real: bool, is_disc: bool) -> Tensor:
        if self.gan_type in ('vanilla', 'lsgan'):
            label = torch.full_like(pred, self.real_label_val if target_is_real else self.fake_label_val)
            criterion = F.mse_loss if self.gan_type == 'lsgan' else F.binary_cross_entropy_with_logits
            return criterion(pred, label)
        signed = -pred if target_is_real else pred
        if self.gan_type == 'wgan_softplus':
            return F.softplus(signed).mean()
        if self.gan_type == 'wgan':
            return signed.mean()
        return F.relu(1 + signed).mean() if is_disc else -pred.mean()


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
