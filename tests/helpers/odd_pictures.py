"""Picture files of every kind, and files that only look like pictures, for the tests of what becomes of them."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms
from small_faces import blurred_portrait

CYAN_AS_LAB = (54.29, 80.81, 69.89)  # what `cmyk_profile` makes of pure cyan: the red of sRGB
ZIP_HEAD = b'PK\x03\x04' + bytes(60)


def scene(width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """Soft colours without a face, RGB uint8 (H,W,3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def deep(image: np.ndarray) -> np.ndarray:
    """Return an 8-bit picture in 16 bits, with differences that eight bits cannot hold."""
    fine = np.random.default_rng(1).integers(-120, 121, image.shape)
    return (image.astype(int) * 257 + fine).clip(0, 65535).astype(np.uint16)


def soft_alpha(width: int = 64, height: int = 48) -> np.ndarray:
    """From clear on the left to opaque on the right, (H,W) uint8."""
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


@cache  # it carries the time at which it was made
def rgb_profile() -> bytes:
    """Return an ICC profile of three channels."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def grey_profile() -> bytes:
    """Return the same as far as anybody looks who does not open it: the header of a profile for grey."""
    profile = rgb_profile()
    return profile[:16] + b'GRAY' + profile[20:]


def cmyk_profile() -> bytes:
    """Return a profile as no printer has: cyan is red, black darkens evenly; two steps an ink (ICC.1, mft1)."""
    grid = bytearray()
    for index in range(16):
        cyan, magenta, yellow, black = (index >> shift & 1 for shift in (3, 2, 1, 0))
        alone = cyan and not (magenta or yellow or black)
        light = 100 * (1 - black) * (1 - (cyan + magenta + yellow) / 3)
        lab = CYAN_AS_LAB if alone else (light, 0, 0)
        grid += bytes([round(lab[0] * 2.55), round(lab[1] + 128), round(lab[2] + 128)])
    same, one = bytes(range(256)), 65536
    table = b'mft1\0\0\0\0' + bytes([4, 3, 2, 0]) + struct.pack('>9i', one, 0, 0, 0, one, 0, 0, 0, one)
    table += same * 4 + bytes(grid) + same * 3
    kind = struct.pack('>I4sI4s4s4s12s4s', 0, bytes(4), 0x02400000, b'prtr', b'CMYK', b'Lab ', bytes(12), b'acsp')
    white = struct.pack('>3i', 63190, 65536, 54061)
    body = kind + bytes(28) + white + bytes(48) + struct.pack('>I4sII', 1, b'A2B0', 144, len(table)) + table
    return struct.pack('>I', len(body)) + body[4:]


def save(image: Image.Image | np.ndarray, **options) -> Callable[[Path], None]:
    """Return a builder that has Pillow write a picture."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    return lambda path: image.save(path, **options)


def save_deep(image: np.ndarray, **chunks: bytes) -> Callable[[Path], None]:
    """Return a builder that has OpenCV write RGB, RGBA or grey uint16; `chunks` go into a PNG after its header."""
    order = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[image.ndim if image.ndim == 2 else image.shape[2]]

    def build(path: Path) -> None:
        data = cv2.imencode(path.suffix, image if order is None else cv2.cvtColor(image, order))[1].tobytes()
        extra = b''.join(png_chunk(name.encode(), content) for name, content in chunks.items())
        path.write_bytes(data[:33] + extra + data[33:])

    return build


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header promises a picture of that size."""
    header = png_chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + png_chunk(b'IDAT', zlib.compress(bytes(1000))) + png_chunk(b'IEND', b'')


def cut(kind: str, image: np.ndarray | None = None, part: float = 0.6) -> Callable[[Path], None]:
    """Return a builder of a picture file of which only the first part is there."""

    def build(path: Path) -> None:
        if image is not None:
            data = cv2.imencode(path.suffix, image)[1].tobytes()
        else:
            buffer = BytesIO()
            Image.fromarray(scene(200, 150)).save(buffer, kind)
            data = buffer.getvalue()
        path.write_bytes(data[: int(len(data) * part)])

    return build


def turned_exif() -> Image.Exif:
    """EXIF that says: turn it a quarter clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def content(data: bytes) -> Callable[[Path], None]:
    """Return a builder of a file with these bytes."""
    return lambda path: path.write_bytes(data)


def link(target: str) -> Callable[[Path], None]:
    """Return a builder of a symbolic link."""
    return lambda path: path.symlink_to(target)


def folder_with_a_picture(path: Path) -> None:
    """A folder under a picture's name."""
    path.mkdir()
    save(scene())(path / 'inner.png')


def palette(clear: bool) -> Image.Image:
    """Eight colours; the first of them is clear if asked for."""
    image = Image.fromarray(scene()).quantize(8)
    if clear:
        image.info['transparency'] = 0
    return image


def hostile_name(name: bytes) -> str:
    """Return a name whose bytes are no UTF-8, as Python sees it."""
    return os.fsdecode(name)


def portrait_16() -> np.ndarray:
    """Return the blurred portrait in 16 bits."""
    return deep(blurred_portrait())
