"""Writing whole pictures as PNG, JPEG or WebP, with the metadata that the format holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from basicsr.utils.files import replacing
from basicsr.utils.image import to_8_bits
from basicsr.utils.picture import Picture, write_png

EXTENSIONS = ('png', 'jpg', 'webp')
DEFAULT_QUALITY = 95
NAMES = {'.jpg': 'JPEG', '.webp': 'WebP'}
LONGEST_SIDE = {'.jpg': 65500, '.webp': 16383}
LONGEST_SEGMENT = 65000  # bytes of EXIF, XMP or IPTC that a JPEG holds, its own heads aside
WHITE = 255


def write_picture(path: str | os.PathLike, picture: Picture, quality: int = DEFAULT_QUALITY) -> None:
    """Write a picture in the format of its extension, complete or not at all.

    JPEG and WebP have 8 bits. A JPEG is on white where the picture is transparent. See `left_behind`.

    Args:
        path: `.png`, `.jpg` or `.webp`; folders are made where missing.
        picture: with the metadata to write.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        ValueError: another extension, or sides that the format does not hold.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == '.png':
        write_png(path, picture)
        return
    if suffix not in NAMES:
        raise ValueError(f'{path}: cannot write "{suffix}"; use one of {", ".join(EXTENSIONS)}')
    height, width = picture.image.shape[:2]
    if max(height, width) > LONGEST_SIDE[suffix]:
        limit = f'{NAMES[suffix]} holds {LONGEST_SIDE[suffix]} a side; use --ext png'
        raise ValueError(f'{path.name}: {width}x{height} pixels, and {limit}')
    image = _for_jpeg(picture) if suffix == '.jpg' else _for_webp(picture)
    with replacing(path) as partial:
        image.save(partial, NAMES[suffix], quality=quality, **_options(picture, suffix))


def left_behind(picture: Picture, extension: str) -> str:
    """Say what of a picture a format does not hold; empty if it holds all."""
    suffix = f'.{extension.lstrip(".").lower()}'
    if suffix not in NAMES:
        return ''
    metadata = picture.metadata
    texts = [keyword for keyword, _ in metadata.texts if suffix == '.webp' or keyword != 'Comment']
    long = {'EXIF': metadata.exif, 'XMP': metadata.xmp, 'IPTC': metadata.iptc} if suffix == '.jpg' else {}
    lost = {
        '16 bits': picture.image.dtype == np.uint16,
        'transparency': picture.alpha is not None and suffix == '.jpg',
        'gamma': any(name in picture.colour for name in (b'gAMA', b'cICP')) and b'sRGB' not in picture.colour,
        'its grey profile': suffix == '.webp' and picture.grey and picture.icc is not None,
        'IPTC': bool(metadata.iptc) and suffix == '.webp',
        'texts': bool(texts),
        **{f'{name} of that length': len(content) > LONGEST_SEGMENT for name, content in long.items()},
    }
    names = [name for name, is_lost in lost.items() if is_lost]
    return f'{NAMES[suffix]} does not hold {", ".join(names)}; use --ext png to keep it' if names else ''


def _for_jpeg(picture: Picture) -> Image.Image:
    """Return the pixels in 8 bits, on white, grey where the picture is."""
    image = to_8_bits(picture.image)
    if picture.alpha is not None:
        alpha = to_8_bits(picture.alpha)[..., None] / np.float32(255)
        image = np.rint(image * alpha + WHITE * (1 - alpha)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(image[..., 0] if picture.grey else image))


def _for_webp(picture: Picture) -> Image.Image:
    """Return the pixels in 8 bits, with their transparency."""
    image = to_8_bits(picture.image)
    return Image.fromarray(image if picture.alpha is None else np.dstack([image, to_8_bits(picture.alpha)]))


def _options(picture: Picture, suffix: str) -> dict[str, Any]:
    """Return the metadata that Pillow writes beside the pixels."""
    metadata, jpeg = picture.metadata, suffix == '.jpg'
    most = LONGEST_SEGMENT if jpeg else None
    options: dict[str, Any] = {'subsampling': 0} if jpeg else {'exact': True}
    if picture.icc and picture.icc[16:20] == (b'GRAY' if picture.grey and jpeg else b'RGB '):
        options['icc_profile'] = picture.icc
    if metadata.exif and len(metadata.exif) <= (most or len(metadata.exif)):
        options['exif'] = b'Exif\0\0' + metadata.exif
    if metadata.xmp and len(metadata.xmp) <= (most or len(metadata.xmp)):
        options['xmp'] = metadata.xmp
    if not jpeg:
        return options
    if metadata.dpi is not None:
        options['dpi'] = tuple(round(value) for value in metadata.dpi)
    comments = [text for keyword, text in metadata.texts if keyword == 'Comment']
    if comments:
        options['comment'] = comments[0].encode()[:LONGEST_SEGMENT]
    if metadata.iptc and len(metadata.iptc) <= LONGEST_SEGMENT:
        segment = b'Photoshop 3.0\0' + metadata.photoshop()
        options['extra'] = b'\xff\xed' + (len(segment) + 2).to_bytes(2, 'big') + segment
    return options
