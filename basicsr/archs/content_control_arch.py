"""Content module of RIDFR (Fang et al., arXiv 2507.10943): a ControlNet that sees the degraded face beside the latent.

The first convolution takes both along the channels (4 and 3 for Stable Diffusion); there is no encoder of the
condition. A fresh module changes nothing in the U-Net that it was started from, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.errors import extra
from basicsr.utils.registry import ARCH_REGISTRY, nearest

CONDITIONS = ('pixel', 'latent', 'unshuffle')
SHARED = (
    'block_out_channels', 'down_block_types', 'mid_block_type', 'layers_per_block', 'cross_attention_dim',
    'attention_head_dim', 'num_attention_heads', 'norm_num_groups', 'norm_eps', 'act_fn', 'flip_sin_to_cos',
    'freq_shift',
    'transformer_layers_per_block', 'use_linear_projection', 'only_cross_attention', 'downsample_padding',
    'mid_block_scale_factor', 'resnet_time_scale_shift', 'upcast_attention',
)  # fmt: skip
"""Keys of a U-Net's configuration that its encoder is built from."""


class Residuals(tuple):
    """Results of a content module: those of the encoder's levels, and last that of the middle."""

    def repeated(self, times: int) -> Residuals:
        """Return the residuals of a batch that is repeated so often, one copy after the other."""
        return Residuals(level.repeat(times, 1, 1, 1) for level in self)

    def scaled(self, factor: float) -> Residuals:
        """Return them multiplied."""
        return Residuals(level * factor for level in self)


class _Nothing(nn.Module):
    """Stands where a ControlNet encodes its condition."""

    def forward(self, x: Tensor) -> float:
        """Return 0."""
        return 0.0


@ARCH_REGISTRY.register()
class ContentControl(nn.Module):
    """The trained network of RIDFR: degraded face and noisy latent in, residuals for the frozen U-Net out.

    Args:
        unet: configuration of the U-Net (its `config.json` as a mapping); a training takes it from the prior.
        latent_side: side s of the latents.
        condition: `pixel`, the paper's: the face reduced to the latent's grid, 3 channels; `latent`: its latent, the
            ablation of table 3; `unshuffle`: all pixels of a block as channels.
        reduction: pixels a side that one position of the autoencoder's grid stands for.
        patch: side of the blocks of that grid that are one position of the latents (space to depth); 1 for Stable
            Diffusion.

    Attributes:
        options: all that it was built from, as a checkpoint states it.

    Raises:
        ValueError: an unknown condition, or a U-Net of another kind.
        MissingExtraError: without the extra `diffusion`.
    """

    def __init__(
        self,
        unet: Mapping[str, Any] | None = None,
        latent_side: int = 64,
        condition: str = 'pixel',
        reduction: int = 8,
        patch: int = 1,
    ) -> None:
        super().__init__()
        with extra('diffusion'):
            from diffusers.models.controlnets.controlnet import ControlNetModel
        if condition not in CONDITIONS:
            raise ValueError(f"condition: unknown '{condition}'{nearest(condition, CONDITIONS)}")
        unet = {key: value for key, value in (unet or {}).items() if key in (*SHARED, 'in_channels')}
        if 'block_out_channels' not in unet or 'in_channels' not in unet:
            raise ValueError("unet: no configuration of a U-Net ('block_out_channels' and 'in_channels' are missing)")
        self.latent_channels = int(unet['in_channels'])
        self.latent_side, self.condition, self.reduction, self.patch = latent_side, condition, reduction, patch
        shared = {key: value for key, value in unet.items() if key in SHARED and value is not None}
        self.control: Any = ControlNetModel(
            in_channels=self.latent_channels + self.condition_channels,
            conditioning_embedding_out_channels=(1,),
            **shared,
        )
        self.control.controlnet_cond_embedding = _Nothing()
        self.options = {
            'type': type(self).__name__, 'unet': unet, 'latent_side': latent_side, 'condition': condition,
            'reduction': reduction, 'patch': patch,
        }  # fmt: skip

    @property
    def img_size(self) -> int:
        """Side S of the faces in pixels."""
        return self.latent_side * self.patch * self.reduction

    @property
    def condition_channels(self) -> int:
        """Channels k of the condition."""
        if self.condition == 'latent':
            return self.latent_channels
        return 3 * (self.patch * (self.reduction if self.condition == 'unshuffle' else 1)) ** 2

    @torch.no_grad()
    def start_from(self, unet: Any) -> None:
        """Take the weights of a U-Net's encoder; the new channels of the first convolution start at zero."""
        own = self.control.state_dict()
        shared = {
            key: value
            for key, value in unet.state_dict().items()
            if key in own and not key.startswith('conv_in.') and own[key].shape == value.shape
        }
        self.control.load_state_dict(shared, strict=False)
        self.control.conv_in.weight.zero_()
        self.control.conv_in.weight[:, : self.latent_channels].copy_(unet.conv_in.weight)
        self.control.conv_in.bias.copy_(unet.conv_in.bias)

    def condition_of(self, x: Tensor) -> Tensor:
        """Return the condition (N,k,s,s) of degraded faces (N,3,S,S) in [-1, 1]; not for `latent`."""
        if self.condition == 'unshuffle':
            return F.pixel_unshuffle(x, self.reduction * self.patch)
        grid = self.latent_side * self.patch
        x = F.interpolate(x, size=(grid, grid), mode='bicubic', antialias=True, align_corners=False).clamp(-1, 1)
        return F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x

    def forward(self, z: Tensor, t: Tensor, condition: Tensor, text: Tensor) -> Residuals:
        """Return the residuals of noisy latents.

        Args:
            z: (N,C,s,s).
            t: steps (N,), 0 to 999.
            condition: (N,k,s,s), see `condition_of`.
            text: embedding of the empty prompt (1,L,D).
        """
        both = torch.cat([z, condition.to(z.dtype)], 1)
        text = text.to(z.dtype).expand(len(z), -1, -1)
        down, middle = self.control(both, t, text, controlnet_cond=both[:, :0], return_dict=False)
        return Residuals((*down, middle))
