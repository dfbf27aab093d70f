"""The reconstruction terms that stages I and III share."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from basicsr.archs import VQAutoEncoder
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel, Terms
from basicsr.utils.options import OptionError


def random_window(side: int, *images: Tensor) -> tuple[Tensor, ...]:
    """Crop the same random square of `side` pixels from images (N,C,H,W); whole images where `side` is 0."""
    if not side:
        return images
    height, width = images[0].shape[2:]
    top, left = (int(torch.randint(size - side + 1, ())) for size in (height, width))
    return tuple(image[..., top : top + side, left : left + side] for image in images)


def window_side(model: BaseModel) -> int:
    """Read `train:crop`, the side of the window on which image losses are computed; 0 is the whole image.

    Raises:
        OptionError: it is larger than the images.
    """
    side, largest = int(model.train_opt.get('crop') or 0), cast(VQAutoEncoder, model.networks['net_g']).out_size
    if not 0 <= side <= largest:
        raise OptionError(f'train:crop {side}: use a side from 1 to {largest}, that of the images, or 0 for all of it')
    return side


class ImageLosses:
    """Pixel and perceptual terms, from `train:pixel_opt` and `train:perceptual_opt`; one of them at least.

    Args:
        model: the stage.
    """

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        sections = {'l_g_pix': model.train_opt.get('pixel_opt'), 'l_g_percep': model.train_opt.get('perceptual_opt')}
        self.losses = {name: build_loss(opt).to(model.device) for name, opt in sections.items() if opt}
        if not self.losses:
            raise OptionError('train: give pixel_opt, perceptual_opt or both')

    def __call__(self, output: Tensor, gt: Tensor) -> Terms:
        """The weighted terms for pictures (N,3,H,W) in [-1, 1]."""
        terms: Terms = {}
        for name, loss in self.losses.items():
            with self.model.autocast():
                value = loss(output, gt)
            if isinstance(value, tuple):  # PerceptualLoss: features and style, None for one that is off
                parts = {name: value[0], 'l_g_style': value[1]}
                terms |= {part: term for part, term in parts.items() if term is not None}
            else:
                terms[name] = value
        return terms
