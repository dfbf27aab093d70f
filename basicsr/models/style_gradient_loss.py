"""Objective of the styling path of IA-CFT: the gradient of a recognizer's similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.archs import CodeFormer, IDCodeFormer
from basicsr.archs.identity import Identity
from basicsr.models.base_model import BaseModel, Batch, Prediction, Terms
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.options import OptionError

SCALE = 2.0**12  # of the likeness, so that gradients of fp16 do not vanish; only their direction counts


class StyleGradientLoss:
    """Mean squared difference of the statistics that an identity asks for and those that would show it.

    Each face is told of the person of the next one in the batch. Of the unstyled restoration, the gradient of its
    cosine with that person, by a recognizer, says which gamma and beta would bring it nearer: of length `strength`
    times the root of their number, that is what the styling path is to say of the person. What it learns is the mean
    over all faces: what a person needs whatever the face. The identity loss, followed to where it leads, is got down by
    less honest means too: what makes the face its own is taken away, which brings it nearer to everybody.

    Options (`train:style_opt`): `weights` (the recognizer, see `FaceEmbedder`), `strength` (0.08), `loss_weight` (1).
    Logged: `l_style`, and `style_cosine` of what is said and what would be right.

    Args:
        model: the stage.
        network: the trained network.

    Raises:
        OptionError: a network without IA-CFT, or a value out of its range.
        CheckpointError: see `FaceEmbedder`.
    """

    OPTIONS: Mapping[str, Any] = {'weights': str, 'strength': float, 'loss_weight': float}

    def __init__(self, model: BaseModel, network: CodeFormer) -> None:
        section = model.train_opt['style_opt']
        if not isinstance(network, IDCodeFormer) or not network.ia_cft:
            raise OptionError('train:style_opt needs a network with IA-CFT (IDCodeFormer, ia_cft: true)')
        self.strength = float(section.get('strength', 0.08))
        self.weight = float(section.get('loss_weight', 1.0))
        if not self.strength > 0 or not self.weight > 0:
            raise OptionError('train:style_opt: strength and loss_weight must be above 0')
        self.model = model
        self.network = network
        self.embedder = FaceEmbedder(section.get('weights')).to(model.device)

    def __call__(self, prediction: Prediction, batch: Batch, w: float, identity: Identity | None) -> Terms:
        """Return the weighted term.

        Args:
            prediction: of the network; gets no gradient.
            batch: its `gt` (N,3,S,S) in [-1, 1].
            w: weight of the fusion.
            identity: whom the faces show; those who are told nothing do not count.
        """
        if identity is None:
            return {}
        other = identity.rolled()
        right = self.right(prediction, batch['gt'].roll(-1, 0), w)
        said = torch.cat([self.network.id_style.statistics(side, other).float().flatten(1) for side in right], dim=1)
        wanted = torch.cat([part.flatten(1) for part in right.values()], dim=1)
        wanted = self.strength * wanted.shape[1] ** 0.5 * F.normalize(wanted, dim=1)
        # Where nobody is told anything the loss is 0, and not absent: processes average the same gradients.
        counts = (other.max_confidence > 0).float()
        share = counts / counts.sum().clamp(min=1)
        self.model.log['style_cosine'] = (F.cosine_similarity(said, wanted) * share).sum().item()
        return {'l_style': self.weight * ((said - wanted).square().mean(1) * share).sum() / self.strength**2}

    def right(self, prediction: Prediction, people: Tensor, w: float) -> dict[int, Tensor]:
        """Return the gradients of the cosine with `people` (N,3,S,S) at gamma and beta (N,2C,grid,grid), by side."""
        network, grid = self.network, self.network.id_style.grid
        with torch.no_grad():
            codes = network.lookup_codes(prediction.logits)
            wanted = self.embedder(people)
        still = {
            side: torch.zeros(len(codes), 2 * network.channels_at[side], grid, grid, device=codes.device)
            for side in network.connect_list
        }
        for leaf in still.values():
            leaf.requires_grad_()

        def style(side: int, feat: Tensor) -> Tensor:
            return network.id_style.styled(feat, still[side].to(feat.dtype))

        with self.model.autocast():
            faces = network.decode_styled(codes, prediction.fused(), w, style)
        likeness = (self.embedder(faces.float()) * wanted).sum()
        scaled = torch.autograd.grad(SCALE * likeness, list(still.values()))
        return dict(zip(still, scaled, strict=True))
