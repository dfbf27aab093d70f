"""Both stages of CodeFormer++: registration, then texture transfer.

Reddem et al., arXiv 2510.04410.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.archs import CodeFormerPlusPlus
from basicsr.archs.face_aligner_arch import folded, warp
from basicsr.losses import DeepMetricLoss, IdentityLoss, RegistrationLoss, build_loss
from basicsr.losses.metric_loss import component_mask, hard_positive
from basicsr.losses.registration_loss import REFERENCE_SIDE, similarity
from basicsr.models.base_model import BaseModel, Batch, Terms, logger
from basicsr.models.codeformer_joint_model import every_second
from basicsr.models.gan import AdversarialLosses
from basicsr.models.image_losses import ImageLosses, random_window, window_side
from basicsr.utils.options import OptionError
from basicsr.utils.registry import MODEL_REGISTRY

BEND_POINTS = 5
"""Points a side that a random bend moves; between them the movement is smooth."""


def random_bend(count: int, side: int, deviation: float) -> Tensor:
    """Draw smooth fields (N,2,S,S) in pixels, bicubic between 5x5 normal points.

    Args:
        count: N.
        side: S.
        deviation: of a point's displacement along an axis, share of S.
    """
    points = torch.randn(count, 2, BEND_POINTS, BEND_POINTS) * deviation * side
    return F.interpolate(points, size=(side, side), mode='bicubic', align_corners=False)


class _PlusPlusModel(BaseModel):
    """Network, data and results that both stages share.

    Without `network_g:prior` and `network_g:prior_path` the prior is that of `path:pretrain_network_g`.

    Raises:
        OptionError: no weights for the prior, or an option that this network has no use for.
    """

    frozen: ClassVar[tuple[str, ...]]
    """Sub-modules that the stage does not train, beside the prior; `network_g:fix_modules` says otherwise."""

    def __init__(self, opt: Mapping[str, Any], device: torch.device | str = 'cpu', is_train: bool = True) -> None:
        super().__init__(opt, device, is_train)
        network = {'fix_modules': list(self.frozen), **opt['network_g']}
        pretrained = (opt.get('path') or {}).get('pretrain_network_g')
        if not network.get('prior') and not network.get('prior_path'):
            network['prior_path'] = pretrained
        if not network.get('prior_path') and not pretrained:
            raise OptionError(
                'network_g:prior_path is missing: the prior needs the weights of a CodeFormer '
                "('python scripts/download_pretrained_models.py CodeFormer' fetches the published ones)"
            )
        if self.train_opt.get('grad_checkpointing'):
            raise OptionError('train:grad_checkpointing: the prior has no gradient here; leave it out')
        average = self.train_opt.get('ema_decay') or 0
        self.net_g = cast(CodeFormerPlusPlus, self.add_network('net_g', network, average))
        if is_train:
            self.add_optimizer('optim_g', self.net_g)
            self.init_training()

    @abstractmethod
    def init_training(self) -> None:
        """Set up the losses of the stage."""

    def restore_twice(self, batch: Batch, iteration: int) -> tuple[Tensor, Tensor]:
        """Restore a batch's faces: I_F and I_G (N,3,S,S).

        Mildly and severely damaged ones take turns where it has both.
        """
        source = batch['in']
        if 'in_large_de' in batch:
            source = every_second(source, batch['in_large_de'], iteration)
        with self.autocast():
            faithful, generated, *_ = self.net_g.restore_twice(source)
        return faithful.float(), generated.float()


@MODEL_REGISTRY.register()
class CodeFormerPPAlignModel(_PlusPlusModel):
    """Stage 1: registration. Loss: `train:registration_opt`, see `RegistrationLoss`.

    No truth is needed.

    A share of the generated faces (`train:bend`: `prob` 0.5) is bent at random before, by points of `deviation` 0.026
    of the side; the field should undo that too. Logs `lncc_before` and `lncc` (correlation with I_F before and after),
    `shift` (mean displacement in pixels of a 128-pixel face) and `folded` (share of the field that folds).
    """

    LOSS_SECTIONS = frozenset({'registration_opt'})

    frozen = ('tgrn',)

    def init_training(self) -> None:
        """Set up the loss, and the bending of faces."""
        self.loss = cast(
            RegistrationLoss,
            build_loss(self.train_opt.get('registration_opt') or {'type': 'RegistrationLoss'}).to(self.device),
        )
        bend = self.train_opt.get('bend') or {}
        self.bend_prob, self.deviation = bend.get('prob', 0.5), bend.get('deviation', 0.026)
        if not 0 <= self.bend_prob <= 1 or not 0 <= self.deviation <= 0.1:
            raise OptionError('train:bend: prob must be from 0 to 1, deviation from 0 to 0.1')

    def generator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Return the loss sum of stage 1."""
        faithful, generated = self.restore_twice(batch, iteration)
        count, side = len(faithful), faithful.shape[3]
        bent = (torch.rand(count) < self.bend_prob).to(self.device)
        bend = random_bend(count, side, self.deviation).to(self.device) * bent.view(-1, 1, 1, 1)
        generated = torch.where(bent.view(-1, 1, 1, 1), warp(generated, bend, 'bicubic'), generated)
        with self.autocast():
            phi = self.net_g.dam(generated, faithful)
        terms = self.loss(generated, faithful, phi, bend, bent)
        with torch.no_grad():
            self.log['lncc_before'] = similarity(generated, faithful).item()
            self.log['lncc'] = terms.lncc.item()
            self.log['shift'] = phi.norm(dim=1).mean().item() * REFERENCE_SIDE / side
            self.log['folded'] = folded(phi).item()
        losses = {'l_lncc': terms.similarity, 'l_smooth': terms.smoothness, 'l_bend': terms.bend}
        return {name: term for name, term in losses.items() if term is not None}

    @torch.no_grad()
    def infer(self, batch: Batch) -> Tensor:
        """I_warp."""
        network = cast(CodeFormerPlusPlus, self.get_bare_model())
        with self.autocast():
            faithful, generated, *_ = network.restore_twice(batch['lq'])
            return network.align(generated, faithful).float()


@MODEL_REGISTRY.register()
class CodeFormerPPModel(_PlusPlusModel):
    """Stage 2: texture transfer. Loss: pixel + perceptual [+ metric] [+ identity] [+ adversarial].

    `train:metric_opt` (see `DeepMetricLoss`), `identity_opt` (see `IdentityLoss`) and `gan_opt` with `network_d` are
    left out where the options have none. With `train:crop` texture is transferred, and judged, in a random window of
    this many pixels, a multiple of 4; recognizers see whole faces, so the two identity terms must be off then.

    Raises:
        OptionError: see above.
    """

    LOSS_SECTIONS = frozenset({'pixel_opt', 'perceptual_opt', 'gan_opt', 'metric_opt', 'identity_opt', 'losses'})

    frozen = ('dam',)

    def init_training(self) -> None:
        """Losses and discriminator."""
        train = self.train_opt
        self.image_losses = ImageLosses(self)
        if not self.image_losses.always_some:
            raise OptionError('train: give pixel_opt, perceptual_opt, or losses that are due in every iteration')
        metric, identity = train.get('metric_opt'), train.get('identity_opt')
        self.metric = cast(DeepMetricLoss, build_loss(metric).to(self.device)) if metric else None
        self.identity = cast(IdentityLoss, build_loss(identity).to(self.device)) if identity else None
        self.gan = AdversarialLosses(self, lambda: self.net_g.tgrn.last.weight)
        self.crop = window_side(self)
        if self.crop % 4:
            raise OptionError(f'train:crop {self.crop}: the texture transfer needs a multiple of 4')
        if self.crop and (self.identity or (self.metric and self.metric.identity)):
            raise OptionError(
                'train:crop: a recognizer needs whole faces; leave it out, or identity_opt and metric_opt:id_recognizer'
            )
        if self.net_g.texture_from == 'I_warp' and not self.net_g.registers:
            logger.warning(
                'network_g: the aligner is untrained, so I_G is not registered; give path:pretrain_network_g, the '
                'result of stage 1, or say network_g:texture_from: I_G'
            )

    def generator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Return the loss sum of stage 2."""
        gt, landmarks = batch['gt'], batch.get('landmarks')
        faithful, generated = self.restore_twice(batch, iteration)
        with self.autocast(), torch.no_grad():
            warped = self.net_g.texture_source(faithful, generated).float()
        positive = hard_positive(faithful, warped, component_mask(gt.shape[3], landmarks).to(gt.device))
        gt, faithful, generated, warped, positive = random_window(self.crop, gt, faithful, generated, warped, positive)
        with self.autocast():
            output = self.net_g.tgrn(faithful, warped).float()
        self.output, self.target = output, gt
        terms = self.image_losses(output, gt, iteration)
        terms |= self.gan.generator_terms(output, terms, iteration)
        if self.metric is not None:
            with self.autocast():
                found = self.metric(output, gt, faithful, generated, positive, landmarks)
            terms['l_dml'] = found.texture
            self.log['dml_active'] = found.texture_active
            if found.identity is not None:
                terms['l_dml_id'] = found.identity
                self.log['dml_id_active'] = cast(float, found.identity_active)
        if self.identity is not None and self.identity.is_due(iteration):
            terms['l_ids'] = self.identity(output, gt, landmarks)
        return terms

    def discriminator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Real against restored."""
        return self.gan.discriminator_terms(self.target, self.output, iteration)

    @torch.no_grad()
    def infer(self, batch: Batch) -> Tensor:
        """I_out, the restored face."""
        with self.autocast():
            return self.get_bare_model()(batch['lq'])[0].float()
