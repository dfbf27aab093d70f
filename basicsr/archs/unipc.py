"""Sampling by UniPC (Zhao et al., 2023) with any noise predictor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from basicsr.utils.errors import extra


def draw_start(shape: tuple[int, int, int], count: int, seed: int) -> Tensor:
    """Return the noise (N,C,s,s) that sampling starts from: the same for every face, so that batches do not matter.

    Frames of a clip share it too, which keeps invented detail in place.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).expand(count, *shape).clone()


@torch.no_grad()
def sample(
    eps: Callable[[Tensor, Tensor], Tensor],
    alphas: Tensor,
    noise: Tensor,
    steps: int = 20,
    start: Tensor | None = None,
    share: float = 1.0,
) -> Tensor:
    """Return latents z_0 (N,C,s,s).

    Args:
        eps: predicts the noise (N,C,s,s) of latents at a step, a tensor ().
        alphas: products of 1 - beta up to each training step (1000,).
        noise: (N,C,s,s).
        steps: predictions of a whole run, evenly spaced ("linspace"), the first at step 999.
        start: latents (N,C,s,s) to begin at in place of pure noise, with `share` of the way to go.
        share: above 0 to 1.

    Raises:
        ValueError: fewer than 2 steps, or a share out of its range.
        RuntimeError: a prediction is not finite; the message names the step.
    """
    with extra('diffusion'):
        from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
    if steps < 2 or not 0 < share <= 1:
        raise ValueError(f'{steps} steps, share {share:g}: steps must be 2 or more, the share above 0 and up to 1')
    before = torch.cat([alphas.new_ones(1), alphas[:-1]])
    scheduler = UniPCMultistepScheduler(
        trained_betas=(1 - alphas / before).double().cpu().numpy(),
        timestep_spacing='linspace',
        prediction_type='epsilon',
    )
    scheduler.set_timesteps(steps, device=noise.device)
    left = max(1, round(share * steps)) if start is not None else steps
    times = scheduler.timesteps[steps - left :]
    scheduler.set_begin_index(steps - left)
    z = noise
    if start is not None:
        alpha = alphas[int(times[0])]
        z = alpha.sqrt() * start + (1 - alpha).sqrt() * noise
    for number, t in enumerate(times):
        predicted = eps(z, t)
        if not predicted.isfinite().all():
            raise RuntimeError(
                f'the diffusion model predicted values that are not finite at step {number + 1} of {left}'
            )
        z = scheduler.step(predicted, t, z, return_dict=False)[0]
    return z
