"""LPIPS, a perceptual distance calibrated by human judgements."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from basicsr.archs.vgg_arch import IMAGENET_MEAN, IMAGENET_STD, TORCHVISION, load_backbone
from basicsr.losses.basic_loss import TeacherLoss
from basicsr.utils.errors import MissingExtraError
from basicsr.utils.registry import LOSS_REGISTRY, nearest

# LPIPS name: torchvision network, and the layers of its `features` that are compared.
BACKBONES: dict[str, tuple[str, tuple[int, ...]]] = {
    'vgg': ('vgg16', (3, 8, 15, 22, 29)),
    'alex': ('alexnet', (1, 4, 7, 9, 11)),
    'squeeze': ('squeezenet1_1', (1, 4, 7, 9, 10, 11, 12)),
}


class LPIPS(nn.Module):
    """The distance of Zhang et al., CVPR 2018, equation 1, with the heads (version 0.1) of the package `lpips`.

    Written out here rather than taken from the package's class, which draws a random backbone first (seconds, and the
    generator's state) through arguments that torchvision has deprecated. The values are the same.

    Args:
        net: `vgg`, `alex` or `squeeze`.
        weights: backbone weights, see `load_backbone`.

    Raises:
        ValueError: unknown `net`.
        CheckpointError: see `load_backbone`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str, weights: str | Path) -> None:
        super().__init__()
        if net not in BACKBONES:
            raise ValueError(f"LPIPS: unknown net '{net}'{nearest(net, BACKBONES)}")
        arch, self.taps = BACKBONES[net]
        self.layers = load_backbone(arch, self.taps[-1] + 1, weights)
        heads = torch.load(_package_folder() / 'weights' / 'v0.1' / f'{net}.pth', map_location='cpu', weights_only=True)
        for i in range(len(self.taps)):
            self.register_buffer(f'head{i}', heads[f'lin{i}.model.1.weight'])  # (1,C,1,1)
        self.register_buffer('shift', torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer('scale', torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def features(self, x: Tensor) -> list[Tensor]:
        """Return compared layers of pictures (N,3,H,W) in [-1, 1], each position a unit vector (N,C,h,w), float32."""
        x = (x - self.shift) / self.scale
        features = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.taps:
                raw = x.float()
                features.append(raw * torch.rsqrt(raw.square().sum(dim=1, keepdim=True) + 1e-20))
        return features

    def forward(self, x: Tensor, gt: Tensor) -> Tensor:
        """Distances (N,) of pictures (N,3,H,W) in [-1, 1]; `gt` gets no gradient."""
        ours = self.features(x)
        with torch.no_grad():
            theirs = self.features(gt)
        layers = [
            ((a - b).square() * getattr(self, f'head{i}')).sum(dim=1).mean(dim=(1, 2))
            for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
        ]
        return torch.stack(layers).sum(dim=0)


def _package_folder() -> Path:
    spec = importlib.util.find_spec('lpips')
    if spec is None or spec.origin is None:
        raise MissingExtraError('LPIPS reads its heads from the package lpips: pip install "id-codeformer[metrics]"')
    return Path(spec.origin).parent


@LOSS_REGISTRY.register()
class LPIPSLoss(TeacherLoss):
    """Mean LPIPS distance of a batch.

    LPIPS expects [-1, 1] and normalises by itself. `use_input_norm` keeps its published meaning and default, which is
    to normalise by ImageNet's mean and standard deviation *as well*, so that the distance is not the published LPIPS
    one: set it to false unless a published training run is to be repeated to the letter.

    Args:
        loss_weight: factor on the result.
        use_input_norm: normalise a second time, see above.
        range_norm: bring the pictures from [-1, 1] to [0, 1] first, as published.
        net: backbone, `vgg`, `alex` or `squeeze`.
        weights: a file of its weights in torchvision names; by default torchvision's own, downloaded once.

    Raises:
        ValueError: unknown `net`.
        CheckpointError: weights that are missing, not fitting, or not to be downloaded; says what to put where.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        loss_weight: float = 1.0,
        use_input_norm: bool = True,
        range_norm: bool = False,
        net: str = 'vgg',
        weights: str | Path | None = None,
    ) -> None:
        super().__init__(LPIPS(net, TORCHVISION if weights is None else weights))
        self.loss_weight = loss_weight
        self.use_input_norm = use_input_norm
        self.range_norm = range_norm
        self.register_buffer('mean', torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the weighted mean distance, a scalar.

        Args:
            pred: pictures (N,3,H,W) in [-1, 1]; they get the gradient.
            target: of the same shape; they get none.
        """
        return self.loss_weight * self.teacher(self._prepare(pred), self._prepare(target)).mean()

    def _prepare(self, x: Tensor) -> Tensor:
        if self.range_norm:
            x = (x + 1) / 2
        if self.use_input_norm:
            x = (x - self.mean) / self.std
        return x
