"""Stage III: fuse encoder features under a weight w, by a curriculum over w and severity (CodeFormer, eq. 6-7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from basicsr.archs.codeformer_arch import FuseBlock
from basicsr.models.base_model import Batch, Terms
from basicsr.models.codeformer_idx_model import CodeFormerIdxModel
from basicsr.models.gan import AdversarialLosses
from basicsr.models.image_losses import random_window, window_side
from basicsr.models.schedule import Curriculum
from basicsr.utils.options import OptionError
from basicsr.utils.registry import MODEL_REGISTRY

PUBLISHED_CURRICULUM = (
    {'until': 40000, 'severity': 'small', 'w': 1.0},
    {'until': 80000, 'severity': 'small', 'w': 1.3},
    {'until': 120000, 'severity': 'large'},
    {'severity': 'mixed', 'w': 1.3, 'small_every': 15},
)
"""Curriculum of published option files, which have no `train:curriculum`."""


def every_second(first: Tensor, second: Tensor, iteration: int) -> Tensor:
    """Return the faces of two batches (N,3,S,S) in turns, beginning with the second in odd iterations.

    So terms that see the first faces alone (`sub_batch`) see those of both.
    """
    turns = (torch.arange(len(first), device=first.device) + iteration) % 2
    return torch.where(turns.view(-1, 1, 1, 1).bool(), second, first)


@MODEL_REGISTRY.register()
class CodeFormerJointModel(CodeFormerIdxModel):
    """Loss: stage II's + pixel + perceptual + adversarial, the last three where the curriculum decodes an image.

    As in the published training these three reach the fusion blocks only; with `train:end_to_end` they reach encoder
    and Transformer too, through the soft codes (`ste_temperature`) and the features that are fused. The identity term,
    on an image decoded through the soft codes at the w of the phase, always does. `train:losses` are computed where
    those three are. With `train:crop` pixel, perceptual and adversarial losses see a random window of this many pixels.
    """

    LOSS_SECTIONS = CodeFormerIdxModel.LOSS_SECTIONS | {'pixel_opt', 'perceptual_opt', 'gan_opt'}

    default_w = 1.0
    default_curriculum: Sequence[Mapping[str, Any]] = PUBLISHED_CURRICULUM

    def init_training(self) -> None:
        """Stage II's, the curriculum, and the losses on images."""
        super().init_training()
        train = self.train_opt
        if not train.get('fix_generator', True) and not self.net_g.generator.last_layer.requires_grad:
            raise OptionError('train:fix_generator is false, but network_g:fix_modules names the generator')
        self.curriculum = Curriculum(train.get('curriculum') or self.default_curriculum)
        faces = int(self.opt['datasets']['train'].get('batch_size_per_gpu') or 1)
        if faces < 2 and any(phase.severity == 'both' for phase in self.curriculum.phases):
            raise OptionError(
                'train:curriculum: severity both damages every second face of a batch much, and a batch of one has '
                'none; set datasets:train:batch_size_per_gpu to 2 or more'
            )
        self.crop = window_side(self)
        self.end_to_end = bool(train.get('end_to_end'))
        if not self.image_losses.always_some:
            raise OptionError('train: give pixel_opt, perceptual_opt, or losses that are due in every iteration')
        self.gan = AdversarialLosses(self, self._last_layer)
        self.output: Tensor | None = None

    def _last_layer(self) -> Tensor:
        if not self.train_opt.get('fix_generator', True):
            return self.net_g.generator.last_layer
        return cast(FuseBlock, self.net_g.fuse_convs_dict[str(max(self.net_g.connect_list))]).last_layer

    def generator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Return the loss sum of stage III."""
        phase = self.curriculum.at(iteration)
        self.output = None
        if not phase.has_image_losses(iteration):
            return self.code_only_losses(batch, 'in_large_de', iteration)
        if phase.severity == 'both':
            batch = {**batch, 'in': every_second(batch['in'], batch['in_large_de'], iteration)}
        gt, net, identity, w = batch['gt'], self.net_g, self.identify(batch, 'in'), phase.weight(iteration)
        prediction = self.predict(batch['in'], net.connect_list, identity)
        with self.autocast():
            codes = net.lookup_codes(prediction.logits).detach()
            if self.end_to_end:  # the same codes, with a gradient
                codes = net.lookup_codes_ste(prediction.logits, self.ste_temperature)
            output = net.decode(codes, prediction.fused(detach=not self.end_to_end), w, identity)
        whole = output.float(), gt
        self.output, self.target = random_window(self.crop, *whole)
        terms = self.image_losses(self.output, self.target, iteration, whole)
        terms |= self.gan.generator_terms(self.output, terms, iteration)
        terms |= self.code_losses(prediction.logits, prediction.lq_feat, self.target_codes(batch))
        return terms | self.identity_terms(prediction, batch, iteration, w, identity)

    def discriminator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Real against restored, where an image was decoded."""
        if self.output is None:
            return {}
        return self.gan.discriminator_terms(self.target, self.output, iteration)


@MODEL_REGISTRY.register()
class CodeFormerModel(CodeFormerJointModel):
    """Stage III with one severity: image and code losses together in every iteration, at `train:fidelity_weight`."""

    @property
    def default_curriculum(self) -> Sequence[Mapping[str, Any]]:
        """One phase."""
        return ({'severity': 'small', 'w': float(self.w)},)
