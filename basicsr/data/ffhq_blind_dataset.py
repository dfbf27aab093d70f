"""Clean faces and a damaged copy of each, made while reading."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from basicsr.data.brush_mask import brush_mask
from basicsr.data.common import (
    FILE_KEYS,
    LOADER_KEYS,
    DataError,
    Normalise,
    option,
    resize_square,
)
from basicsr.data.degradation import (
    LARGE,
    SMALL,
    ColourRanges,
    DegradationRanges,
    change_colour,
    degrade,
    to_bytes,
    to_unit,
)
from basicsr.data.latents import LatentCodes
from basicsr.data.storage import Files, open_files, read_file
from basicsr.utils.image import whitened
from basicsr.utils.registry import DATASET_REGISTRY

logger = logging.getLogger(__name__)

Item = dict[str, Any]
PART_KEYS = ('component_path', 'eye_enlarge_ratio', 'mouth_enlarge_ratio', 'nose_enlarge_ratio')
"""Keys of published option files for boxes of face parts, which no loss of this project reads."""


@DATASET_REGISTRY.register()
class FFHQBlindDataset(Dataset):
    """Aligned faces with one damaged copy each (stages I and II).

    `dataset[v]` takes any v >= 0: picture `v % len(dataset)`, every draw from `default_rng([seed, v])`. So an index
    says all about an item, whatever the number of workers, and epoch e asks for `e * len + i` to get fresh draws.

    Args:
        opt: `dataroot_gt`, `io_backend` (see `open_files`), `gt_size`, `in_size` (default `gt_size`), `mean`, `std`,
            `use_hflip` (default true), `use_corrupt` (default true; false: the input is the resized picture),
            `gen_inpaint_mask` (default false; true: the input is the resized picture, white under brush strokes, and
            `use_corrupt` has no effect; see `brush_mask`), `mask_prob` (default 1; the share of inputs with strokes,
            the others are degraded as usual), the degradation keys of `DegradationRanges` (missing ones as LARGE for
            `gt_size` pixels) and of `ColourRanges`, `latent_gt_path`, `seed` (default 0), `on_error`
            ('raise', or 'skip': a picture that cannot be used is listed in `skipped` and the next good one takes its
            place). The loader's keys, `filename_tmpl` and the boxes of face parts (`PART_KEYS`) have no effect here.

    Raises:
        DataError: wrong options, no pictures, or tables that do not fit them.
    """

    OPTION_KEYS = frozenset(
        {
            *LOADER_KEYS,
            *FILE_KEYS,
            *(field.name for kind in (DegradationRanges, ColourRanges) for field in fields(kind)),
            *PART_KEYS,
            *('in_size', 'gt_size', 'use_hflip', 'use_corrupt', 'use_motion_kernel', 'gen_inpaint_mask', 'mask_prob'),
            *('latent_gt_path', 'on_error'),
        }
    )
    default_ranges = LARGE

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.root = Path(option(opt, 'dataroot_gt'))
        self.gt_size = int(option(opt, 'gt_size'))
        self.in_size = int(opt.get('in_size') or self.gt_size)
        self.seed = int(opt.get('seed') or 0)
        self.use_hflip, self.use_corrupt = bool(opt.get('use_hflip', True)), bool(opt.get('use_corrupt', True))
        self.gen_inpaint_mask = bool(opt.get('gen_inpaint_mask', False))
        self.mask_prob = float(opt.get('mask_prob', 1))
        self.ranges = DegradationRanges.from_options(opt, self.default_ranges.scaled(self.gt_size))
        self.colour = ColourRanges.from_options(opt)
        self.normalise = Normalise(opt)
        self.on_error = opt.get('on_error', 'raise')
        if self.on_error not in ('raise', 'skip'):
            raise DataError(f"on_error: '{self.on_error}' is unknown; use 'raise' or 'skip'")
        self.files = self._open(opt)
        self.paths = self.files.paths
        # In shared memory, so that the main process sees what its workers pass over.
        self._bad = torch.zeros(len(self.paths), dtype=torch.uint8)
        if self.on_error == 'skip':
            self._bad.share_memory_()
        self.latents = None
        if opt.get('latent_gt_path'):
            self.latents = LatentCodes(opt['latent_gt_path'], self.paths, self.root, strict=self.on_error == 'raise')
        if opt.get('component_path'):
            logger.warning('component_path: the boxes of face parts are not read, as no loss of this project uses them')

    def _open(self, opt: Mapping[str, Any]) -> Files:
        """Return the pictures."""
        return open_files(opt, 'dataroot_gt')

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(path, reason) of every picture passed over so far, by any worker; the reasons are found by reading again."""
        return [(str(self.paths[index]), self._problem(index)) for index in self._bad.nonzero().flatten().tolist()]

    def _problem(self, index: int) -> str:
        try:
            self._load(index, flip=False)
        except DataError as error:
            return str(error)
        return 'could not be used when it was first read; it can now'

    def _load(self, index: int, flip: bool) -> tuple[np.ndarray, Item]:
        """Picture `index` as RGB uint8 (gt_size,gt_size,3), and the items that need no chance."""
        image = resize_square(read_file(self.files, index, self.gt_size / 4), self.gt_size, self.paths[index])
        if flip:
            image = cv2.flip(image, 1)
        extra: Item = {'gt_path': str(self.paths[index])}
        if self.latents:
            extra['latent_gt'] = self.latents(index, flip)
        return image, extra

    def _load_good(self, index: int, flip: bool) -> tuple[np.ndarray, Item]:
        """Picture `index`, or with `on_error: skip` the first one from there on that can be used."""
        if self.on_error == 'raise':
            return self._load(index, flip)
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            if self._bad[candidate]:
                continue
            try:
                return self._load(candidate, flip)
            except DataError as error:
                self._bad[candidate] = 1
                logger.warning('passed over: %s', error)
        raise DataError(f'{self.root}: not one of its {len(self)} pictures can be used; see the warnings')

    def damage(self, image: np.ndarray, ranges: DegradationRanges, rng: np.random.Generator) -> Tensor:
        """Return the low-quality side of `image`, float32 (gt_size,gt_size,3) in [0, 1]: (3,in_size,in_size)."""
        if self.gen_inpaint_mask and (self.mask_prob >= 1 or rng.random() < self.mask_prob):
            whole = to_bytes(resize_square(image, self.in_size))
            return self.normalise(whitened(whole, brush_mask(self.in_size, rng)))
        if not self.use_corrupt:
            return self.normalise(to_bytes(resize_square(image, self.in_size)))
        damaged = degrade(image, ranges, rng, self.in_size)
        return self.normalise(to_bytes(change_colour(damaged, self.colour, rng)))

    def _inputs(self, image: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the low-quality items of one clean picture, float32 (gt_size,gt_size,3) in [0, 1]."""
        return {'in': self.damage(image, self.ranges, rng)}

    def _faces(self, image: np.ndarray, rng: np.random.Generator, v: int) -> dict[str, Tensor]:
        """Return the items of item `v` that show a face, of its picture, RGB uint8 (gt_size,gt_size,3)."""
        return {**self._inputs(to_unit(image), rng), 'gt': self.normalise(image)}

    def __getitem__(self, v: int) -> Item:
        """One face.

        Returns:
            'in' (3,in_size,in_size) and 'gt' (3,gt_size,gt_size), normalised; 'gt_path'; with a latent file 'latent_gt'
            (positions,) int64.

        Raises:
            DataError: the picture cannot be used (`on_error: raise`), or none can.
        """
        rng = np.random.default_rng([self.seed, v])
        flip = bool(self.use_hflip and rng.random() < 0.5)
        image, extra = self._load_good(v % len(self), flip)
        return {**self._faces(image, rng, v), **extra}


@DATASET_REGISTRY.register()
class FFHQBlindJointDataset(FFHQBlindDataset):
    """As `FFHQBlindDataset`, with 'in' damaged little and 'in_large_de' damaged much (stage III).

    Args:
        opt: as there; `blur_sigma`, `downsample_range`, `noise_range` and `jpeg_range` are the small damage (missing
            ones as SMALL), the same keys with `_large` the large one (missing ones as LARGE), for `gt_size` pixels.
    """

    OPTION_KEYS = FFHQBlindDataset.OPTION_KEYS | {
        f'{key}_large' for key in ('blur_sigma', 'downsample_range', 'noise_range', 'jpeg_range')
    }
    default_ranges = SMALL

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self.large_ranges = DegradationRanges.from_options(opt, LARGE.scaled(self.gt_size), suffix='_large')

    def _inputs(self, image: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        return {**super()._inputs(image, rng), 'in_large_de': self.damage(image, self.large_ranges, rng)}
