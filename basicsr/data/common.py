"""Shared parts of the datasets: the error, reading one picture, tables keyed by picture, and normalisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.utils.checkpoint import CheckpointError, read_table
from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.image import ImageReadError, decode, scan_images

LOADER_KEYS = frozenset(
    {
        'type', 'name', 'phase', 'seed', 'num_worker_per_gpu', 'batch_size_per_gpu', 'dataset_enlarge_ratio',
        'prefetch_mode', 'num_prefetch_queue', 'pin_memory',
    }
)  # fmt: skip
"""Keys that every dataset section may hold because the loader reads them."""

FILE_KEYS = frozenset({'dataroot_gt', 'filename_tmpl', 'io_backend', 'mean', 'std'})
"""Keys about files and value ranges that every dataset understands."""


class DataError(IDCodeFormerError, ValueError):
    """Something about the data is wrong; the message names the file or option key and the remedy."""


def option(opt: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key that a dataset cannot do without.

    Raises:
        DataError: the key is missing or null.
    """
    if opt.get(key) is None:
        raise DataError(f"dataset '{opt.get('name', opt.get('type', '?'))}': the option '{key}' is missing; set it")
    return opt[key]


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
    """Return a picture file as RGB uint8 (H,W,3).

    Args:
        path: the file.
        smallest: a shorter side is an error, pixels.

    Raises:
        DataError: the file is missing, damaged or tiny; the message names it.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(str(error)) from error
    return decode_picture(raw, path, smallest)


def decode_picture(raw: bytes | memoryview, path: Path, smallest: float = 1) -> np.ndarray:
    """Return the content of the picture file `path` as RGB uint8 (H,W,3).

    Raises:
        DataError: it is damaged or tiny; the message names it.
    """
    try:
        image = decode(raw, path)
    except ImageReadError as error:
        raise DataError(str(error)) from error
    height, width = image.shape[:2]
    if min(height, width) < smallest:
        raise DataError(f'{path}: {width}x{height} pixels is too small to learn from; {smallest:g} a side is the least')
    return image


def resize_square(image: np.ndarray, size: int, source: str | Path = 'the picture') -> np.ndarray:
    """Resize a square picture: by area when shrinking, bilinear when growing.

    Args:
        image: (H,W,3); the sides may differ by one pixel, as rounding leaves them.
        size: side of the result, pixels.
        source: the file, for the message.

    Returns:
        (size,size,3), of the same type.

    Raises:
        DataError: the picture is not square, so that it would be squashed.
    """
    height, width = image.shape[:2]
    if abs(height - width) > 1:
        raise DataError(
            f'{source}: {width}x{height} pixels, and an aligned face is square. Align photographs first (python '
            'scripts/crop_align_face.py), or leave the file out'
        )
    if image.shape[:2] == (size, size):
        return image
    shrinks = min(height, width) >= size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


class Normalise:
    """RGB uint8 (H,W,3) to a float32 tensor (3,H,W): (x / 255 - mean) / std. All 0.5 gives [-1, 1].

    Args:
        opt: `mean` and `std`, three values each; 0.5 when missing.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        mean, std = (np.asarray(opt.get(key) or (0.5, 0.5, 0.5), np.float32) for key in ('mean', 'std'))
        if mean.shape != (3,) or std.shape != (3,) or (std <= 0).any():
            raise DataError(
                f'mean and std need three values each, std above 0; got {opt.get("mean")}, {opt.get("std")}'
            )
        levels = np.arange(256, dtype=np.float32)[:, None] / 255
        self.tables = np.ascontiguousarray(((levels - mean) / std).T)  # (3,256)

    def __call__(self, image: np.ndarray) -> Tensor:
        """One picture as a tensor (3,H,W)."""
        result = np.empty((3, *image.shape[:2]), np.float32)
        for number, channel in enumerate(cv2.split(image)):
            cv2.LUT(channel, self.tables[number : number + 1], result[number, :, :])
        return torch.from_numpy(result)


def relative_key(path: Path, root: Path) -> str:
    """Return the path below `root` without its extension, with forward slashes: a picture's name in tables."""
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
    """Return a dict of tensors, arrays or lists from a `.pth`, read without running code from it.

    Raises:
        DataError: no such file, or not such a table.
    """
    try:
        return read_table(path)
    except CheckpointError as error:
        raise DataError(str(error)) from error
