"""What the datasets share: the error, reading one picture, tables keyed by picture, and normalisation."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.utils.checkpoint import CheckpointError, read_checkpoint
from basicsr.utils.image import ImageReadError, imread, scan_images

LOADER_KEYS = frozenset(
    {
        'type', 'name', 'phase', 'seed', 'num_worker_per_gpu', 'batch_size_per_gpu', 'dataset_enlarge_ratio',
        'prefetch_mode', 'num_prefetch_queue', 'pin_memory',
    }
)  # fmt: skip
"""Keys that every dataset section may hold because the loader reads them."""

FILE_KEYS = frozenset({'dataroot_gt', 'filename_tmpl', 'io_backend', 'mean', 'std'})
"""Keys about files and value ranges that every dataset understands."""


class DataError(ValueError):
    """Something about the data is wrong; the message names the file or option key and the remedy."""


def option(opt: Mapping[str, Any], key: str) -> Any:
    """The value of a key that a dataset cannot do without.

    Raises:
        DataError: the key is missing or null.
    """
    if opt.get(key) is None:
        raise DataError(f"dataset '{opt.get('name', opt.get('type', '?'))}': the option '{key}' is missing; set it")
    return opt[key]


def check_backend(opt: Mapping[str, Any]) -> None:
    """Only pictures on disk can be read.

    Raises:
        DataError: `io_backend.type` is another.
    """
    kind = (opt.get('io_backend') or {}).get('type', 'disk')
    if kind != 'disk':
        raise DataError(f"io_backend.type: '{kind}' cannot be read; unpack the pictures to a folder and use 'disk'")


def list_pictures(root: Path, key: str) -> list[Path]:
    """Every picture below the folder that option `key` names.

    Raises:
        DataError: no such folder, or no picture in it.
    """
    try:
        paths = scan_images(root)
    except FileNotFoundError as error:
        raise DataError(f'{key}: {error}') from error
    if not paths:
        raise DataError(f'{key}: {root} holds no picture (jpg, png, webp, bmp, tiff)')
    return paths


def read_picture(path: Path, smallest: float = 1) -> np.ndarray:
    """A picture as RGB uint8 (H,W,3).

    Args:
        path: the file.
        smallest: a shorter side is an error, pixels.

    Raises:
        DataError: the file is missing, damaged or tiny; the message names it.
    """
    try:
        image = imread(path)
    except (ImageReadError, OSError) as error:
        raise DataError(str(error)) from error
    height, width = image.shape[:2]
    if min(height, width) < smallest:
        raise DataError(f'{path}: {width}x{height} pixels is too small to learn from; {smallest:g} a side is the least')
    return image


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """(H,W,3) to (size,size,3): by area when shrinking, bilinear when growing."""
    if image.shape[:2] == (size, size):
        return image
    shrinks = min(image.shape[:2]) >= size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


class Normalise:
    """float32 (H,W,3) in [0, 1], or uint8, to a float32 tensor (3,H,W): (x - mean) / std. All 0.5 gives [-1, 1].

    Args:
        opt: `mean` and `std`, three values each; 0.5 when missing.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.mean, self.std = (np.asarray(opt.get(key) or (0.5, 0.5, 0.5), np.float32) for key in ('mean', 'std'))
        if self.mean.shape != (3,) or self.std.shape != (3,) or (self.std <= 0).any():
            raise DataError(
                f'mean and std need three values each, std above 0; got {opt.get("mean")}, {opt.get("std")}'
            )

    def __call__(self, image: np.ndarray) -> Tensor:
        """One picture as a tensor (3,H,W)."""
        unit = image / np.float32(255) if image.dtype == np.uint8 else image
        return torch.from_numpy(np.ascontiguousarray(((unit - self.mean) / self.std).transpose(2, 0, 1)))


def relative_key(path: Path, root: Path) -> str:
    """The path below `root` without its extension, with forward slashes: the name of a picture in tables and pairs."""
    return path.relative_to(root).with_suffix('').as_posix()


def table_keys(paths: Sequence[Path], root: Path) -> list[list[str]]:
    """For each picture the keys that mean it and no other: its relative path, then its stem."""
    relative = [relative_key(path, root) for path in paths]
    stems = [path.stem for path in paths]
    known, known_stems = Counter(relative), Counter(stems)
    return [
        [key for key, count in ((r, known[r]), (s, known_stems[s])) if count == 1]
        for r, s in zip(relative, stems, strict=True)
    ]


def load_table(path: str | Path) -> dict[str, Any]:
    """A dict of tensors, arrays or lists from a `.pth`, read without running code from it.

    Raises:
        DataError: no such file, or not such a table.
    """
    rebuild = np.empty(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ('i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f4', 'f8')]
    allowed = [np.ndarray, np.dtype, *dtypes, codecs.encode]
    allowed += [(rebuild, 'numpy._core.multiarray._reconstruct'), (rebuild, 'numpy.core.multiarray._reconstruct')]
    try:
        with torch.serialization.safe_globals(allowed):
            return read_checkpoint(path)
    except CheckpointError as error:
        raise DataError(str(error)) from error
