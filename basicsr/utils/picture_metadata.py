"""Metadata of picture files (EXIF, XMP, IPTC, texts, resolution, colour space), read with Pillow and written to PNG."""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import cv2
from PIL import Image, ImageFile
from PIL.ExifTags import IFD, Base

# What Pillow and OpenCV raise for damaged files, as found by mutating some. Others are faults of a program, and shown.
DECODER_ERRORS = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    AssertionError, struct.error, zlib.error, cv2.error, Image.DecompressionBombError,
)  # fmt: skip
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
# How the values of a PNG stand for colours (PNG specification, third edition, 11.3.2), the profile aside.
COLOUR_CHUNKS = frozenset({b'cHRM', b'gAMA', b'sRGB', b'cICP', b'mDCV', b'cLLI'})
IPTC_RESOURCE = 0x0404  # of Photoshop's image resources
XMP_KEYWORD = 'XML:com.adobe.xmp'
XMP_POSITION = re.compile(
    rb'\s*exif:GPS\w+\s*=\s*(?:"[^"]*"|\'[^\']*\')|<(exif:GPS\w+)\b[^>]*?(?:/>|>.*?</\1\s*>)', re.DOTALL
)
SIZE_TAGS = (Base.ExifImageWidth, Base.ExifImageHeight)
INCH = 0.0254  # metres
# Of a TIFF the tags that describe the picture; the others describe the file.
TIFF_KEPT = frozenset(
    {Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.Copyright}
    | {Base.Rating, Base.RatingPercent, Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject}
    | {IFD.Exif, IFD.GPSInfo}
)


@dataclass(frozen=True)
class Metadata:
    """Metadata of a picture file.

    Attributes:
        exif: as a TIFF structure, orientation 1, without thumbnail and size; or empty.
        xmp: an XMP packet, orientation 1; or empty.
        iptc: IPTC-IIM records; or empty.
        texts: keywords and their texts.
        dpi: pixels an inch across and down, or None.
    """

    exif: bytes = b''
    xmp: bytes = b''
    iptc: bytes = b''
    texts: tuple[tuple[str, str], ...] = ()
    dpi: tuple[float, float] | None = None

    def chunks(self) -> bytes:
        """As chunks of a PNG, to be written before the pixels."""
        parts = []
        if self.dpi is not None:
            parts.append(png_chunk(b'pHYs', struct.pack('>IIB', *(round(value / INCH) for value in self.dpi), 1)))
        if self.exif:
            parts.append(png_chunk(b'eXIf', self.exif))
        if self.xmp:
            parts.append(_text_chunk(XMP_KEYWORD, self.xmp.decode('utf-8', 'replace')))
        if self.iptc:
            parts.append(_text_chunk('Raw profile type iptc', _raw_profile('iptc', self.photoshop())))
        return b''.join([*parts, *(_text_chunk(keyword, text) for keyword, text in self.texts)])

    def photoshop(self) -> bytes:
        """Return the IPTC records as a Photoshop image resource."""
        padded = self.iptc + bytes(len(self.iptc) % 2)
        return b'8BIM' + struct.pack('>HHI', IPTC_RESOURCE, 0, len(self.iptc)) + padded

    def without_position(self) -> Metadata:
        """Return the same without GPS data in EXIF and XMP."""
        exif, loaded = self.exif, Image.Exif()
        if exif:
            loaded.load(b'Exif\0\0' + exif)
        if IFD.GPSInfo in loaded:
            del loaded[IFD.GPSInfo]
            exif = loaded.tobytes().removeprefix(b'Exif\0\0')
        return replace(self, exif=exif, xmp=XMP_POSITION.sub(b'', self.xmp))


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    body = name + content
    return struct.pack('>I', len(content)) + body + struct.pack('>I', zlib.crc32(body))


def read_metadata(file: Image.Image) -> tuple[Metadata, list[str]]:
    """Return the metadata of a file that has been read, and notes on what is damaged and left out."""
    readers = {'exif': _exif, 'xmp': _xmp, 'iptc': _iptc, 'texts': _texts, 'dpi': _dpi}
    found: dict[str, Any] = {}
    damaged = []
    for name, read in readers.items():
        try:
            found[name] = read(file)
        except DECODER_ERRORS:
            damaged.append(name.upper() if name in ('exif', 'xmp', 'iptc') else name)
    return Metadata(**found), [f'its {", ".join(damaged)}, which is damaged, was left out'] if damaged else []


def read_colour_chunks(path: Path) -> bytes:
    """Return the chunks of a PNG file that say what its values mean, its colour profile aside."""
    kept = []
    with path.open('rb') as file:
        if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            return b''
        while len(head := file.read(8)) == 8 and head[4:] != b'IDAT':
            length = int.from_bytes(head[:4], 'big')
            if head[4:] not in COLOUR_CHUNKS or length > 64:
                file.seek(length + 4, 1)
                continue
            kept.append(head + file.read(length + 4))
    return b''.join(kept)


def _exif(file: Image.Image) -> bytes:
    exif = file.getexif()
    parts = {part: dict(exif.get_ifd(part)) for part in (IFD.Exif, IFD.GPSInfo) if part in exif}
    kept = Image.Exif()
    kept.update({tag: value for tag, value in exif.items() if file.format != 'TIFF' or tag in TIFF_KEPT})
    for part, values in parts.items():
        kept[part] = {tag: value for tag, value in values.items() if part != IFD.Exif or tag not in SIZE_TAGS}
    if Base.Orientation in kept:
        kept[Base.Orientation] = 1
    return kept.tobytes().removeprefix(b'Exif\0\0') if len(kept) else b''


def _xmp(file: Image.Image) -> bytes:
    packet = file.info.get('xmp') or file.info.get(XMP_KEYWORD) or b''
    packet = packet.encode('utf-8') if isinstance(packet, str) else bytes(packet)
    return re.sub(rb'(tiff:Orientation(?:\s*=\s*["\']|>)\s*)[2-8]', rb'\g<1>1', packet)


def _iptc(file: Image.Image) -> bytes:
    if file.format == 'TIFF':
        from PIL.IptcImagePlugin import getiptcinfo

        return (
            _records(getiptcinfo(cast(ImageFile.ImageFile, file)) or {})
            if 33723 in getattr(file, 'tag_v2', {})
            else b''
        )
    resources = file.info.get('photoshop')
    return bytes(resources.get(IPTC_RESOURCE, b'')) if isinstance(resources, dict) else b''


def _records(values: dict[tuple[int, int], Any]) -> bytes:
    """IPTC-IIM records from their numbers and contents."""
    parts = []
    for (record, number), content in values.items():
        for each in content if isinstance(content, list) else [content]:
            parts.append(struct.pack('>BBBH', 0x1C, record, number, len(each)) + bytes(each))
    return b''.join(parts)


def _texts(file: Image.Image) -> tuple[tuple[str, str], ...]:
    """Of a PNG all texts but packets that are read elsewhere; of others the comment."""
    texts = getattr(file, 'text', None)
    if isinstance(texts, dict):
        elsewhere = ('Raw profile type exif', 'Raw profile type APP1', 'Raw profile type xmp', XMP_KEYWORD)
        return tuple((str(key), str(text)) for key, text in texts.items() if key not in elsewhere)
    comment = file.info.get('comment', b'')
    text = comment.decode('utf-8', 'replace') if isinstance(comment, bytes) else str(comment)
    return (('Comment', text.replace('\0', '')),) if text.strip('\0 ') else ()


def _dpi(file: Image.Image) -> tuple[float, float] | None:
    dpi = file.info.get('dpi')
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    across, down = (float(value) for value in dpi)
    usable = all(math.isfinite(value) and 0 < value < 1e6 for value in (across, down))
    return (across, down) if usable else None


def _text_chunk(keyword: str, text: str) -> bytes:
    """Return a text as tEXt where it is Latin-1, else as iTXt; nothing where the keyword is none."""
    try:
        name = keyword.encode('latin-1')
        if not 0 < len(name) < 80 or b'\0' in name:
            return b''
        if keyword != XMP_KEYWORD and '\0' not in text:
            return png_chunk(b'tEXt', name + b'\0' + text.encode('latin-1'))
    except UnicodeEncodeError:
        pass
    if not keyword.isascii():
        return b''
    return png_chunk(b'iTXt', keyword.encode() + bytes(5) + text.encode('utf-8', 'replace'))


def _raw_profile(kind: str, content: bytes) -> str:
    """Bytes as the text that ImageMagick and ExifTool read as a profile."""
    digits = content.hex()
    lines = [digits[start : start + 72] for start in range(0, len(digits), 72)]
    return '\n'.join(['', kind, f'{len(content):8d}', *lines, ''])
