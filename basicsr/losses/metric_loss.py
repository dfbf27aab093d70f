"""Deep metric loss of CodeFormer++: triplets of texture and of identity.

Reddem et al., arXiv 2510.04410. The paper's weights, margins and layers are not public; those here are this project's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.archs.vgg_arch import VGGFeatures
from basicsr.losses.basic_loss import TeacherLoss
from basicsr.losses.identity_loss import IdentityLoss
from basicsr.utils.registry import LOSS_REGISTRY, nearest

RADII = ((0.10, 0.06), (0.10, 0.06), (0.07, 0.10), (0.13, 0.06))
"""Of eyes with brows, nose and mouth: half widths and half heights, shares of the side."""
CENTRES = ((0.377, 0.469), (0.623, 0.469), (0.5, 0.58), (0.5, 0.725))
"""Their centres on the FFHQ template, shares of the side."""
NOSE_ABOVE_TIP = 0.033
"""The nose's centre is above its landmark by this share of the side."""


def component_mask(size: int, landmarks: Tensor | None = None) -> Tensor:
    """Soft mask of eyes, brows, nose and mouth: 1 at their centres, 0 far off.

    Args:
        size: side S in pixels.
        landmarks: (N,5,2) pixels, eyes, tip of the nose, corners of the mouth; None for the FFHQ template.

    Returns:
        (N,1,S,S) in [0, 1], float32, with N = 1 for the template, whose mask is symmetrical.
    """
    if landmarks is None:
        centres = torch.tensor(CENTRES)[None]  # (1,4,2)
    else:
        points = (landmarks.float() + 0.5) / size
        nose = points[:, 2] - points.new_tensor([0, NOSE_ABOVE_TIP])
        centres = torch.stack([points[:, 0], points[:, 1], nose, points[:, 3:].mean(1)], dim=1)
    places = (torch.arange(size, device=centres.device) + 0.5) / size
    radii = centres.new_tensor(RADII)
    x = (places.view(1, 1, 1, -1) - centres[:, :, 0, None, None]) / radii[:, 0].view(1, -1, 1, 1)
    y = (places.view(1, 1, -1, 1) - centres[:, :, 1, None, None]) / radii[:, 1].view(1, -1, 1, 1)
    return (-((x**2 + y**2) ** 2)).exp().amax(1, keepdim=True)


def low_frequencies(image: Tensor, window: int) -> Tensor:
    """Box mean of pictures (N,C,H,W), reflected at the edges; `window` is odd."""
    half = window // 2
    padded = F.pad(image, (half,) * 4, mode='reflect')
    return F.avg_pool2d(F.avg_pool2d(padded, (window, 1), stride=1), (1, window), stride=1)


@torch.no_grad()
def hard_positive(faithful: Tensor, warped: Tensor, mask: Tensor) -> Tensor:
    """I_AP, the hard positive: components and colours of I_F, texture of I_warp.

    Inside the mask it is I_F; elsewhere it is I_warp with the low frequencies of I_F.

    Args:
        faithful, warped: I_F and I_warp (N,3,S,S).
        mask: of the components, see `component_mask`.

    Returns:
        (N,3,S,S) without a graph.
    """
    window = faithful.shape[3] // 8 // 2 * 2 + 1
    textured = warped + low_frequencies(faithful - warped, window)
    return mask * faithful + (1 - mask) * textured


class MetricTerms(NamedTuple):
    """Weighted terms of the loss, and the share of active hinges.

    Attributes:
        texture: of the triplets of VGG features.
        identity: of the recognizer's; None without one.
        texture_active, identity_active: shares, 0 to 1.
    """

    texture: Tensor
    identity: Tensor | None
    texture_active: float
    identity_active: float | None


@LOSS_REGISTRY.register()
class DeepMetricLoss(TeacherLoss):
    """Triplets with the restored face I_out as anchor.

    With d(a,b) = 1 - the mean over places of the cosine of VGG features, and R the embedding of a recognizer:

    - texture: max(0, d(I_out, P) - d(I_out, N) + margin), P the farther of {I_AP, truth}, N the nearest negative
    - identity: max(0, cos(R(I_out), R(I_G)) - cos(R(I_out), R(truth)) + id_margin)

    I_F is the negative of texture (the same person, no texture), I_G that of identity (texture, a drifted person).

    Args:
        loss_weight: factor on both.
        weights: VGG weights, see `PerceptualLoss`. Required.
        vgg_type: `vgg11`, `vgg13`, `vgg16` or `vgg19`.
        layers: names of VGG layers, such as `relu1_2`.
        margin: of the texture triplet, 0 to 2.
        negatives: of the texture triplet, of `I_F` and `I_G`.
        id_weight: factor of the identity triplet.
        id_margin: its margin, 0 to 2.
        id_recognizer: a recognizer, see `FaceEmbedder`; None leaves the identity triplet out.

    Raises:
        ValueError: an unknown layer, network or negative, or a margin or weight out of its range.
        CheckpointError: weights or a recognizer that cannot be used.
    """

    NEGATIVES = ('I_F', 'I_G')

    def __init__(
        self,
        loss_weight: float = 0.1,
        weights: str | Path | None = None,
        vgg_type: str = 'vgg16',
        layers: Sequence[str] = ('relu1_2', 'relu2_2'),
        margin: float = 0.05,
        negatives: Sequence[str] = ('I_F',),
        id_weight: float = 0.5,
        id_margin: float = 0.1,
        id_recognizer: str | Path | None = None,
    ) -> None:
        for name, value in (('margin', margin), ('id_margin', id_margin)):
            if not 0 <= value <= 2:
                raise ValueError(f"DeepMetricLoss: '{name}' is {value}, and must be from 0 to 2")
        if loss_weight < 0 or id_weight < 0:
            raise ValueError('DeepMetricLoss: loss_weight and id_weight must be 0 or more')
        if not layers or not negatives:
            raise ValueError("DeepMetricLoss: 'layers' and 'negatives' must name one or more")
        for name in negatives:
            if name not in self.NEGATIVES:
                raise ValueError(f"DeepMetricLoss: unknown negative '{name}'{nearest(name, self.NEGATIVES)}")
        super().__init__(VGGFeatures(list(layers), vgg_type, weights))
        self.loss_weight, self.margin, self.negatives = loss_weight, margin, tuple(negatives)
        self.id_weight, self.id_margin = id_weight, id_margin
        self.identity = None if id_recognizer is None else IdentityLoss(weights=id_recognizer)

    def forward(
        self,
        output: Tensor,
        gt: Tensor,
        faithful: Tensor,
        generated: Tensor,
        positive: Tensor,
        landmarks: Tensor | None = None,
    ) -> MetricTerms:
        """Judge restored faces.

        Args:
            output: I_out (N,3,S,S) in [-1, 1]; only it gets a gradient.
            gt: the truth.
            faithful: I_F.
            generated: I_G.
            positive: I_AP, see `hard_positive`.
            landmarks: (N,5,2) pixels of all, instead of the template's, for the recognizer.
        """
        texture = self._texture_hinges(output, gt, faithful, generated, positive)
        active = (texture > 0).float().mean().item()
        if self.identity is None:
            return MetricTerms(self.loss_weight * texture.mean(), None, active, None)
        embed = self.identity.embedder
        with torch.no_grad():
            target, drifted = embed(gt, landmarks), embed(generated, landmarks)
        found = embed(output, landmarks)
        identity = ((found * (drifted - target)).sum(1) + self.id_margin).relu()
        return MetricTerms(
            self.loss_weight * texture.mean(),
            self.loss_weight * self.id_weight * identity.mean(),
            active,
            (identity > 0).float().mean().item(),
        )

    def _texture_hinges(
        self, output: Tensor, gt: Tensor, faithful: Tensor, generated: Tensor, positive: Tensor
    ) -> Tensor:
        """Hinges by layer and face, (layers,N)."""
        given = {'I_F': faithful, 'I_G': generated}
        others = [gt, positive, *(given[name] for name in self.negatives)]
        with torch.no_grad():
            features = [self._features(other) for other in others]
        anchor = self._features(output)
        hinges = []
        for name, feature in anchor.items():
            distances = torch.stack([_distance(feature, other[name]) for other in features])  # (2 + negatives, N)
            hinges.append((distances[:2].amax(0) - distances[2:].amin(0) + self.margin).relu())
        return torch.stack(hinges)

    def _features(self, x: Tensor) -> Mapping[str, Tensor]:
        return self.teacher((x + 1) / 2)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - the mean cosine over the places of features (N,C,H,W), (N,)."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=1).mean((1, 2))
