"""Schedules: learning rates and the stage III curriculum, as pure functions of the iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from basicsr.utils.options import OptionError, check_values
from basicsr.utils.registry import nearest

SCHEDULERS: dict[str, dict[str, Any]] = {
    'MultiStepLR': {'type': str, 'milestones': list, 'gamma': float},
    'MultiStepRestartLR': {'type': str, 'milestones': list, 'gamma': float},
    'CosineAnnealingRestartLR': {'type': str, 'periods': list, 'restart_weights': list, 'eta_min': float},
}


def learning_rate(iteration: int, base: float, opt: Mapping[str, Any] | None, warmup: int = 0) -> float:
    """Return the learning rate of an iteration.

    Args:
        iteration: 1 is the first.
        base: the optimiser's `lr`.
        opt: `MultiStepLR` (`milestones`, `gamma`): times gamma after each milestone; `CosineAnnealingRestartLR`
            (`periods`, `restart_weights`, `eta_min`): a half cosine from weight * base to eta_min in each period.
        warmup: iterations of linear rise from 0.

    Raises:
        OptionError: unknown type.
    """
    done = iteration - 1
    if done < warmup:
        return base * iteration / warmup
    if not opt:
        return base
    if opt['type'] in ('MultiStepLR', 'MultiStepRestartLR'):
        return base * opt.get('gamma', 0.1) ** sum(done >= milestone for milestone in opt['milestones'])
    if opt['type'] == 'CosineAnnealingRestartLR':
        eta_min = opt.get('eta_min', 0)
        start = 0
        for period, weight in zip(opt['periods'], opt.get('restart_weights') or [1] * len(opt['periods']), strict=True):
            if done < start + period:
                return eta_min + weight * 0.5 * (base - eta_min) * (1 + math.cos(math.pi * (done - start) / period))
            start += period
        return eta_min
    raise OptionError(f"train:scheduler: unknown type '{opt['type']}'{nearest(opt['type'], SCHEDULERS)}")


@dataclass(frozen=True)
class Phase:
    """A stretch of the stage III curriculum.

    Attributes:
        until: its last iteration; None for the last phase.
        severity: 'small': image and code losses on the mildly degraded picture; 'large': code losses only, on the
            heavily degraded one; 'mixed': small every `small_every` iterations, large otherwise; 'both': image and
            code losses on a batch of which every second face is heavily degraded.
        w: fidelity weight where image losses are computed; several take turns.
        small_every: see `severity`.

    Raises:
        OptionError: an unknown severity, a w that is no number, or image losses at w = 0 only, where the fusion blocks
            have no gradient.
    """

    until: int | None
    severity: str
    w: float | Sequence[float] = 0.0
    small_every: int = 1

    def __post_init__(self) -> None:
        if self.severity not in ('small', 'large', 'mixed', 'both'):
            raise OptionError(f"train:curriculum: severity '{self.severity}'; use small, large, mixed or both")
        if not all(isinstance(w, (int, float)) for w in self._weights):
            raise OptionError(f'train:curriculum: w {self.w}; a number, or a list of numbers')
        if self.severity != 'large' and not max(self._weights, default=0) > 0:
            raise OptionError('train:curriculum: image losses (severity small, mixed or both) need w > 0')

    @property
    def _weights(self) -> Sequence[float]:
        return self.w if isinstance(self.w, Sequence) else (self.w,)

    def weight(self, iteration: int) -> float:
        """Return the fidelity weight of an iteration; of those that decode an image, each has the next one."""
        turn = iteration // self.small_every if self.severity == 'mixed' else iteration
        return self._weights[turn % len(self._weights)]

    def has_image_losses(self, iteration: int) -> bool:
        """Return True if an iteration decodes an image."""
        return self.severity in ('small', 'both') or (self.severity == 'mixed' and iteration % self.small_every == 0)


class Curriculum:
    """The phases of stage III in order.

    Args:
        phases: mappings with the keys of `Phase`.

    Raises:
        OptionError: an unknown key, no phases, or ends that do not rise.
    """

    def __init__(self, phases: Sequence[Mapping[str, Any]]) -> None:
        kinds = {'until': int, 'severity': str, 'w': (float, list), 'small_every': int}
        for number, phase in enumerate(phases):
            check_values(f'train:curriculum:{number}', phase, kinds)
        self.phases = [Phase(**{'until': None, **phase}) for phase in phases]
        ends = [phase.until or 0 for phase in self.phases[:-1]]
        if not self.phases or 0 in ends or any(a >= b for a, b in pairwise(ends)):
            raise OptionError('train:curriculum: every phase but the last needs `until`, and these must rise')

    def at(self, iteration: int) -> Phase:
        """Return the phase of an iteration (1 is the first); after the last phase's end, the last phase."""
        return next((p for p in self.phases[:-1] if iteration <= (p.until or 0)), self.phases[-1])
