"""FaceAligner, the deformable alignment module of CodeFormer++ (Reddem et al., arXiv 2510.04410), and warping.

Images are RGB (N,3,S,S) in [-1, 1]; a displacement field is (N,2,S,S) in pixels.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST, MULTIPLE = 32, 16
"""Sides that the networks work at: from the first, multiples of the second."""
COARSEST = 16
"""The aligner halves its features until their side is below this."""


def check_size(img_size: int) -> None:
    """Raise ValueError for a side that the networks cannot work at."""
    if img_size < SMALLEST or img_size % MULTIPLE:
        raise ValueError(f'img_size {img_size}: must be a multiple of {MULTIPLE}, {SMALLEST} or more')


def warp(image: Tensor, phi: Tensor, mode: str = 'bilinear') -> Tensor:
    """Bend pictures by a displacement field: out(x) = image(x + phi(x)).

    A zero field returns the picture, bit for bit where S is a power of two and else but for rounding.

    Args:
        image: (N,C,S,S), of any float type; positions are computed in float32 or better.
        phi: (N,2,S,S) in pixels, channel 0 to the right, channel 1 down. Places outside take the nearest border pixel.
        mode: `bilinear`, for losses, or `bicubic`, which keeps texture and may overshoot.
    """
    height, width = image.shape[2:]
    kind = torch.promote_types(phi.dtype, torch.float32)
    rows, columns = (torch.arange(side, device=phi.device, dtype=kind) for side in (height, width))
    x = (2 * (columns[None, None] + phi[:, 0].to(kind)) + 1) / width - 1
    y = (2 * (rows[None, :, None] + phi[:, 1].to(kind)) + 1) / height - 1
    grid = torch.stack([x, y], dim=3)  # (N,S,S,2)
    bent = F.grid_sample(image.to(kind), grid, mode=mode, padding_mode='border', align_corners=False)
    return bent.to(image.dtype)


def folded(phi: Tensor) -> Tensor:
    """Share of places where a field (N,2,S,S) folds, () float32.

    There det(1 + grad phi) <= 0, by forward differences.
    """
    along_x = phi[:, :, :-1, 1:] - phi[:, :, :-1, :-1]
    along_y = phi[:, :, 1:, :-1] - phi[:, :, :-1, :-1]
    determinant = (1 + along_x[:, 0]) * (1 + along_y[:, 1]) - along_x[:, 1] * along_y[:, 0]
    return (determinant <= 0).float().mean()


def convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution that keeps the variance of its input, and a leaky ReLU."""
    layer = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(layer.weight, a=0.2)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return nn.Sequential(layer, nn.LeakyReLU(0.2, inplace=True))


class FaceAligner(nn.Module):
    """DAM: predict the field that lays the generated face on the faithful one.

    A fresh one predicts a zero field. There is no normalization layer, so pictures of a batch do not mix.

    Args:
        img_size: side S in pixels.
        width: channels of all levels but the first.
        stride: side of the picture by that of the predicted field, a power of two; the field is then enlarged.
        max_shift: largest displacement along an axis, share of S.
        integrate: steps of scaling and squaring, which make the prediction a velocity and keep the field from
            folding (7 is usual); 0 takes it as the displacement.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self, img_size: int, width: int = 32, stride: int = 4, max_shift: float = 0.06, integrate: int = 0
    ) -> None:
        super().__init__()
        check_size(img_size)
        if stride not in (1, 2, 4):
            raise ValueError(f'stride {stride}: must be 1, 2 or 4')
        if not 0 < max_shift <= 0.5:
            raise ValueError(f'max_shift {max_shift}: must be above 0 and at most 0.5')
        if width < 1 or integrate < 0:
            raise ValueError(f'width {width} must be 1 or more, integrate {integrate} 0 or more')
        self.reach = max_shift * img_size
        self.integrate = integrate
        self.first = convolution(6, 16)
        channels, side = [16], img_size
        down: list[nn.Module] = []
        while side >= COARSEST and side % 2 == 0:
            down.append(convolution(channels[-1], width, stride=2))
            channels.append(width)
            side //= 2
        up: list[nn.Module] = []
        while side * stride < img_size:
            side *= 2
            up.append(convolution(width + channels[-2 - len(up)], width))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.last = convolution(width, width)
        self.flow = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.zeros_(self.flow.weight)
        nn.init.zeros_(cast(Tensor, self.flow.bias))

    def forward(self, generated: Tensor, faithful: Tensor) -> Tensor:
        """I_G and I_F (N,3,S,S) -> phi (N,2,S,S) in pixels, float32: `warp(I_G, phi)` lies on I_F."""
        size = generated.shape[2:]
        feats = [self.first(torch.cat([generated, faithful], dim=1))]
        for layer in self.down:
            feats.append(layer(feats[-1]))
        x = feats.pop()
        for layer in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode='bilinear', align_corners=False)
            x = layer(torch.cat([x, feats.pop()], dim=1))
        raw = self.flow(self.last(x)).float()
        phi = self.reach * torch.tanh(raw / self.reach)
        phi = F.interpolate(phi, size=size, mode='bilinear', align_corners=False)
        if self.integrate:
            phi = phi / 2**self.integrate
            for _ in range(self.integrate):
                phi = phi + warp(phi, phi)
        return phi
