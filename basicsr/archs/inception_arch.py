"""The Inception network of the FID, in torchvision's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from basicsr.utils.checkpoint import load_state, load_state_dict_file

CLASSES = 1008  # of the TensorFlow network that the weights come from
SIDE = 299


class _OwnPool:
    """Takes the place of the pooling before `branch_pool`: TensorFlow leaves the padding out of the mean."""

    branch_pool: nn.Module  # of the class that it is mixed into
    pool: nn.Module = nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branches = cast(Any, super())._forward(x)
        return [*branches[:-1], self.branch_pool(self.pool(x))]


class _A(_OwnPool, InceptionA):
    pass


class _C(_OwnPool, InceptionC):
    pass


class _E(_OwnPool, InceptionE):
    pass


class _Last(_OwnPool, InceptionE):
    pool = nn.MaxPool2d(3, 1, padding=1)


def _e(channels: int) -> nn.Module:
    """One of the two blocks of the last kind; the second one takes 2048 channels."""
    return (_Last if channels == FIDInception.dim else _E)(channels)


class FIDInception(nn.Module):
    """Features of pictures for the FID (Heusel et al., NeurIPS 2017): the 2048 numbers before the classifier.

    The network of the published FID, as pytorch-fid carries it over from TensorFlow: means without padding, and in the
    last block the largest value in place of the mean.

    Args:
        weights: pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`.

    Raises:
        CheckpointError: the file is missing, damaged, or another network's.
    """

    name = 'FID Inception (2015-12-05)'
    dim = 2048

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        state = load_state_dict_file(weights)
        blocks = [BasicConv2d, _A, InceptionB, _C, InceptionD, _e, InceptionAux]
        with torch.device('meta'):
            network = Inception3(CLASSES, aux_logits=False, inception_blocks=blocks, init_weights=False)
        counters = {key: torch.zeros((), dtype=torch.long) for key in network.state_dict() if key.endswith('_tracked')}
        load_state(network, {**counters, **state}, source=weights, assign=True)
        network.add_module('fc', nn.Identity())
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FIDInception:
        """Nothing: it stays in evaluation mode."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (N,3,H,W) in [-1, 1] -> (N,2048)."""
        return self.network(F.interpolate(x, size=(SIDE, SIDE), mode='bilinear', align_corners=False))
