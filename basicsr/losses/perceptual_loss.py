"""Perceptual and style loss on VGG features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.archs.vgg_arch import VGGFeatures
from basicsr.losses.basic_loss import TeacherLoss
from basicsr.utils.registry import LOSS_REGISTRY, nearest

CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'l1': F.l1_loss,
    'l2': F.mse_loss,
    'mse': F.mse_loss,
    'fro': lambda a, b: torch.linalg.vector_norm(a - b),
}


def gram_matrix(x: Tensor) -> Tensor:
    """Gram matrices (N,C,C) of features (N,C,H,W), divided by C*H*W (Gatys et al., CVPR 2016)."""
    n, c, h, w = x.shape
    flat = x.reshape(n, c, h * w)
    return flat @ flat.transpose(1, 2) / (c * h * w)


@LOSS_REGISTRY.register()
class PerceptualLoss(TeacherLoss):
    """Distance of VGG features, and of their Gram matrices (Johnson et al., ECCV 2016).

    The teacher runs in the precision of the caller's autocast; distances are taken in float32.

    Args:
        layer_weights: layer name (`conv1_2`, `relu2_2`, ...) to its factor; names as in `vgg_layer_names`.
        vgg_type: `vgg11`, `vgg13`, `vgg16` or `vgg19`.
        use_input_norm: normalise pictures in [0, 1] by ImageNet's mean and standard deviation.
        range_norm: the pictures are in [-1, 1]: bring them to [0, 1] first.
        perceptual_weight: factor of the feature distance; 0 leaves it out.
        style_weight: factor of the Gram distance; 0 leaves it out.
        criterion: `l1`, `l2` (or `mse`), or `fro` (the root of the sum of squares).
        weights: a file of VGG weights in torchvision names, or `torchvision` for its download. Required.
        input_scale: shrink both pictures by this factor (0 < s <= 1), by area, first; half costs a quarter.

    Raises:
        ValueError: unknown layer, network or criterion, or a scale out of range.
        CheckpointError: weights that are missing, not fitting, or not to be downloaded.
    """

    def __init__(
        self,
        layer_weights: Mapping[str, float],
        vgg_type: str = 'vgg19',
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: float = 1.0,
        style_weight: float = 0.0,
        criterion: str = 'l1',
        weights: str | Path | None = None,
        input_scale: float = 1.0,
    ) -> None:
        if not layer_weights:
            raise ValueError("PerceptualLoss: 'layer_weights' names no layer")
        if criterion not in CRITERIA:
            raise ValueError(f"PerceptualLoss: unknown criterion '{criterion}'{nearest(criterion, CRITERIA)}")
        if not 0 < input_scale <= 1:
            raise ValueError(f"PerceptualLoss: 'input_scale' is {input_scale}, and must be above 0 and at most 1")
        super().__init__(VGGFeatures(list(layer_weights), vgg_type, weights, use_input_norm))
        self.layer_weights = dict(layer_weights)
        self.range_norm = range_norm
        self.perceptual_weight = perceptual_weight
        self.style_weight = style_weight
        self.criterion = CRITERIA[criterion]
        self.input_scale = input_scale

    def forward(self, x: Tensor, gt: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the feature loss and the style loss, weighted scalars; None for one whose weight is 0.

        Args:
            x: pictures (N,3,H,W) in [0, 1], or [-1, 1] with `range_norm`; they get the gradient.
            gt: targets of the same shape; they get none.
        """
        x_features = self._features(x)
        with torch.no_grad():
            gt_features = self._features(gt)
        percep_loss = style_loss = None
        if self.perceptual_weight > 0:
            percep_loss = self.perceptual_weight * self._distance(x_features, gt_features)
        if self.style_weight > 0:
            x_grams = {name: gram_matrix(feature) for name, feature in x_features.items()}
            gt_grams = {name: gram_matrix(feature) for name, feature in gt_features.items()}
            style_loss = self.style_weight * self._distance(x_grams, gt_grams)
        return percep_loss, style_loss

    def _features(self, x: Tensor) -> dict[str, Tensor]:
        if self.range_norm:
            x = (x + 1) / 2
        if self.input_scale != 1:
            x = F.interpolate(x, scale_factor=self.input_scale, mode='area')
        return self.teacher(x)

    def _distance(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
        terms = [self.criterion(a[name].float(), b[name].float()) * k for name, k in self.layer_weights.items()]
        return torch.stack(terms).sum()
