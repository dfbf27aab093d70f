"""Pictures in two folders, low quality and ground truth, paired by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from basicsr.data.common import (
    FILE_KEYS,
    LOADER_KEYS,
    DataError,
    Normalise,
    check_backend,
    list_pictures,
    option,
    read_picture,
    relative_key,
)
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class PairedImageDataset(Dataset):
    """Low-quality pictures and their ground truth, as they are (validation).

    Args:
        opt: `dataroot_lq`, `dataroot_gt`, `mean`, `std`, `scale` (default 1: ground truth over low-quality side),
            `filename_tmpl` (default '{}': name of the low-quality file from that of the ground truth).

    Raises:
        DataError: wrong options, no pictures, or files without a partner; the message names them.
    """

    OPTION_KEYS = LOADER_KEYS | FILE_KEYS | {'dataroot_lq', 'scale'}

    def __init__(self, opt: Mapping[str, Any]) -> None:
        check_backend(opt)
        self.normalise = Normalise(opt)
        self.scale = int(opt.get('scale') or 1)
        template = opt.get('filename_tmpl') or '{}'
        if '{}' not in template:
            raise DataError(f"filename_tmpl: '{template}' lacks the braces that stand for the name, as in '{{}}x4'")
        low, truth = (self._by_name(Path(option(opt, key)), key) for key in ('dataroot_lq', 'dataroot_gt'))
        wanted = {str(Path(name).with_name(template.format(Path(name).name))): path for name, path in truth.items()}
        alone = [*(path for name, path in low.items() if name not in wanted)]
        alone += [path for name, path in wanted.items() if name not in low]
        if alone:
            named = ', '.join(map(str, alone[:8])) + (', ...' if len(alone) > 8 else '')
            raise DataError(f'{len(alone)} files have no partner in the other folder: {named}')
        self.pairs = [(low[name], path) for name, path in wanted.items()]

    @staticmethod
    def _by_name(root: Path, key: str) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in list_pictures(root, key):
            name = relative_key(path, root)
            if name in found:
                raise DataError(f'{key}: {found[name]} and {path} have the same name; keep one of them')
            found[name] = path
        return found

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, v: int) -> dict[str, Any]:
        """Pair `v % len`: 'lq' (3,h,w) and 'gt' (3,scale*h,scale*w), normalised; 'lq_path', 'gt_path'.

        Raises:
            DataError: an unreadable picture, or sizes that do not fit `scale`.
        """
        lq_path, gt_path = self.pairs[v % len(self)]
        lq, gt = read_picture(lq_path), read_picture(gt_path)
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
