"""VQAutoEncoder, the stage I network of CodeFormer (Zhou et al., NeurIPS 2022), after VQGAN (Esser et al., CVPR 2021).

Images are (N,3,H,W) in [-1, 1]. Parameter names are those of the published network, so its weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from basicsr.archs.quantizer import build_quantizer
from basicsr.utils.checkpoint import load_state, load_state_dict_file
from basicsr.utils.registry import ARCH_REGISTRY, nearest


def normalize(channels: int) -> nn.GroupNorm:
    """Return the normalisation used everywhere here: 32 groups, fewer below 64 channels, eps 1e-6.

    A group has two channels at least. With one, the last normalisation, which only a convolution follows, would give
    every picture the same mean colour.
    """
    return nn.GroupNorm(min(32, channels // 2), channels, eps=1e-6)


def swish(x: Tensor) -> Tensor:
    """x * sigmoid(x); in place where no gradient will need `x`."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """Two 3x3 convolutions, each after normalisation and swish, added to the input (or to a 1x1 of it)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = normalize(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = normalize(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_out = nn.Conv2d(in_channels, out_channels, 1)
        else:
            self.conv_out = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N,in_channels,H,W) -> (N,out_channels,H,W)."""
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(swish(self.norm2(h)))
        return h.add_(self.conv_out(x))


class AttnBlock(nn.Module):
    """Self-attention over all positions, one head, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = normalize(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (N,HW,C)
        q, k, v = (self._project(layer, tokens).unsqueeze(1) for layer in (self.q, self.k, self.v))  # (N,1,HW,C)
        tokens = self._project(self.proj_out, F.scaled_dot_product_attention(q, k, v).squeeze(1))  # (N,HW,C)
        return x + tokens.transpose(1, 2).reshape(x.shape)

    @staticmethod
    def _project(layer: nn.Conv2d, tokens: Tensor) -> Tensor:
        """Return a 1x1 convolution of tokens (N,HW,C). As a matrix product its result has one memory layout only.

        Compiled attention relies on the layout that was foreseen, and convolutions can choose another.
        """
        return F.linear(tokens, layer.weight.flatten(1), layer.bias)


class Downsample(nn.Module):
    """Half the side: one zero column right, one zero row below, then a 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H/2,W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the side: nearest neighbour, then a 3x3 convolution.

    Taps that fall on copies of one pixel can be summed beforehand, which leaves four of the nine multiplications and
    no enlarged picture in memory. This is a transposed convolution, done where no gradients are asked for.
    """

    kept: Tensor | None
    """The summed weight, where `keep_summed_weight` was called."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.register_buffer('kept', None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,2H,2W)."""
        if torch.is_grad_enabled():
            return self.conv(F.interpolate(x, scale_factor=2.0, mode='nearest'))
        weight = self.summed_weight() if self.kept is None else self.kept
        return F.conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)

    @torch.no_grad()
    def keep_summed_weight(self) -> None:
        """Sum the taps once, for a network whose weights do not change any more."""
        self.kept = self.summed_weight().contiguous(memory_format=torch.channels_last)

    def summed_weight(self) -> Tensor:
        """Return the weight (in,out,4,4) of the transposed convolution."""
        sums = 4 * F.avg_pool2d(self.conv.weight.flip(2, 3), 2, stride=1, padding=1)  # (out,in,4,4)
        return sums.transpose(0, 1)

    @torch.no_grad()
    def transposed(self) -> nn.ConvTranspose2d:
        """Return the transposed convolution as a layer, with a constant weight, for runtimes that need one."""
        channels = self.conv.in_channels
        layer = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        layer.weight.copy_(self.summed_weight())
        cast(Tensor, layer.bias).copy_(cast(Tensor, self.conv.bias))
        return layer


class BlockStack(nn.Module):
    """A flat list of blocks run in order.

    Attributes:
        taps: for each level's side in pixels, the index of the block whose output belongs to that side.
        grad_checkpointing: recompute activations in the backward pass to save memory.
    """

    def __init__(self, blocks: Sequence[nn.Module], taps: Mapping[int, int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.taps = dict(taps)
        self.grad_checkpointing = False

    def forward(self, x: Tensor, at: Mapping[int, Callable[[Tensor], Tensor]] | None = None) -> Tensor:
        """Run the blocks.

        Args:
            x: (N,C,H,W).
            at: for a side, a function of the tapped feature at that side; its result goes on in its place.
        """
        actions = {self.taps[side]: action for side, action in (at or {}).items()}
        for index, block in enumerate(self.blocks):
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if index in actions:
                x = actions[index](x)
        return x


@dataclass(frozen=True)
class Sizes:
    """Sizes of encoder and generator; see `VQAutoEncoder`."""

    img_size: int
    nf: int
    ch_mult: Sequence[int]
    res_blocks: int
    attn_resolutions: Sequence[int]
    emb_dim: int
    out_scale: int = 1


class Encoder(BlockStack):
    """Image (N,3,S,S) to features (N,emb_dim,s,s), s = S / 2^(levels-1)."""

    def __init__(self, sizes: Sizes) -> None:
        nf, ch_mult = sizes.nf, sizes.ch_mult
        blocks: list[nn.Module] = [nn.Conv2d(3, nf, 3, padding=1)]
        taps = {}
        channels, side = nf, sizes.img_size
        for level, mult in enumerate(ch_mult):
            for _ in range(sizes.res_blocks):
                blocks.append(ResBlock(channels, nf * mult))
                channels = nf * mult
                taps[side] = len(blocks) - 1
                if side in sizes.attn_resolutions:
                    blocks.append(AttnBlock(channels))
            if level < len(ch_mult) - 1:
                blocks.append(Downsample(channels))
                side //= 2
        blocks += [ResBlock(channels, channels), AttnBlock(channels), ResBlock(channels, channels)]
        blocks += [normalize(channels), nn.Conv2d(channels, sizes.emb_dim, 3, padding=1)]
        super().__init__(blocks, taps)


class DetailHead(nn.Sequential):
    """Predict the detail that an image of S pixels lacks at twice the side, from the generator's last feature.

    A Laplacian pyramid's upper level (LapSRN, Lai et al., CVPR 2017) by sub-pixel convolution (Shi et al., CVPR 2016).
    It starts at zero, so a generator with a new head gives its old images, enlarged.
    """

    def __init__(self, channels: int) -> None:
        last = nn.Conv2d(channels, 12, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))
        super().__init__(nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), last, nn.PixelShuffle(2))


class Generator(BlockStack):
    """Features (N,emb_dim,s,s) to image (N,3,S,S), or (N,3,2S,2S) with `out_scale` 2."""

    def __init__(self, sizes: Sizes) -> None:
        nf, ch_mult = sizes.nf, sizes.ch_mult
        channels = nf * ch_mult[-1]
        side = sizes.img_size // 2 ** (len(ch_mult) - 1)
        blocks: list[nn.Module] = [nn.Conv2d(sizes.emb_dim, channels, 3, padding=1)]
        blocks += [ResBlock(channels, channels), AttnBlock(channels), ResBlock(channels, channels)]
        taps = {}
        for level in reversed(range(len(ch_mult))):
            for _ in range(sizes.res_blocks):
                blocks.append(ResBlock(channels, nf * ch_mult[level]))
                channels = nf * ch_mult[level]
                # The first block of a level is tapped, but where attention follows, the last one.
                if side in sizes.attn_resolutions:
                    taps[side] = len(blocks) - 1
                    blocks.append(AttnBlock(channels))
                else:
                    taps.setdefault(side, len(blocks) - 1)
            if level > 0:
                blocks.append(Upsample(channels))
                side *= 2
        blocks += [normalize(channels), nn.Conv2d(channels, 3, 3, padding=1)]
        self.detail_side = sizes.img_size * sizes.out_scale
        if sizes.out_scale == 2:
            taps[self.detail_side] = len(blocks) - 2
        super().__init__(blocks, taps)
        self.detail = DetailHead(channels) if sizes.out_scale == 2 else None

    def forward(self, x: Tensor, at: Mapping[int, Callable[[Tensor], Tensor]] | None = None) -> Tensor:
        """(N,emb_dim,s,s) to the image; `at` as in `BlockStack`."""
        if self.detail is None:
            return super().forward(x, at)
        features: list[Tensor] = []

        def keep(feature: Tensor) -> Tensor:
            features.append(feature)
            return feature

        image = super().forward(x, {**(at or {}), self.detail_side: keep})
        image = F.interpolate(image, scale_factor=2.0, mode='bicubic', align_corners=False)
        return image + self.detail(features[0])

    @property
    def last_layer(self) -> Tensor:
        """The weight of the last convolution, where adaptive loss weights compare gradients."""
        return cast(nn.Conv2d, self.blocks[-1] if self.detail is None else self.detail[2]).weight


@ARCH_REGISTRY.register()
class VQAutoEncoder(nn.Module):
    """Encoder, codebook and generator (stage I).

    Args:
        img_size: side of the (square) pictures in pixels.
        nf: channels of the first level.
        ch_mult: channels of each level as a multiple of `nf`; each level after the first halves the side.
        quantizer: 'nearest' or 'gumbel'.
        res_blocks: residual blocks a level.
        attn_resolutions: sides in pixels at which attention follows each residual block.
        codebook_size: number of codes.
        emb_dim: length of a code.
        beta: weight within the codebook loss, see `VectorQuantizer`.
        beta_on: the term of the codebook loss that `beta` weighs, see `VectorQuantizer`.
        gumbel_straight_through: hard samples in training ('gumbel').
        gumbel_kl_weight: weight of the divergence from uniform code use ('gumbel').
        model_path: a checkpoint to start from.
        fix_modules: sub-modules that are not trained.
        out_scale: 2 gives images of twice `img_size`, see `DetailHead`; pictures of that side are halved for the
            encoder.

    Raises:
        ValueError: sizes that do not fit together.
    """

    def __init__(
        self,
        img_size: int = 512,
        nf: int = 64,
        ch_mult: Sequence[int] = (1, 2, 2, 4, 4, 8),
        quantizer: str = 'nearest',
        res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        codebook_size: int = 1024,
        emb_dim: int = 256,
        beta: float = 0.25,
        beta_on: str = 'codebook',
        gumbel_straight_through: bool = False,
        gumbel_kl_weight: float = 1e-8,
        model_path: str | None = None,
        fix_modules: Sequence[str] | None = None,
        out_scale: int = 1,
    ) -> None:
        super().__init__()
        if out_scale not in (1, 2):
            raise ValueError(f'out_scale {out_scale}: use 1 or 2')
        factor = 2 ** (len(ch_mult) - 1)
        if img_size % factor:
            raise ValueError(f'img_size {img_size} is no multiple of {factor}, the reduction of {len(ch_mult)} levels')
        if any((nf * mult) % 32 for mult in (1, *ch_mult)):
            raise ValueError(f'nf * ch_mult must be multiples of 32 (group normalisation): nf {nf}, ch_mult {ch_mult}')
        self.img_size = img_size
        self.out_size = img_size * out_scale
        self.latent_side = img_size // factor
        self.emb_dim = emb_dim
        self.codebook_size = codebook_size
        self.channels_at = {img_size >> level: nf * mult for level, mult in enumerate(ch_mult)}
        sizes = Sizes(img_size, nf, ch_mult, res_blocks, attn_resolutions, emb_dim, out_scale)
        self.encoder = Encoder(sizes)
        self.quantize = build_quantizer(
            quantizer, codebook_size, emb_dim, beta, beta_on, gumbel_straight_through, gumbel_kl_weight
        )
        self.generator = Generator(sizes)
        if model_path is not None:
            load_state(self, load_state_dict_file(model_path), source=model_path)
        self.fix(fix_modules)

    def fix(self, names: Sequence[str] | None) -> None:
        """Exclude sub-modules and parameters, at any depth (`ft_layers.0`), from training.

        Raises:
            ValueError: there is none of a name.
        """
        parts = {name: part for name, part in [*self.named_modules(), *self.named_parameters()] if name}
        for name in names or ():
            if name not in parts:
                raise ValueError(f"fix_modules: no sub-module '{name}'{nearest(name, parts)}")
            parts[name].requires_grad_(False)

    def to_input(self, image: Tensor) -> Tensor:
        """Reduce images of the output's side (N,3,out_size,out_size) to the input's, by area; leave others."""
        scale = self.out_size // self.img_size
        return F.avg_pool2d(image, scale) if scale > 1 and image.shape[-1] == self.out_size else image

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of encoder and generator in the backward pass: less memory, more time."""
        self.encoder.grad_checkpointing = self.generator.grad_checkpointing = enable

    def forward(self, x: Tensor, use_codes: bool = True) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Encode, look up codes, decode.

        Args:
            x: (N,3,S,S) in [-1, 1], or of the output's side.
            use_codes: False lets the features through as they are (a plain autoencoder, to warm up the codebook).

        Returns:
            the image (N,3,out_size,out_size), the codebook loss, and the quantizer's statistics.
        """
        feat = self.encoder(self.to_input(x))  # (N,emb_dim,s,s)
        if not use_codes:
            return self.generator(feat), feat.new_zeros(()), {}
        quant, codebook_loss, stats = self.quantize(feat)
        return self.generator(quant), codebook_loss, stats
