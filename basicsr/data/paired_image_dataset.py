"""Pictures in two folders, low quality and ground truth, paired by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from basicsr.data.common import (
    FILE_KEYS,
    LOADER_KEYS,
    DataError,
    Normalise,
    option,
    relative_key,
)
from basicsr.data.storage import Files, open_files, read_file
from basicsr.utils.registry import DATASET_REGISTRY

logger = logging.getLogger('basicsr')


@DATASET_REGISTRY.register()
class PairedImageDataset(Dataset):
    """Low-quality pictures and their ground truth, as they are (validation).

    Args:
        opt: `dataroot_lq`, `dataroot_gt`, `io_backend` (see `open_files`), `mean`, `std`, `scale` (default 1: ground
            truth over low-quality side), `filename_tmpl` (default '{}': name of the low-quality file from that of the
            ground truth).

    Raises:
        DataError: wrong options, no pictures, or files without a partner; the message names them.
    """

    OPTION_KEYS = LOADER_KEYS | FILE_KEYS | {'dataroot_lq', 'scale'}

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.normalise = Normalise(opt)
        self.scale = int(opt.get('scale') or 1)
        template = opt.get('filename_tmpl') or '{}'
        if '{}' not in template:
            raise DataError(f"filename_tmpl: '{template}' lacks the braces that stand for the name, as in '{{}}x4'")
        roots = [Path(option(opt, key)) for key in ('dataroot_lq', 'dataroot_gt')]
        self.files = [open_files(opt, key) for key in ('dataroot_lq', 'dataroot_gt')]
        low, truth = (_by_name(files, root) for files, root in zip(self.files, roots, strict=True))
        wanted = {str(Path(name).with_name(template.format(Path(name).name))): index for name, index in truth.items()}
        alone = [self.files[0].paths[index] for name, index in low.items() if name not in wanted]
        alone += [self.files[1].paths[index] for name, index in wanted.items() if name not in low]
        if alone:
            named = ', '.join(map(str, alone[:8])) + (', ...' if len(alone) > 8 else '')
            raise DataError(f'{len(alone)} files have no partner in the other folder: {named}')
        self.places = [(low[name], index) for name, index in wanted.items()]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def pairs(self) -> list[tuple[Path, Path]]:
        """The paths of every pair, low quality and ground truth."""
        return [(self.files[0].paths[low], self.files[1].paths[truth]) for low, truth in self.places]

    def __getitem__(self, v: int) -> dict[str, Any]:
        """Pair `v % len`: 'lq' (3,h,w) and 'gt' (3,scale*h,scale*w), normalised; 'lq_path', 'gt_path'.

        Raises:
            DataError: an unreadable picture, or sizes that do not fit `scale`.
        """
        sides = list(zip(self.files, self.places[v % len(self)], strict=True))
        lq_path, gt_path = (files.paths[index] for files, index in sides)
        lq, gt = (read_file(files, index) for files, index in sides)
        if gt.shape[:2] != (lq.shape[0] * self.scale, lq.shape[1] * self.scale):
            raise DataError(
                f'{lq_path} is {lq.shape[1]}x{lq.shape[0]} pixels and {gt_path} {gt.shape[1]}x{gt.shape[0]}, which is '
                f'not {self.scale} times that; resize one, or set scale'
            )
        return {
            'lq': self.normalise(lq),
            'gt': self.normalise(gt),
            'lq_path': str(lq_path),
            'gt_path': str(gt_path),
        }


def check_pairs(name: str, dataset: PairedImageDataset, side: int) -> None:
    """Read a validation set once, before a training relies on it.

    Args:
        name: of the set, a section of the options' `datasets`.
        dataset: its pairs.
        side: of the network's pictures, pixels.

    Raises:
        DataError: a picture that cannot be read, or is of another size than the network's.
    """
    for v in range(len(dataset)):
        pair = dataset[v]
        for key in ('lq', 'gt'):
            height, width = pair[key].shape[-2:]
            if (height, width) != (side, side):
                raise DataError(
                    f'datasets:{name}: {pair[f"{key}_path"]} is {width}x{height} pixels, and network_g restores '
                    f'{side}x{side}; make pairs of that size (python scripts/make_val_pairs.py --size {side})'
                )
    logger.info('validation %s: all of its %d pairs can be read', name, len(dataset))


def _by_name(files: Files, root: Path) -> dict[str, int]:
    """Relative path without extension to the number of the file."""
    found: dict[str, int] = {}
    for index, path in enumerate(files.paths):
        name = relative_key(path, root)
        if name in found:
            raise DataError(f'{files.paths[found[name]]} and {path} have the same name; keep one of them')
        found[name] = index
    return found
