"""The adversarial part that stages I and III share: discriminator, adaptive weight, and when each starts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from basicsr.losses import adaptive_disc_weight, build_loss
from basicsr.models.base_model import BaseModel, Terms
from basicsr.utils.options import OptionError


class AdversarialLosses:
    """Adversarial terms, none when the options name no `network_d` and `gan_opt`.

    Options (`train`): `gan_opt`, `net_d_start_iter` (no terms up to it), `use_adaptive_weight` (default true) times
    `scale_adaptive_gan_weight` (default 0.8), or else the constant factor `disc_weight` (default 0.8).

    Raises:
        OptionError: one of discriminator and loss without the other.

    Args:
        model: the stage, which gets the discriminator and its optimiser.
        last_layer: the layer at which the adaptive weight compares gradients.
    """

    def __init__(self, model: BaseModel, last_layer: Callable[[], Tensor]) -> None:
        train = model.train_opt
        self.model = model
        self.last_layer = last_layer
        self.enabled = bool(train.get('gan_opt'))
        if self.enabled != bool(model.opt.get('network_d')):
            raise OptionError('adversarial training needs both network_d and train:gan_opt; give both or neither')
        if not self.enabled:
            return
        self.net_d = model.add_network('net_d', model.opt['network_d'])
        model.add_optimizer('optim_d', self.net_d)
        self.criterion = build_loss(train['gan_opt'])
        self.start = int(train.get('net_d_start_iter') or 0)
        self.adaptive = train.get('use_adaptive_weight', True)
        self.scale = train.get('scale_adaptive_gan_weight', 0.8) if self.adaptive else train.get('disc_weight', 0.8)

    def generator_terms(self, output: Tensor, reconstruction: Terms, iteration: int) -> Terms:
        """Return the generator's term for `output` (N,3,H,W), weighed against the sum of the reconstruction terms."""
        if not self.enabled or iteration <= self.start:
            return {}
        with self.model.autocast():
            fake = self.net_d(output).float()
        loss = self.criterion(fake, True, is_disc=False)
        weight = self.scale
        if self.adaptive:
            total = torch.stack(list(reconstruction.values())).sum()
            scale = self.model.scaler.scale  # so that fp16 gradients do not vanish; the ratio stays the same
            ratio = adaptive_disc_weight(scale(total), scale(loss), self.last_layer())
            if self.model.scaler.is_enabled():  # after an overflow, which the scaler answers by leaving out the step
                ratio = ratio.nan_to_num(0)
            weight = weight * ratio
            self.model.log['d_weight'] = float(weight)
        return {'l_g_gan': weight * loss}

    def discriminator_terms(self, real: Tensor, fake: Tensor, iteration: int) -> Terms:
        """Return the discriminator's terms for real pictures and the generator's, both (N,3,H,W)."""
        if not self.enabled or iteration <= self.start:
            return {}
        with self.model.autocast():
            on_real, on_fake = self.net_d(real).float(), self.net_d(fake.detach()).float()
        self.model.log['out_d_real'] = on_real.mean().item()
        self.model.log['out_d_fake'] = on_fake.mean().item()
        return {
            'l_d_real': self.criterion(on_real, True, is_disc=True),
            'l_d_fake': self.criterion(on_fake, False, is_disc=True),
        }
