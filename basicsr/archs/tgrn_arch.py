"""TGRN, the texture-prior guided restoration network of CodeFormer++ (Reddem et al., arXiv 2510.04410).

Images are RGB (N,3,S,S) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.face_aligner_arch import check_size, convolution


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a leaky ReLU between them, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(channels, channels), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        return x + self.body(x)


class TextureAttention(nn.Module):
    """TAM: add texture features to those of the faithful face.

    Two sources are weighed by channel: the texture at the same place, which registration makes meaningful, and the
    texture of the whole face by attention. The output layer starts at zero.

    Args:
        channels: C, a multiple of 8 and of `heads`.
        tokens: side of the grid that the texture is pooled to; keys are its squares.
        heads: of the attention.

    Raises:
        ValueError: a value out of its range. With one key every query would get the same answer and no gradient.
    """

    def __init__(self, channels: int, tokens: int = 8, heads: int = 2) -> None:
        super().__init__()
        if tokens < 2:
            raise ValueError(f'tokens {tokens}: must be 2 or more, as attention to one key has no gradient')
        if heads < 1 or channels % heads or channels % 8:
            raise ValueError(f'{channels} channels and {heads} heads: must be a multiple of 8 and of the heads')
        self.tokens, self.heads = tokens, heads
        self.norm = nn.GroupNorm(8, channels)
        self.norm_texture = nn.GroupNorm(8, channels)
        self.q, self.k, self.v, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.gate = nn.Sequential(nn.Linear(3 * channels, channels), nn.GELU(), nn.Linear(channels, 2 * channels))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(cast(Tensor, self.out.bias))

    def forward(self, feat: Tensor, texture: Tensor) -> Tensor:
        """Features of I_F and of I_warp (N,C,H,W) -> the fused features (N,C,H,W)."""

        def split(x: Tensor) -> Tensor:
            return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)  # (N,heads,places,C/heads)

        pooled = F.adaptive_avg_pool2d(self.norm_texture(texture), self.tokens)
        query, key, value = split(self.q(self.norm(feat))), split(self.k(pooled)), split(self.v(pooled))
        found = F.scaled_dot_product_attention(query, key, value).transpose(2, 3).reshape(feat.shape)
        means = torch.cat([x.mean((2, 3)) for x in (feat, texture, found)], dim=1)
        here, anywhere = self.gate(means).unflatten(1, (2, -1)).softmax(1)[..., None, None].unbind(1)  # (N,C,1,1)
        return feat + self.out(here * texture + anywhere * found)


class _Encoder(nn.ModuleList):
    """Features of a picture at the sides S, S/2 and S/4."""

    def __init__(self, widths: Sequence[int]) -> None:
        pairs = zip((3, *widths[:-1]), widths, strict=True)
        super().__init__(
            nn.Sequential(convolution(before, after, stride=1 + (level > 0)), ResidualBlock(after))
            for level, (before, after) in enumerate(pairs)
        )


class TGRN(nn.Module):
    """Texture-prior guided restoration network: a U-Net on I_F that looks at I_warp at each level.

    A fresh one returns I_F, bit for bit.

    Args:
        img_size: side S in pixels.
        width: channels at the side S, a multiple of 8; twice and four times as many at the next two levels.
        tokens, heads: see `TextureAttention`.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, img_size: int, width: int = 24, tokens: int = 8, heads: int = 2) -> None:
        super().__init__()
        check_size(img_size)
        if width < 8 or width % 8:
            raise ValueError(f'width {width}: must be a multiple of 8')
        widths = (width, 2 * width, 4 * width)
        self.encoder, self.texture_encoder = _Encoder(widths), _Encoder(widths)
        self.attentions = nn.ModuleList(TextureAttention(channels, tokens, heads) for channels in widths)
        self.middle = ResidualBlock(widths[2])
        self.decoder = nn.ModuleList(
            nn.Sequential(convolution(widths[level + 1] + widths[level], widths[level]), ResidualBlock(widths[level]))
            for level in (1, 0)
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(cast(Tensor, self.last.bias))

    def forward(self, faithful: Tensor, warped: Tensor, texture: float | Tensor = 1.0) -> Tensor:
        """I_F and I_warp (N,3,S,S) -> I_out (N,3,S,S), I_F plus `texture` times what the network adds; not clamped."""
        x, t = faithful, warped
        feats = []
        for encode, encode_texture, attend in zip(self.encoder, self.texture_encoder, self.attentions, strict=True):
            x, t = encode(x), encode_texture(t)
            x = attend(x, t)
            feats.append(x)
        x = self.middle(feats.pop())
        for decode in self.decoder:
            x = decode(torch.cat([F.interpolate(x, scale_factor=2.0, mode='nearest'), feats.pop()], dim=1))
        return faithful + texture * self.last(x)
