"""Losses of RIDFR (Fang et al., arXiv 2507.10943): noise prediction, and alignment of two references.

All draws are by torch's generator on the CPU, so they follow from its seed on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.archs.content_control_arch import ContentControl
from basicsr.archs.diffusion_prior import STEPS, DiffusionPrior
from basicsr.archs.face_id_adapter import Tokens

QUARTERS = 4


@dataclass(frozen=True)
class Noisy:
    """Noisy latents.

    Attributes:
        z: z_t (N,C,s,s).
        t: steps (N,).
        noise: what was mixed in (N,C,s,s).
    """

    z: Tensor
    t: Tensor
    noise: Tensor


def draw_noise(prior: DiffusionPrior, latents: Tensor, min_t: int = 0, max_t: int = STEPS) -> Noisy:
    """Mix normal noise into latents z_0 (N,C,s,s), at uniform steps from `min_t` to below `max_t`."""
    t = torch.randint(min_t, max_t, (len(latents),)).to(latents.device)
    noise = torch.randn(latents.shape).to(latents)
    return Noisy(prior.add_noise(latents, noise, t), t, noise)


def content_loss(prior: DiffusionPrior, control: ContentControl, noisy: Noisy, condition: Tensor) -> Tensor:
    """Return equation 2: the mean square of the error of the predicted noise, without identity."""
    residuals = control(noisy.z, noisy.t, condition, prior.text)
    return F.mse_loss(prior.eps(noisy.z, noisy.t, residuals).float(), noisy.noise)


@dataclass(frozen=True)
class Aligned:
    """Parts of equation 6, not weighted.

    Attributes:
        diffusion: equation 5, the mean of both references.
        align: equation 4.
        gap: root mean square of the difference of the predictions, for each quarter of the steps that occurs.
    """

    diffusion: Tensor
    align: Tensor
    gap: dict[str, float]


def alignment_losses(
    prior: DiffusionPrior,
    control: ContentControl,
    noisy: Noisy,
    condition: Tensor,
    first: Tokens,
    second: Tokens,
) -> Aligned:
    """Compute both terms for two references of each face, in one pass of the content module and one of the U-Net.

    Faces of which one reference is missing or has strength 0 are left out of the alignment.

    Args:
        prior: frozen.
        control: trained; it does not see the identity, so its residuals serve both references.
        noisy: N latents.
        condition: (N,k,s,s).
        first: identity by the first references.
        second: by the second ones.
    """
    residuals = control(noisy.z, noisy.t, condition, prior.text).repeated(2)
    both = Tokens(*(torch.cat(fields) for fields in zip(first, second, strict=True)))
    predicted = prior.eps(noisy.z.repeat(2, 1, 1, 1), noisy.t.repeat(2), residuals, both).float()
    one, other = predicted.chunk(2)
    diffusion = (F.mse_loss(one, noisy.noise) + F.mse_loss(other, noisy.noise)) / 2
    known = torch.stack([(part.strength > 0) & part.mask.any(1) for part in (first, second)]).all(0)
    difference = (one - other).square().mean((1, 2, 3))
    align = (difference * known).sum() / known.sum().clamp(min=1)
    gap = {}
    for quarter in range(QUARTERS):
        inside = known & (noisy.t * QUARTERS // STEPS == quarter)
        if inside.any():
            gap[f'eps_gap_{quarter + 1}'] = difference.detach()[inside].mean().sqrt().item()
    return Aligned(diffusion, align, gap)
