"""Stage II: predict the codes of the good face from the degraded one (CodeFormer, equations 3 to 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from basicsr.archs import CodeFormer
from basicsr.losses import code_cross_entropy, code_feature_loss
from basicsr.models.base_model import BaseModel, Batch, Terms
from basicsr.models.target_codes import TargetCodes
from basicsr.utils.options import OptionError
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class CodeFormerIdxModel(BaseModel):
    """Loss: feature distance to the target codes + cross entropy of the predicted codes. No image is decoded.

    Options (`train`): `use_hq_feat_loss`, `feat_loss_weight`, `cross_entropy_loss`, `entropy_loss_weight`,
    `fidelity_weight` (w of the validation pictures).
    """

    default_w = 0.0

    def __init__(self, opt: Mapping[str, Any], device: torch.device | str = 'cpu', is_train: bool = True) -> None:
        super().__init__(opt, device, is_train)
        train = self.train_opt
        self.net_g = cast(CodeFormer, self.add_network('net_g', opt['network_g'], train.get('ema_decay') or 0))
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

    def code_losses(self, logits: Tensor, lq_feat: Tensor, codes: Tensor) -> Terms:
        """The code terms, for logits (N,positions,K), features (N,C,s,s) and target codes (N,positions)."""
        n, c, h, w = lq_feat.shape
        terms = {}
        if self.feat_loss_weight:
            target = self.net_g.quantize.get_codebook_feat(codes, (n, h, w, c))
            terms['l_feat_encoder'] = self.feat_loss_weight * code_feature_loss(lq_feat, target)
        if self.entropy_loss_weight:
            terms['cross_entropy_loss'] = self.entropy_loss_weight * code_cross_entropy(logits, codes)
        self.log['code_accuracy'] = (logits.argmax(2) == codes).float().mean().item()
        return terms

    def generator_losses(self, batch: Batch, iteration: int) -> Iterator[Terms]:
        """The loss sum of stage II."""
        with self.autocast():
            logits, lq_feat = self.net_g(batch['in'], code_only=True)
        yield self.code_losses(logits, lq_feat, self.target_codes(batch))

    @torch.no_grad()
    def infer(self, batch: Batch) -> Tensor:
        """The restored face at `train:fidelity_weight`, with AdaIN if `val:adain` says so."""
        with self.autocast():
            return self.get_bare_model()(batch['lq'], w=self.w, adain=self.adain)[0].float()
