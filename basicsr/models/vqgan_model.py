"""Stage I: learn codebook, encoder and generator on good faces (VQGAN, Esser et al., CVPR 2021; CodeFormer, eq. 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from basicsr.archs import VQAutoEncoder
from basicsr.losses import IdentityLoss, build_loss
from basicsr.models.base_model import BaseModel, Batch, Terms
from basicsr.models.codebook_ema import CodebookEMA, kmeans
from basicsr.models.gan import AdversarialLosses
from basicsr.models.image_losses import ImageLosses, random_window, window_side
from basicsr.utils.dist import broadcast
from basicsr.utils.options import OptionError
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class VQGANModel(BaseModel):
    """Loss: pixel + perceptual + codebook + adversarial [+ identity, `train:identity_opt`] [+ `train:losses`].

    With `train:codebook_warmup` (`iters`, `samples`) the first iterations train a plain autoencoder; then the codebook
    is set by k-means on `samples` of its features, which spares the time that codes need to come alive. With
    `train:codebook_ema` (`decay`, `dead_code_threshold`) codes follow the mean of their features instead of a gradient.
    With `train:crop` pixel, perceptual and adversarial losses see a random window of this many pixels.
    """

    LOSS_SECTIONS = frozenset({'pixel_opt', 'perceptual_opt', 'gan_opt', 'codebook_opt', 'identity_opt', 'losses'})

    def __init__(self, opt: Mapping[str, Any], device: torch.device | str = 'cpu', is_train: bool = True) -> None:
        super().__init__(opt, device, is_train)
        train = self.train_opt
        self.warming = False
        self.net_g = cast(VQAutoEncoder, self.add_network('net_g', opt['network_g'], train.get('ema_decay') or 0))
        if is_train:
            self.init_training()

    def init_training(self) -> None:
        """Losses, optimisers and the codebook's warm-up."""
        train = self.train_opt
        average = train.get('codebook_ema')
        self.codebook_ema = None
        if average is not None:
            self.codebook_ema = CodebookEMA(self.net_g.quantize.codes.data, **average)
            self.net_g.quantize.requires_grad_(False)
        self.add_optimizer('optim_g', self.net_g)
        self.image_losses = ImageLosses(self)
        if not self.image_losses.always_some:
            raise OptionError('train: give pixel_opt, perceptual_opt, or losses that are due in every iteration')
        self.codebook_weight = (train.get('codebook_opt') or {}).get('loss_weight', 1.0)
        self.gan = AdversarialLosses(self, lambda: self.net_g.generator.last_layer)
        identity = train.get('identity_opt')
        self.identity = cast(IdentityLoss, build_loss(identity).to(self.device)) if identity else None
        warmup = train.get('codebook_warmup') or {}
        self.warmup_iters = int(warmup.get('iters', 0))
        self.warmup_samples = int(warmup.get('samples', 32768))
        self.features = torch.empty(0, self.net_g.emb_dim)
        self._check_warmup()
        self.crop = window_side(self)

    def _check_warmup(self) -> None:
        """Raise OptionError where the warm-up gathers fewer features than there are codes."""
        faces = int(self.opt['datasets']['train'].get('batch_size_per_gpu') or 1)
        batch = faces * self.net_g.latent_side**2
        last = min(self.warmup_iters, -(-self.warmup_samples // batch))  # iterations in which they are gathered
        gathered = last * batch * int(self.train_opt.get('accumulate') or 1)
        if self.warmup_iters and gathered < self.net_g.codebook_size:
            raise OptionError(
                f'train:codebook_warmup gathers {gathered} features for {self.net_g.codebook_size} codes; raise iters '
                'or samples'
            )

    def before_iteration(self, iteration: int) -> None:
        """After the warm-up, set the codebook."""
        self.warming = iteration <= self.warmup_iters
        if self.warmup_iters and iteration == self.warmup_iters + 1:
            codes = kmeans(self.features, self.net_g.codebook_size, seed=self.seed).to(self.device)
            broadcast([codes])
            self._set_codes(codes, (self.net_g, *self.averages.values()))
            if self.codebook_ema:
                self.codebook_ema.restart()
            self.features = self.features[:0]

    def generator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Return the loss sum of stage I."""
        gt, net = batch['gt'], self.net_g
        with self.autocast():
            feat = net.encoder(net.to_input(gt))
            quant, l_codebook, stats = (feat, None, {}) if self.warming else net.quantize(feat)
            output = net.generator(quant)
        whole = output.float(), gt
        self.output, self.target = random_window(self.crop, *whole)
        terms = self.image_losses(self.output, self.target, iteration, whole)
        terms |= self.gan.generator_terms(self.output, terms, iteration)
        if self.identity and self.identity.is_due(iteration):
            terms['l_ids'] = self.identity(output.float(), gt)
        features = feat.detach().float().permute(0, 2, 3, 1).reshape(-1, net.emb_dim)
        if l_codebook is None:
            self._collect(features, iteration)
        else:
            terms['l_codebook'] = self.codebook_weight * l_codebook
            self.log['perplexity'] = stats['perplexity'].item()
            self.assigned = features, stats['min_encoding_indices'].flatten()
        return terms

    def after_backward(self) -> None:
        """Move the codes to the means of their features, where they are running means."""
        if self.codebook_ema and not self.warming:
            self.codebook_ema.update(*self.assigned)
            self._set_codes(self.net_g.quantize.codes, self.averages.values())

    def discriminator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Real against reconstructed."""
        return self.gan.discriminator_terms(self.target, self.output, iteration)

    @torch.no_grad()
    def infer(self, batch: Batch) -> Tensor:
        """Return the reconstruction of the ground truth."""
        with self.autocast():
            return self.get_bare_model()(batch['gt'], use_codes=not self.warming)[0].float()

    def _set_codes(self, codes: Tensor, networks: Iterable[nn.Module]) -> None:
        for network in networks:
            cast(VQAutoEncoder, network).quantize.codes.data.copy_(codes)

    def _collect(self, features: Tensor, iteration: int) -> None:
        """Gather features (n,emb_dim) for k-means in the last iterations of the warm-up."""
        if iteration > self.warmup_iters - -(-self.warmup_samples // len(features)):
            self.features = torch.cat([self.features, features.cpu()])

    def extra_state(self) -> dict[str, Any]:
        """Return the features gathered for k-means, and the running means of the codebook."""
        average = self.codebook_ema
        means = {'codebook_ema': average.state()} if average else {}
        return {'features': self.features, 'warming': self.warming, **means}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        features, warming = state['features'], state.get('warming', False)
        if features.shape[1:] != self.features.shape[1:] or not isinstance(warming, bool):
            raise TypeError('the features of the warm-up are of another kind')
        self.features, self.warming = features, warming
        if self.codebook_ema and 'codebook_ema' in state:
            self.codebook_ema.load_state(state['codebook_ema'])
