"""VGG features, and other pretrained classification networks of torchvision, cut after the layer that is needed."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import cast

import torch
import torchvision
from torch import Tensor, nn

from basicsr.utils.checkpoint import CheckpointError, load_state_dict_file
from basicsr.utils.registry import nearest

TORCHVISION = 'torchvision'
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VGG_TYPES = ('vgg11', 'vgg13', 'vgg16', 'vgg19')


def vgg_layer_names(vgg_type: str) -> list[str]:
    """Names of a VGG's layers in order: `conv1_1`, `relu1_1`, `conv1_2`, ..., `pool1`, `conv2_1`.

    Raises:
        ValueError: unknown network.
    """
    if vgg_type not in VGG_TYPES:
        raise ValueError(f"unknown vgg_type '{vgg_type}'{nearest(vgg_type, VGG_TYPES)}")
    with torch.device('meta'):
        features = cast(nn.Sequential, torchvision.models.get_model(vgg_type, weights=None).features)
    names, block, number = [], 1, 0
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            names.append(f'pool{block}')
            block, number = block + 1, 0
            continue
        number += isinstance(layer, nn.Conv2d)
        names.append(f'{"conv" if isinstance(layer, nn.Conv2d) else "relu"}{block}_{number}')
    return names


class VGGFeatures(nn.Module):
    """The outputs of chosen layers of a pretrained VGG, built up to the deepest of them.

    Args:
        layer_names: which, such as `conv1_2` or `relu2_2`.
        vgg_type: `vgg11`, `vgg13`, `vgg16` or `vgg19`.
        weights: see `load_backbone`.
        use_input_norm: normalise by ImageNet's mean and standard deviation first.

    Raises:
        ValueError: unknown layer or network.
        CheckpointError: see `load_backbone`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, layer_names: list[str], vgg_type: str, weights: str | Path | None, use_input_norm: bool = True
    ) -> None:
        super().__init__()
        known = vgg_layer_names(vgg_type)
        for name in layer_names:
            if name not in known:
                raise ValueError(f"{vgg_type} has no layer '{name}'{nearest(name, known)}")
        self.taps = {known.index(name): name for name in layer_names}
        self.layers = load_backbone(vgg_type, max(self.taps) + 1, weights)
        self.use_input_norm = use_input_norm
        self.register_buffer('mean', torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer('std', torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features of pictures (N,3,H,W), in [0, 1] where `use_input_norm` is set, by layer name."""
        if self.use_input_norm:
            x = (x - self.mean) / self.std
        features = {}
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.taps:
                features[self.taps[index]] = x
        return features


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
