"""The losses on pictures that a stage sums: `pixel_opt`, `perceptual_opt` and the list `train:losses`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from basicsr.archs import VQAutoEncoder
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel, Terms
from basicsr.utils.options import OptionError, drop_nulls
from basicsr.utils.registry import LOSS_REGISTRY

ENTRY_OPTIONS: Mapping[str, Any] = {'name': str, 'every': int, 'start_iter': int, 'sub_batch': int}
"""Keys of an entry of `train:losses` beside `type` and the arguments of the loss."""

SECTIONS: Mapping[str, str] = {'l_g_pix': 'pixel_opt', 'l_g_percep': 'perceptual_opt'}
"""Terms with a section of their own."""

TERMS = frozenset({
    'l_g_gan', 'l_d_real', 'l_d_fake', 'l_codebook', 'l_feat_encoder', 'cross_entropy_loss',
    'l_ids', 'l_align', 'l_style',
})  # fmt: skip
"""Names of the terms that stages have besides."""


@dataclass(frozen=True)
class ListedLoss:
    """A loss called as `loss(pred, target)`, and when it is.

    Attributes:
        name: in the log, `l_mine` for a class MineLoss by default.
        loss: returns a scalar, weighted.
        every: iterations between two that compute it.
        start: no term up to this iteration.
        faces: of a batch that it sees; all if None.
    """

    name: str
    loss: nn.Module
    every: int = 1
    start: int = 0
    faces: int | None = None

    def is_due(self, iteration: int) -> bool:
        """Return True if an iteration computes it."""
        return iteration > self.start and iteration % self.every == 0


def name_of(section: Mapping[str, Any]) -> str:
    """Return the name of an entry's term: its `name`, or the type in lower case without its ending `Loss`."""
    words = re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', str(section['type']).removesuffix('Loss')).lower()
    return section.get('name') or f'l_{words}'


def arguments_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry's arguments of its loss: `type` and its arguments, and `every` where the loss has that itself."""
    own = inspect.signature(LOSS_REGISTRY.get(section['type'])).parameters
    return {key: value for key, value in section.items() if key not in ENTRY_OPTIONS or key in own}


def random_window(side: int, *images: Tensor) -> tuple[Tensor, ...]:
    """Crop the same random square of `side` pixels from images (N,C,H,W); whole images where `side` is 0.

    Places up to a quarter of `side` outside the image are drawn too and moved to its border, which few windows would
    reach otherwise.
    """
    if not side:
        return images
    corner = []
    for length in images[0].shape[2:]:
        last, beyond = length - side, side // 4
        corner.append(min(max(int(torch.randint(-beyond, last + beyond + 1, ())), 0), last))
    top, left = corner
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
    """Terms of restored pictures against their targets.

    Options (`train`): `pixel_opt` (term `l_g_pix`), `perceptual_opt` (`l_g_percep`, `l_g_style`), and `losses`, a list
    of further ones, whose entries have `type`, the arguments of that loss, and `ENTRY_OPTIONS`.

    Args:
        model: the stage; which of the sections it reads, `LOSS_SECTIONS` says.

    Raises:
        OptionError: an entry that cannot be, or two of one name.
    """

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        train = model.train_opt
        read = {name: train.get(key) for name, key in SECTIONS.items() if key in model.LOSS_SECTIONS}
        self.losses = [self._build(opt, name) for name, opt in read.items() if opt]
        listed = [drop_nulls(opt) for opt in train.get('losses') or ()]
        self.losses += [self._build(opt, name_of(opt)) for opt in listed]
        names = [entry.name for entry in self.losses]
        for name in names:
            if names.count(name) > 1 or name in TERMS:
                raise OptionError(f"train:losses: two losses are called '{name}'; give one of them another name")

    def _build(self, section: Mapping[str, Any], name: str) -> ListedLoss:
        every, start, faces = section.get('every', 1), section.get('start_iter', 0), section.get('sub_batch')
        if every < 1 or start < 0 or (faces is not None and faces < 1):
            raise OptionError(f'train:losses: {name}: every and sub_batch must be 1 or more, start_iter 0 or more')
        return ListedLoss(name, build_loss(arguments_of(section)).to(self.model.device), every, start, faces)

    @property
    def always_some(self) -> bool:
        """True if every iteration has a term on the whole batch."""
        return any(entry.every == 1 and not entry.start and entry.faces is None for entry in self.losses)

    def faces(self, iteration: int, batch: int) -> int:
        """Return the number of a batch's faces that the losses of an iteration see; 0 where none is due."""
        wanted = [min(entry.faces or batch, batch) for entry in self.losses if entry.is_due(iteration)]
        return max(wanted, default=0)

    def __call__(self, output: Tensor, gt: Tensor, iteration: int, whole: tuple[Tensor, Tensor] | None = None) -> Terms:
        """Return the weighted terms of an iteration.

        Args:
            output: images (N,3,H,W) in [-1, 1].
            gt: their targets.
            iteration: from 1 on.
            whole: the images of which these are a window, and their targets, for the losses of `train:losses`.
        """
        terms: Terms = {}
        for entry in self.losses:
            if not entry.is_due(iteration):
                continue
            restored, target = (output, gt) if entry.name in SECTIONS or whole is None else whole
            with self.model.autocast():
                value = entry.loss(restored[: entry.faces], target[: entry.faces])
            if isinstance(value, tuple):  # PerceptualLoss: features and style, None for one that is off
                style = 'l_g_style' if entry.name == 'l_g_percep' else f'{entry.name}_style'
                parts = {entry.name: value[0], style: value[1]}
                terms |= {part: term for part, term in parts.items() if term is not None}
            else:
                terms[entry.name] = value
        return terms
