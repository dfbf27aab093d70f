"""Pretrained classification networks of torchvision, cut after the layer that a loss needs."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import cast

import torch
import torchvision
from torch import Tensor, nn

from basicsr.utils.checkpoint import CheckpointError, load_state_dict_file

TORCHVISION = 'torchvision'


def load_backbone(arch: str, depth: int, weights: str | Path | None) -> nn.Sequential:
    """Return the first `depth` layers of a torchvision network's `features`, in float32.

    Args:
        arch: a torchvision network that has `features`: `vgg16`, `vgg19`, `alexnet`, `squeezenet1_1`.
        depth: how many layers to keep; later ones are neither built nor read.
        weights: a `.pth` or `.safetensors` file with torchvision's `features.*` keys, float32 or float16; or the word
            `torchvision` for its own ImageNet weights, from its cache or downloaded.

    Raises:
        CheckpointError: no weights are given, the file is missing or damaged or does not hold this network, or the
            download failed; the message says what to put where.
    """
    if weights is None:
        raise CheckpointError(
            f"a loss on {arch} needs pretrained weights: give 'weights', a .pth or .safetensors file with "
            f"torchvision's features.* keys, or '{TORCHVISION}' to let torchvision download its own"
        )
    state = _download(arch) if str(weights) == TORCHVISION else _read(Path(weights))
    with torch.device('meta'):
        layers = cast(nn.Sequential, torchvision.models.get_model(arch, weights=None).features)[:depth]
    wanted = layers.state_dict()
    wrong = [key for key in wanted if getattr(state.get(f'features.{key}'), 'shape', None) != wanted[key].shape]
    if wrong:
        raise CheckpointError(
            f'{weights}: not the weights of {arch} in torchvision names; {len(wrong)} of {len(wanted)} keys are '
            f'missing or of another shape, such as features.{wrong[0]}'
        )
    layers.load_state_dict({key: state[f'features.{key}'].float() for key in wanted}, assign=True)
    for layer in layers.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # the layer before it may be read too
    return layers.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such weights file; 'id-codeformer download vgg' puts VGG weights into weights/vgg"
        )
    return load_state_dict_file(path)


def _download(arch: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(arch)['IMAGENET1K_V1']
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, map_location='cpu', weights_only=True))
    except (OSError, HTTPException, RuntimeError) as error:
        target = Path(torch.hub.get_dir()) / 'checkpoints' / Path(weights.url).name
        raise CheckpointError(
            f'the weights of {arch} could not be had from {weights.url} ({error}); fetch that file by hand and save it '
            f"as {target}, or give its path as 'weights'"
        ) from error
