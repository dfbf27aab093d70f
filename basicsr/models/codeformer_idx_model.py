"""Stage II: predict the codes of the good face from the degraded one (CodeFormer, equations 3 to 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from basicsr.archs import CodeFormer, IDCodeFormer
from basicsr.archs.identity import Identity
from basicsr.archs.quantizer import perplexity
from basicsr.losses import code_cross_entropy, code_feature_loss
from basicsr.models.alignment_term import AlignmentTerm
from basicsr.models.base_model import BaseModel, Batch, Prediction, Terms
from basicsr.models.identity_source import IdentitySource
from basicsr.models.identity_term import IdentityTerm
from basicsr.models.image_losses import ImageLosses
from basicsr.models.style_gradient_loss import StyleGradientLoss
from basicsr.models.target_codes import TargetCodes
from basicsr.utils.options import OptionError
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class CodeFormerIdxModel(BaseModel):
    """Loss: feature distance to the target codes + cross entropy of the predicted codes [+ identity] [+ alignment].

    No image is decoded but for the identity term, at w = 0 (ID-CodeFormer, L'_tf = L_tf + lambda_ids L_ids), and for
    the losses on pictures that `train:losses` lists: at w = 0 too, through soft codes (`train:ste_temperature`, 1).

    Options (`train`): `use_hq_feat_loss`, `feat_loss_weight`, `cross_entropy_loss`, `entropy_loss_weight`,
    `identity_opt` (see `IdentityTerm`), `alignment_opt` (see `AlignmentTerm`), `style_opt` (see `StyleGradientLoss`),
    `identity_input` (see `IdentitySource`), `fidelity_weight` (w of the validation pictures).
    """

    LOSS_SECTIONS = frozenset({
        'use_hq_feat_loss', 'feat_loss_weight', 'cross_entropy_loss', 'entropy_loss_weight',
        'identity_opt', 'alignment_opt', 'style_opt', 'losses',
    })  # fmt: skip
    default_w = 0.0

    def __init__(self, opt: Mapping[str, Any], device: torch.device | str = 'cpu', is_train: bool = True) -> None:
        super().__init__(opt, device, is_train)
        train = self.train_opt
        self.net_g = cast(CodeFormer, self.add_network('net_g', opt['network_g'], train.get('ema_decay') or 0))
        self.source = IdentitySource(self, self.net_g)
        self.w = train.get('fidelity_weight', self.default_w)
        self.adain = (opt.get('val') or {}).get('adain', False)
        if is_train:
            self.init_training()

    def init_training(self) -> None:
        """Losses, optimisers and target codes."""
        train = self.train_opt
        self.add_optimizer('optim_g', self.net_g)
        self.target_codes = TargetCodes(self.opt, self.net_g, self.device)
        self.feat_loss_weight = train.get('feat_loss_weight', 1.0) if train.get('use_hq_feat_loss', True) else 0
        self.entropy_loss_weight = train.get('entropy_loss_weight', 0.5) if train.get('cross_entropy_loss', True) else 0
        if not (self.feat_loss_weight or self.entropy_loss_weight):
            raise OptionError('train: both code losses (use_hq_feat_loss, cross_entropy_loss) are off')
        self.identity = IdentityTerm(self, self.net_g) if train.get('identity_opt') else None
        self.alignment = AlignmentTerm(self, self.net_g) if train.get('alignment_opt') else None
        self.style_loss = StyleGradientLoss(self, self.net_g) if train.get('style_opt') else None
        self.image_losses = ImageLosses(self)
        self.ste_temperature = float(train.get('ste_temperature', 1.0))

    def code_losses(self, logits: Tensor, lq_feat: Tensor, codes: Tensor) -> Terms:
        """Return the code terms, for logits (N,positions,K), features (N,C,s,s) and target codes (N,positions)."""
        n, c, h, w = lq_feat.shape
        terms = {}
        if self.feat_loss_weight:
            target = self.net_g.quantize.get_codebook_feat(codes, (n, h, w, c))
            terms['l_feat_encoder'] = self.feat_loss_weight * code_feature_loss(lq_feat, target)
        if self.entropy_loss_weight:
            terms['cross_entropy_loss'] = self.entropy_loss_weight * code_cross_entropy(logits, codes)
        predicted = logits.detach().argmax(2)
        self.log['code_accuracy'] = (predicted == codes).float().mean().item()
        self.log['perplexity'] = perplexity(predicted, self.net_g.codebook_size).item()
        return terms

    def identify(self, batch: Batch, faces: str) -> Identity | None:
        """Return the identity of faces `batch[faces]` (see `IdentitySource`); None for an unconditioned network."""
        if not isinstance(self.net_g, IDCodeFormer):
            return None
        cond = self.source(batch, faces)
        return self.net_g.identify(len(batch['gt']), cond['identity'], cond['mask'])

    def predict(self, source: Tensor, sides: Sequence[int], identity: Identity | None) -> Prediction:
        """Features of degraded faces (N,3,S,S), those for the fusion at `sides`, and code logits."""
        with self.autocast():
            lq_feat, seen = self.net_g.encode(source, sides, detach=False)
            return Prediction(lq_feat, seen, self.net_g.predict_logits(lq_feat, identity))

    def identity_terms(
        self, prediction: Prediction, batch: Batch, iteration: int, w: float, identity: Identity | None
    ) -> Terms:
        """Return the terms that keep the person, where the options ask for them; see the three classes."""
        terms: Terms = {}
        if self.identity:
            terms |= self.identity(prediction, batch, iteration, w, identity)
        if self.alignment:
            terms |= self.alignment(prediction, iteration, w, identity)
        if self.style_loss:
            terms |= self.style_loss(prediction, batch, w, identity)
        return terms

    def decoded_losses(self, prediction: Prediction, gt: Tensor, iteration: int, identity: Identity | None) -> Terms:
        """Return the listed losses, of faces decoded at w = 0 so that the gradient reaches encoder and Transformer."""
        count = self.image_losses.faces(iteration, len(gt))
        if not count:
            return {}
        with self.autocast():
            codes = self.net_g.lookup_codes_ste(prediction.logits[:count], self.ste_temperature)
            output = self.net_g.decode(codes, {}, 0, identity and identity.first(count))
        return self.image_losses(output.float(), gt[:count], iteration)

    def code_only_losses(self, batch: Batch, source: str, iteration: int, decodes: bool = False) -> Terms:
        """Return the loss sum of stage II on faces `batch[source]`; the listed losses only if it `decodes`."""
        identity = self.identify(batch, source)
        prediction = self.predict(batch[source], (), identity)
        terms = self.code_losses(prediction.logits, prediction.lq_feat, self.target_codes(batch))
        if decodes:
            terms |= self.decoded_losses(prediction, batch['gt'], iteration, identity)
        return terms | self.identity_terms(prediction, batch, iteration, 0, identity)

    def generator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Return the loss sum of stage II."""
        return self.code_only_losses(batch, 'in', iteration, decodes=True)

    @torch.no_grad()
    def infer(self, batch: Batch) -> Tensor:
        """Return the restored face at `train:fidelity_weight`, with AdaIN if `val:adain` says so."""
        cond = self.source(batch, 'lq')
        with self.autocast():
            return self.get_bare_model()(batch['lq'], w=self.w, adain=self.adain, **cond)[0].float()
