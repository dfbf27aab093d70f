"""The network that sees what lies on a sharp face: letters, dust, scratches, stickers, colour noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

CHANNELS = (24, 32, 48, 64, 96)  # of the stages, each of half the resolution of the one before
SECOND = (False, True, True, True, False)  # stages with a second, residual convolution
POOLED = 1  # the first stage whose features are pooled
PLACES, PLACE_CHANNELS = 2, 48  # the stage in whose resolution places of overlays are found, and channels there
HIDDEN = 32  # units of the last layers
STRIDE = 2 ** len(CHANNELS)  # pixels of a view for one of the last stage
PLACE = 2 ** (PLACES + 1)  # likewise, for one place


class ConvNorm(nn.Module):
    """Convolution, batch normalization (in training only: `fuse` takes it into the convolution), ReLU."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2)
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()

    def fuse(self) -> None:
        """Take the running statistics into the weights."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval()), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features (B,C,H,W) to (B,C',H/stride,W/stride)."""
        return F.relu(self.norm(self.conv(x)))


class OverlayNet(nn.Module):
    """Logit that nothing lies on a face, of two views of it.

    The stages are convolutional; the deeper ones are taken up again to the resolution of one, where the network says of
    each place whether something lies on the face. Features and places are pooled inside the face alone: means, for what
    is everywhere, and maxima, for what is somewhere.
    """

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        kernels = [5] + [3] * (len(CHANNELS) - 1)
        pairs = zip((3, *CHANNELS), CHANNELS, kernels, strict=False)
        self.stages = nn.ModuleList(ConvNorm(a, b, kernel, 2, norm) for a, b, kernel in pairs)
        self.residual = nn.ModuleList(
            ConvNorm(c, c, 3, 1, norm) if second else nn.Identity() for c, second in zip(CHANNELS, SECOND, strict=True)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, PLACE_CHANNELS, 1) for c in CHANNELS[PLACES:])
        self.places = nn.Sequential(
            ConvNorm(PLACE_CHANNELS, PLACE_CHANNELS, 3, 1, norm), nn.Conv2d(PLACE_CHANNELS, 1, 1)
        )
        pooled = 2 * (2 * sum(CHANNELS[POOLED:]) + 2)
        self.head = nn.Sequential(nn.Linear(pooled + 1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def fuse(self) -> OverlayNet:
        """Take batch normalization into the convolutions; the network for use."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fuse()
        return self.eval()

    def pool(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of a view inside the face, (B,P), and its places, (B,1,H/PLACE,W/PLACE).

        A place is the logit that an overlay lies there.

        Args:
            image: (B,3,H,W) in [-1,1]; H and W are multiples of `STRIDE`.
            mask: (B,1,H,W) in {0,1}, the pixels of the face.
        """
        pooled: list[Tensor] = []
        levels: list[tuple[Tensor, Tensor]] = []
        for stage, residual, second in zip(self.stages, self.residual, SECOND, strict=True):
            image = stage(image)
            if second:
                image = image + residual(image)
            mask = F.avg_pool2d(mask, 2)
            levels.append((image, mask))
        upper = self.lateral[-1](image)
        for lateral, (features, _) in zip(self.lateral[-2::-1], levels[-2 : PLACES - 1 : -1], strict=True):
            upper = lateral(features) + F.interpolate(upper, scale_factor=2.0)
        places = self.places(F.relu(upper)).float()
        for features, inside in [*levels[POOLED:], (F.softplus(places), levels[PLACES][1])]:
            values = features.float() * inside
            pooled += [values.sum((2, 3)) / inside.sum((2, 3)).clamp_min(1e-3), values.amax((2, 3))]
        return torch.cat(pooled, 1), places

    def forward(self, native: Tensor, reduced: Tensor, log_ratio: Tensor) -> Tensor:
        """Return the logits, (B,).

        Args:
            native: features of the face in the pixels of the picture, (B,P).
            reduced: features of the reduced face, (B,P).
            log_ratio: natural logarithm of the size of the first over that of the second, (B,1).
        """
        return self.head(torch.cat([native, reduced, log_ratio.clamp(0, 1)], 1))[:, 0]
