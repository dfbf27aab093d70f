"""Reading and writing pictures, and their conversion to tensors. Pictures are RGB uint8 (H,W,3) arrays everywhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.files import replacing

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset({'.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.avif'})


class ImageReadError(IDCodeFormerError, ValueError):
    """A file that is no readable picture; the message names it and says why."""


def is_image_file(path: str | os.PathLike) -> bool:
    """Return True if the extension is that of a picture."""
    return Path(path).suffix.lower() in IMAGE_EXTENSIONS


def scan_images(folder: str | os.PathLike) -> list[Path]:
    """List every picture below `folder`, linked folders included, in sorted order.

    Hidden files and folders are passed over. A folder to which several links lead is read once, which is logged.

    Raises:
        FileNotFoundError: `folder` is no folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f'{root}: no such folder')
    found: list[Path] = []
    visited: set[str] = set()
    starts = [str(root)]  # links wait until all real folders have been read
    for start in starts:
        for place, folders, files in os.walk(start):
            target = os.path.realpath(place)
            if target in visited:
                logger.warning('%s leads to %s, which is read already; left out', place, target)
                folders.clear()
                continue
            visited.add(target)
            folders[:] = sorted(name for name in folders if not name.startswith('.'))
            starts += [path for name in folders if os.path.islink(path := os.path.join(place, name))]  # noqa: PTH114, PTH118
            found += [Path(place, name) for name in files if not name.startswith('.')]
    return sorted(path for path in found if is_image_file(path) and path.is_file())


def imread(path: str | os.PathLike) -> np.ndarray:
    """Return a picture as RGB uint8 (H,W,3), turned as EXIF says where OpenCV heeds it (JPEG, PNG, TIFF).

    Raises:
        FileNotFoundError: no such file.
        ImageReadError: empty, truncated, or no picture.
    """
    return decode(Path(path).read_bytes(), path)


def decode(raw: bytes | memoryview, source: str | os.PathLike) -> np.ndarray:
    """Return the content of a picture file, as `imread` gives it.

    Raises:
        ImageReadError: empty, truncated, or no picture; the message names `source`.
    """
    if not raw:
        raise ImageReadError(f'{source}: the file is empty')
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ImageReadError(f'{source}: not a readable picture (damaged, or not a picture at all)')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def imwrite(path: str | os.PathLike, image: np.ndarray, quality: int = 95) -> None:
    """Write RGB uint8 (H,W,3) in the format of the extension, complete or not at all (temporary name, then rename).

    Args:
        path: folders are made where missing.
        image: RGB uint8 (H,W,3).
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        ValueError: the extension is not one that can be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in IMAGE_EXTENSIONS or not cv2.haveImageWriter(f'x{suffix}'):
        raise ValueError(f'{path}: cannot write a picture as "{suffix}"; use one of {sorted(IMAGE_EXTENSIONS)}')
    flags = {
        '.jpg': [cv2.IMWRITE_JPEG_QUALITY, quality],
        '.jpeg': [cv2.IMWRITE_JPEG_QUALITY, quality],
        '.webp': [cv2.IMWRITE_WEBP_QUALITY, quality],
    }.get(suffix, [])
    done, data = cv2.imencode(suffix, cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR), flags)
    if not done:
        raise ValueError(f'{path}: the picture of shape {image.shape} could not be encoded')
    with replacing(path) as partial:
        partial.write_bytes(data.tobytes())


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return a picture of any depth and channels in another size: by area where that makes it smaller, else bicubic."""
    shrinks = width * height < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def whitened(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return RGB uint8 (H,W,3) that is pure white where `mask` (H,W) is true."""
    return np.where(mask[..., None], np.uint8(255), image)


def resized_tensor(image: Tensor, side: int) -> Tensor:
    """Resize square pictures (N,C,S,S): smaller by area or with anti-aliasing, larger bicubic.

    This can be traced and exported, unlike `resized`.
    """
    given = image.shape[-1]
    if given == side:
        return image
    if given % side == 0:
        return F.avg_pool2d(image, given // side)
    mode = 'bicubic' if side > given else 'bilinear'
    return F.interpolate(image, (side, side), mode=mode, align_corners=False, antialias=side < given)


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """uint8 as it is; uint16 divided by 257 and rounded, to uint8."""
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=1 / 257)


def to_tensor(image: np.ndarray) -> Tensor:
    """RGB uint8 (H,W,3), or float32 in [0, 1], to a float32 tensor (3,H,W) in [-1, 1]."""
    scale = 127.5 if image.dtype == np.uint8 else 0.5
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / scale - 1


def to_image(tensor: Tensor) -> np.ndarray:
    """Turn a tensor (3,H,W) in [-1, 1] into RGB uint8 (H,W,3), clipped and rounded."""
    scaled = (tensor.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


TILE, MARGIN, TITLE = 192, 6, 26
"""Pixels of a contact sheet: a picture's side, the margin around it, the row of titles."""


def enlarged(image: np.ndarray) -> np.ndarray:
    """Return a tile of the sheet, with a white margin."""
    tile = cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    return cv2.copyMakeBorder(tile, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> np.ndarray:
    """Rows of pictures (RGB uint8, of any size) under a row of titles, RGB uint8."""
    body = np.vstack([np.hstack([enlarged(image) for image in row]) for row in rows])
    head = np.full((TITLE, body.shape[1], 3), 255, np.uint8)
    for column, title in enumerate(titles):
        place = (column * (TILE + 2 * MARGIN) + MARGIN, TITLE - 8)
        cv2.putText(head, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([head, body])
