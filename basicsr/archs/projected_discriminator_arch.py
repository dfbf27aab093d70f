"""ProjectedDiscriminator: pixels and pretrained features judged (Projected GANs, Sauer et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from basicsr.archs.discriminator_arch import VQGANDiscriminator
from basicsr.utils.registry import ARCH_REGISTRY

if TYPE_CHECKING:  # torchvision takes two seconds to import, and what restores needs none of it
    from basicsr.archs.vgg_arch import VGGFeatures

CHANNELS = {'relu2_2': 128, 'relu3_3': 256, 'relu4_3': 512}


def head(channels: int, width: int) -> nn.Sequential:
    """Return a judge of one layer's features: (N,channels,h,w) to a logit a place (N,1,h,w), spectrally normalised."""
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, width, 1)),
        nn.LeakyReLU(0.2, inplace=True),
        spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
        nn.LeakyReLU(0.2, inplace=True),
        spectral_norm(nn.Conv2d(width, 1, 3, padding=1)),
    )


@ARCH_REGISTRY.register()
class ProjectedDiscriminator(VQGANDiscriminator):
    """Judge texture by `VQGANDiscriminator`, and structure by heads on frozen VGG16 features.

    What a pretrained network sees in eyes, teeth and hair need not be learnt from few faces, so a short training is
    told of wrong structure early on. The frozen network is in no state dict.

    Args:
        nc, ndf, n_layers: as in `VQGANDiscriminator`.
        weights: VGG16 weights, see `load_backbone`. Required.
        layers: whose features are judged, of relu2_2, relu3_3 and relu4_3.
        width: channels of a head.
        input_scale: reduce images by this factor (0 < s <= 1), by area, for the frozen network.
        grid: logits a side of a layer's map; finer features are averaged, so that every layer has the same weight.
        feature_share: share of the logits that are of features, about; the others are of pixels, which see texture.

    Raises:
        ValueError: `feature_share` is out of its range.
        CheckpointError: see `load_backbone`.
    """

    features: VGGFeatures

    def __init__(
        self,
        nc: int = 3,
        ndf: int = 64,
        n_layers: int = 4,
        weights: str | Path | None = None,
        layers: Sequence[str] = ('relu2_2', 'relu3_3', 'relu4_3'),
        width: int = 64,
        input_scale: float = 0.5,
        grid: int = 12,
        feature_share: float = 0.5,
    ) -> None:
        from basicsr.archs.vgg_arch import VGGFeatures

        super().__init__(nc, ndf, n_layers)
        if not 0 < feature_share < 1:
            raise ValueError(f'feature_share {feature_share}: must be above 0 and below 1')
        self.input_scale, self.grid = input_scale, grid
        self.feature_odds = feature_share / (1 - feature_share)
        self.heads = nn.ModuleDict({layer: head(CHANNELS[layer], width) for layer in layers})
        object.__setattr__(self, 'features', VGGFeatures(list(layers), 'vgg16', weights))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self.features._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor) -> Tensor:
        """(N,nc,H,W) in [-1, 1] -> logits (N,P): half of their mean is of pixels, half of features."""
        pixels = super().forward(x).flatten(1)
        small = F.interpolate((x + 1) / 2, scale_factor=self.input_scale, mode='area')
        places = []
        for layer, feature in self.features(small).items():
            logits = self.heads[layer](feature)
            places.append(F.adaptive_avg_pool2d(logits, min(self.grid, *logits.shape[2:])).flatten(1))
        structure = torch.cat(places, 1)
        count = max(round(self.feature_odds * pixels.shape[1] / structure.shape[1]), 1)
        return torch.cat([pixels, structure.repeat(1, count)], 1)
