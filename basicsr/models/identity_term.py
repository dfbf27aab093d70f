"""The identity term of stages II and III: a face decoded straight through the codes, judged by a recognizer.

The published networks would give an identity loss no way to the encoder and the Transformer: codes are looked up by
argmax and detached. Here the looked-up codes carry the gradient of the expected ones (`CodeFormer.lookup_codes_ste`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from basicsr.archs import CodeFormer
from basicsr.archs.identity import Identity
from basicsr.losses import IdentityLoss, build_loss
from basicsr.models.base_model import BaseModel, Prediction, Terms
from basicsr.utils.options import OptionError
from basicsr.utils.registry import nearest

PARTS = ('encoder', 'transformer', 'cft')
FROZEN = ('quantize', 'generator')  # learnt in stage I; no identity gradient reaches them

logger = logging.getLogger('basicsr')


def part_of(name: str) -> str:
    """Return the part, of `PARTS` or `FROZEN`, that a parameter of CodeFormer belongs to, by its name."""
    first = name.split('.')[0]
    if first in FROZEN or first == 'encoder':
        return first
    return 'cft' if first in ('fuse_convs_dict', 'id_style') else 'transformer'


class _Given(torch.autograd.Function):
    """A value whose gradient at some parameters is given. What overflowed stays infinite, for the scaler to see."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *both: Tensor) -> Tensor:
        """`both` are `count` parameters and then their gradients."""
        ctx.save_for_backward(*both[count:])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """To the parameters alone."""
        gradients = [outer[0] * gradient for gradient in ctx.saved_tensors]
        return None, None, *gradients, *[None] * len(gradients)


def restrict(loss: Tensor, parameters: Iterable[nn.Parameter], scale: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a term with the value of `loss` and its gradient at `parameters`, and none elsewhere.

    Args:
        loss: scalar with a graph, which is kept.
        parameters: where its gradient may go.
        scale: a factor for the backward pass, so that fp16 gradients do not vanish; it is taken out again.
    """
    chosen = list(parameters)
    gradients = torch.autograd.grad(scale(loss), chosen, retain_graph=True, allow_unused=True)
    factor = scale(torch.ones_like(loss))
    reached = [(p, g / factor) for p, g in zip(chosen, gradients, strict=True) if g is not None]
    return cast(Tensor, _Given.apply(loss.detach(), len(reached), *(p for p, _ in reached), *(g for _, g in reached)))


class IdentityTerm:
    """lambda_ids * L_ids (ID-CodeFormer, section 3.3), from `train:identity_opt`.

    Options beside those of `IdentityLoss`: `tau` of the soft codes (1), `start_iter` (no term up to it), `sub_batch`
    (how many faces of a batch are decoded for it; all by default), `grad_to` (the parts it may train, of `PARTS`),
    `grad_through_skips` (it reaches the encoder through the features that are fused too, not by the codes alone).

    Args:
        model: the stage; gets `ids_cosine`, `ids_grad` (norm of the term's gradient at the logits), `ids_share` (its
            part of that and the norm of all other terms' gradient there), `ids_seconds` (what the term cost) in its
            log.
        network: the trained network.

    Raises:
        OptionError: a value out of its range.
    """

    OPTIONS: Mapping[str, Any] = {
        'tau': float,
        'start_iter': int,
        'sub_batch': int,
        'grad_to': list,
        'grad_through_skips': bool,
    }

    def __init__(self, model: BaseModel, network: CodeFormer) -> None:
        section = dict(model.train_opt['identity_opt'])
        self.tau = float(section.pop('tau', 1.0))
        self.start = int(section.pop('start_iter', 0))
        self.sub_batch = section.pop('sub_batch', None)
        self.grad_through_skips = bool(section.pop('grad_through_skips', False))
        grad_to: Collection[str] = section.pop('grad_to', PARTS)
        for part in grad_to:
            if part not in PARTS:
                raise OptionError(f"train:identity_opt:grad_to: no part '{part}'{nearest(part, PARTS)}")
        if not self.tau > 0 or (self.sub_batch is not None and self.sub_batch < 1) or not grad_to:
            raise OptionError('train:identity_opt: tau must be above 0, sub_batch 1 or more, grad_to not empty')
        if section.get('reduction', 'mean') != 'mean' or not section.get('loss_weight', 1) > 0:
            raise OptionError('train:identity_opt: reduction must be mean here, and loss_weight above 0')
        self.model = model
        self.network = network
        self.loss = cast(IdentityLoss, build_loss(section).to(model.device))
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.reached = [p for name, p in trained.items() if part_of(name) in grad_to]
        self.is_restricted = len(self.reached) < len(trained)
        faces = 'every face' if self.sub_batch is None else f'{self.sub_batch} face(s) of a batch'
        logger.info('identity loss: %s decoded, every %d iteration(s)', faces, self.loss.every)

    def __call__(
        self,
        prediction: Prediction,
        batch: Mapping[str, Any],
        iteration: int,
        w: float,
        identity: Identity | None,
    ) -> Terms:
        """Return the weighted term, or none in an iteration that has none.

        Args:
            prediction: of the network, with its graph.
            batch: its `gt` (N,3,S,S) in [-1, 1] and, where there are any, `landmarks` (N,5,2).
            iteration: of the run.
            w: weight of the fusion.
            identity: whom the faces show, for a network that is conditioned on it.
        """
        if iteration <= self.start or not self.loss.is_due(iteration):
            return {}
        begin = self._now()
        logits = prediction.logits
        count = self.sub_batch or len(logits)
        part = logits[:count]
        landmarks = batch.get('landmarks')
        with self.model.autocast():
            codes = self.network.lookup_codes_ste(part, self.tau)
            seen = prediction.fused(count, detach=not self.grad_through_skips)
            output = self.network.decode(codes, seen, w, identity and identity.first(count))
        value = self.loss(output.float(), batch['gt'][:count], None if landmarks is None else landmarks[:count])
        self.model.log['ids_cosine'] = 1 - value.item() / self.loss.loss_weight
        self._watch(value, part, logits, self._now() - begin)
        if self.is_restricted:
            value = restrict(value, self.reached, self.model.scaler.scale)
        return {'l_ids': value}

    def _watch(self, value: Tensor, part: Tensor, logits: Tensor, seconds: float) -> None:
        """Log gradient norms and the cost when the backward pass comes by.

        The hooks must not hold `part` or `logits`: the graph holds the hooks, and would never be freed.
        """
        log, scale, count = self.model.log, self.model.scaler.get_scale(), len(part)
        begun: list[float] = []
        own: list[Tensor] = []
        calls: list[None] = []

        def at_part(gradient: Tensor) -> None:
            own.append(gradient)
            log['ids_grad'] = gradient.norm().item() / scale
            log['ids_seconds'] = seconds + self._now() - begun[0]

        def at_logits(gradient: Tensor) -> None:
            calls.append(None)
            if not own or (self.is_restricted and len(calls) == 1):  # that is the backward pass of `restrict`
                return
            rest = gradient.detach().clone()
            if not self.is_restricted:
                rest[:count] -= own[0]
            norms = [part_.norm().item() for part_ in (own[0], rest)]
            log['ids_share'] = norms[0] / (sum(norms) or 1)

        value.register_hook(lambda gradient: begun.append(self._now()))
        part.register_hook(at_part)
        logits.register_hook(at_logits)

    def _now(self) -> float:
        if self.model.device.type == 'cuda':
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()
