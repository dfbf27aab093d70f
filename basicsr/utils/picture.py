"""Whole picture files: 8 or 16 bits, alpha, colours, orientation, metadata; read within a limit, written as PNG.

`basicsr.utils.image.imread` is the fast way to RGB uint8 for data sets. `read_picture` is for users' pictures: it keeps
what their files hold, and says what is wrong with those that it cannot read. Pillow reads them; OpenCV decodes 16 bits
a channel, of which Pillow keeps eight, and writes PNG.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import EXTRASAMPLES, ImageFileDirectory_v2, TiffImageFile

from basicsr.utils.files import check_file, replacing
from basicsr.utils.image import IMAGE_EXTENSIONS, ImageReadError, resized
from basicsr.utils.picture_metadata import DECODER_ERRORS, Metadata, png_chunk, read_colour_chunks, read_metadata

MOVING_FORMATS = frozenset({'GIF', 'WEBP', 'PNG', 'AVIF'})
MOVING_EXTENSIONS = frozenset({'.gif', '.webp', '.png', '.apng', '.avif', '.avifs'})
# Names of pictures, those included that are tried only to say why they cannot be read.
PICTURE_EXTENSIONS = IMAGE_EXTENSIONS | MOVING_EXTENSIONS | {'.heic', '.heif', '.hif', '.jfif', '.jp2', '.jxl'}
# What Pillow may open, whatever a file is called: of others some run programs (EPS), and all are doors.
FORMATS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'BMP', 'TIFF', 'AVIF', 'GIF', 'JPEG2000', 'HEIF')
HEIC_BRANDS = frozenset({b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis', b'mif1', b'msf1'})
# The beginnings of files that are known but not read: what they are.
OTHERS = {
    b'PK\x03\x04': 'a zip archive; unpack it and give the folder',
    b'%!PS': 'PostScript is not read here; export it as PNG',
    b'\xc5\xd0\xd3\xc6': 'PostScript is not read here; export it as PNG',
    b'%PDF': 'a PDF; export its pages as PNG',
    b'8BPS': 'Photoshop files are not read here; export it as PNG or TIFF',
    b'\xff\x0a': 'JPEG XL is not read here; convert it to JPEG or PNG',
    b'\0\0\0\x0cJXL ': 'JPEG XL is not read here; convert it to JPEG or PNG',
    b'v/1\x01': 'OpenEXR is not read here; convert it to a TIFF or PNG of 16 bits',
    b'#?RADIANCE': 'Radiance HDR is not read here; convert it to a TIFF or PNG of 16 bits',
}
MAX_MEGAPIXELS = 250.0
NO_PICTURE = 'damaged, or not a picture at all'
GREY_MODES = frozenset({'1', 'L', 'LA', 'La', 'I;16', 'I;16B', 'I;16L', 'F'})
NO_ALPHA, MULTIPLIED, ALPHA = 0, 1, 2  # what a fourth channel of a TIFF is
COLOUR_MODES = frozenset({'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'YCbCr', 'CMYK'})
HIDDEN_REACH = 2  # pixels that bicubic enlargement looks at on each side
PNG_HEADER = 33  # bytes of signature and IHDR, after which colours and metadata come
FLOAT_SAMPLES = 3  # of the TIFF tag SampleFormat
SAMPLE_FORMAT, IMAGE_WIDTH, IMAGE_HEIGHT = 339, 256, 257


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with what its file holds.

    Attributes:
        image: RGB (H,W,3), uint8 or uint16, upright.
        alpha: (H,W) of the same type, or None without transparency.
        icc: the colour profile that the values of `image` are in; None for sRGB.
        grey: the file has one channel of colour; those of `image` are equal.
        note: what was not kept, or '' .
        colour: PNG chunks that say what the values mean where the file has them (gAMA, cHRM, cICP).
        metadata: EXIF and the like.
    """

    image: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    grey: bool = False
    note: str = ''
    colour: bytes = b''
    metadata: Metadata = field(default_factory=Metadata)

    def holding(self, image: np.ndarray) -> Picture:
        """Return the same with another RGB image (h,w,3), for a part of the picture: without alpha and metadata."""
        return replace(self, image=image, alpha=None, metadata=Metadata())

    def enlarged(self, image: np.ndarray) -> Picture:
        """Return the same with an RGB image (h,w,3) of another size that shows the same; alpha is resized, bicubic."""
        return replace(self, image=image, alpha=None if self.alpha is None else _fit_alpha(self.alpha, image))


def _fit_alpha(alpha: np.ndarray, image: np.ndarray) -> np.ndarray:
    """`alpha` in the size and depth of `image`."""
    if image.dtype != alpha.dtype:
        ratio = np.iinfo(image.dtype).max / np.iinfo(alpha.dtype).max
        alpha = np.rint(alpha * ratio).astype(image.dtype)
    height, width = image.shape[:2]
    return resized(alpha, width, height)


def read_picture(path: str | os.PathLike, factor: float = 1, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Return a picture, upright, in its own depth and colour space; CMYK becomes sRGB. Of several pages the first.

    Args:
        path: the file.
        factor: by which the caller will enlarge the picture.
        max_megapixels: most pixels of the picture and of the enlarged picture; judged by the header.

    Raises:
        ImageReadError: missing, empty, damaged, cut off, too large, or no picture; the message says which.
    """
    path = Path(path)
    with reading_picture(path):
        return _read(path, factor, max_megapixels)


@contextmanager
def reading_picture(path: Path) -> Iterator[None]:
    """Within, Pillow reads a picture without its own limit of pixels, and its errors become `ImageReadError`."""
    check_file(path, ImageReadError, 'picture')
    try:
        with PILLOWS_LIMIT.lifted():
            yield
    except (ImageReadError, MemoryError):
        raise
    except PermissionError as error:
        raise ImageReadError(f'{path}: no permission to read it') from error
    except UnidentifiedImageError as error:
        raise ImageReadError(f'{path}: not a readable picture ({_what_else(path)})') from error
    except DECODER_ERRORS as error:
        raise ImageReadError(f'{path}: the picture is damaged or cut off ({error})') from error


class _PillowsLimit:
    """Pillow's own limit of pixels, which is a global: off while a picture is read, as `check_size` has another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._limit: int | None = None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Without the limit; it comes back when nobody reads any more."""
        with self._lock:
            if not self._readers:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers:
                    Image.MAX_IMAGE_PIXELS = self._limit


PILLOWS_LIMIT = _PillowsLimit()


def _read(path: Path, factor: float, max_megapixels: float) -> Picture:
    try:
        file = open_picture(path, factor, max_megapixels)
    except UnidentifiedImageError:
        size = _size_of_float_tiff(path)
        if size is None:
            raise
        check_size(path, size, factor, max_megapixels, ImageReadError)
        return _read_float_colours(path)
    with file:
        return _decode(path, file)


def is_animated(path: Path) -> bool:
    """Return True if a file is a GIF, WebP, PNG or AVIF with several frames; False for what cannot be read."""
    if path.suffix.lower() not in MOVING_EXTENSIONS:
        return False
    try:
        with reading_picture(path), _open(path) as file:
            return file.format in MOVING_FORMATS and getattr(file, 'n_frames', 1) > 1
    except (ImageReadError, MemoryError):  # reading it will say what is wrong
        return False


def open_picture(path: Path, factor: float, max_megapixels: float) -> Image.Image:
    """Open a picture and read its header, within the limit; see `read_picture`. For use in `reading_picture`."""
    file = _open(path)
    try:
        check_size(path, file.size, factor, max_megapixels, ImageReadError)
    except ImageReadError:
        file.close()
        raise
    return file


def _open(path: Path) -> Image.Image:
    """Return the file with its header read, if it is of one of `FORMATS`."""
    if _is_heic(path):
        _enable_heic()
    Image.preinit()  # the usual formats; importing the others takes a tenth of a second
    try:
        return Image.open(path, formats=_formats())
    except UnidentifiedImageError:
        Image.init()
        return Image.open(path, formats=_formats())


def _formats() -> list[str]:
    """Return those of `FORMATS` that Pillow knows by now."""
    return [name for name in FORMATS if name in Image.OPEN]


def _is_heic(path: Path) -> bool:
    with path.open('rb') as file:
        head = file.read(12)
    return head[4:8] == b'ftyp' and head[8:] in HEIC_BRANDS


def _enable_heic() -> bool:
    """Have Pillow read HEIC, if the package for that is there."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def check_size(path: Path, size: tuple[int, int], factor: float, max_megapixels: float, error: type[Exception]) -> None:
    """Raise `error` for a picture or frame of (width, height) that is, or enlarged by `factor` will be, too large."""
    own = size[0] * size[1] / 1e6
    enlarged = own * factor**2
    if max(own, enlarged) <= max_megapixels:
        return
    shape = f'{path}: {size[0]}x{size[1]} pixels'
    limit = f'the limit of {max_megapixels:g} megapixels (--max_megapixels)'
    if own > max_megapixels:
        raise error(f'{shape} are over {limit}; reduce the picture, or raise the limit if memory allows')
    raise error(
        f'{shape}, enlarged {factor:g} times {enlarged:.0f} megapixels, are over {limit}; enlarge less (--upscale 1), '
        'or raise the limit if memory allows'
    )


def _what_else(path: Path) -> str:
    """Return the kind of a file that is no picture to Pillow, and the remedy."""
    with path.open('rb') as file:
        head = file.read(16)
    if _is_heic(path) and not _enable_heic():
        return 'HEIC needs the package pillow-heif: pip install "id-codeformer[heic]", or convert it to JPEG or PNG'
    if head[4:12] in (b'ftypavif', b'ftypavis') and '.avif' not in Image.registered_extensions():
        return 'this Pillow reads no AVIF; update it: pip install --upgrade pillow'
    return next((what for begin, what in OTHERS.items() if head.startswith(begin)), NO_PICTURE)


def _decode(path: Path, file: Image.Image) -> Picture:
    if file.mode not in GREY_MODES | COLOUR_MODES:
        raise ImageReadError(f'{path}: samples of kind "{file.mode}" are not read; save it with 8 or 16 bits, as RGB')
    grey, icc, notes = file.mode in GREY_MODES, file.info.get('icc_profile') or None, []
    pages = getattr(file, 'n_frames', 1)
    file.load()
    if pages > 1 and file.format != 'MPO':  # the second picture of an MPO is a preview or a gain map
        notes.append(f'the first of {pages} pages; the others were left')
    metadata, damaged = read_metadata(file)
    notes += damaged
    if _has_16_bits(path, file):
        image, alpha = _read_16_bits(path, getattr(file, 'tag_v2', {}))
    elif file.mode == 'F':
        image, alpha = _from_floats(np.asarray(file), notes), None
    elif file.mode.startswith('I;16'):
        image, alpha = _read_deep_grey(file), None
    elif file.mode == 'CMYK':
        image, alpha = np.asarray(_from_cmyk(file, icc, notes)), None
        icc = None
    else:
        image, alpha = _read_8_bits(file, 'L' if grey else 'RGB')
    turn = _orientation(file)
    image, alpha = _turned(image, turn), None if alpha is None else _turned(alpha, turn)
    if icc is not None and icc[16:20] != (b'GRAY' if grey else b'RGB '):
        notes.append(f'its colour profile, which is not for {"grey" if grey else "RGB"}, was left out')
        icc = None
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    colour = read_colour_chunks(path) if file.format == 'PNG' else b''
    return Picture(image, alpha, icc, grey, '; '.join(notes), colour, metadata)


def _has_16_bits(path: Path, file: Image.Image) -> bool:
    """Return True if the file has 16 bits a channel, which Pillow does not always tell by the mode."""
    if isinstance(file, TiffImageFile) and file.mode != 'CMYK':
        return set(file.tag_v2.get(Base.BitsPerSample, ())) == {16}
    with path.open('rb') as raw:
        head = raw.read(256)
    if file.format == 'PNG':
        return head[24] == 16
    header = head.partition(b'ihdr')[2]
    return file.format == 'JPEG2000' and header[10:11] == b'\x0f'  # depth less one


def _read_16_bits(path: Path, tags: Mapping[int, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (H,W) or RGB (H,W,3), and alpha (H,W), uint16. OpenCV heeds no `tags` of a TIFF but the orientation."""
    decoded = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or tags.get(Base.PlanarConfiguration, 1) != 1:
        raise ImageReadError(f'{path}: this kind of picture with 16 bits is not read; save it as PNG')
    if tags.get(Base.PhotometricInterpretation) == 0:  # white is zero
        decoded = np.iinfo(np.uint16).max - decoded
    if decoded.ndim == 2:
        return decoded, None
    if decoded.shape[2] == 3:
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), None
    image, alpha = cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGB), decoded[..., 3].copy()
    kind = tags.get(EXTRASAMPLES, (ALPHA,))[0]
    if kind == MULTIPLIED:
        whole = image.astype(np.float64) * np.iinfo(np.uint16).max / np.maximum(alpha, 1)[..., None]
        image = whole.round().clip(0, np.iinfo(np.uint16).max).astype(np.uint16)
    return image, None if kind == NO_ALPHA else alpha


def _size_of_float_tiff(path: Path) -> tuple[int, int] | None:
    """Width and height of a TIFF of floating-point samples, of which Pillow reads grey ones only; None for others."""
    with path.open('rb') as file:
        try:
            head = file.read(8)
            tags = ImageFileDirectory_v2(head + (file.read(8) if head[2:4] in (b'+\0', b'\0+') else b''))  # BigTIFF
            file.seek(tags.next)
            tags.load(file)
        except DECODER_ERRORS:  # no TIFF, or a damaged one
            return None
    if FLOAT_SAMPLES not in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1)):
        return None
    return tags[IMAGE_WIDTH], tags[IMAGE_HEIGHT]


def _read_float_colours(path: Path) -> Picture:
    """Return a TIFF of floating-point colours, as 16 bits."""
    decoded = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype.kind != 'f':
        raise ImageReadError(f'{path}: this kind of floating-point TIFF is not read; save it with 16 bits')
    notes: list[str] = []
    grey = decoded.ndim == 2
    colours = _from_floats(decoded if grey else decoded[..., 2::-1], notes)
    alpha = _from_floats(decoded[..., 3], []) if not grey and decoded.shape[2] == 4 else None
    image = cv2.cvtColor(colours, cv2.COLOR_GRAY2RGB) if grey else np.ascontiguousarray(colours)
    return Picture(image, alpha, None, grey, '; '.join(notes))


def _from_floats(samples: np.ndarray, notes: list[str]) -> np.ndarray:
    """Floating-point samples as uint16. Black is 0; white is 1, in whole numbers 255 or 65,535, else the largest."""
    finite = np.isfinite(samples)
    if not finite.all():
        notes.append(f'{finite.size - np.count_nonzero(finite)} samples that are no number became black')
        samples = np.where(finite, samples, 0)
    peak = max(float(samples.max()), 0.0)
    white: float = 1
    if peak > 1:
        whole = bool((samples == np.rint(samples)).all())
        white = next((level for level in (255, 65535) if whole and peak <= level), peak)
        notes.append(f'floating-point samples up to {peak:g}, of which {white:g} was taken for white')
    if float(samples.min()) < 0:
        notes.append('floating-point samples below 0 became black')
    return np.rint((samples / white).clip(0, 1) * np.iinfo(np.uint16).max).astype(np.uint16)


def _read_deep_grey(file: Image.Image) -> np.ndarray:
    """Grey (H,W) of other than 8 or 16 bits, uint16. Pillow scales it to 16 bits, but for a TIFF."""
    bits = file.tag_v2[Base.BitsPerSample][0] if isinstance(file, TiffImageFile) else 16
    return (np.asarray(file) * (np.iinfo(np.uint16).max / (2**bits - 1))).round().astype(np.uint16)


def _read_8_bits(file: Image.Image, mode: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (H,W) for mode L or (H,W,3) for RGB, and alpha (H,W), uint8. Palettes are looked up."""
    if not file.has_transparency_data:
        return np.array(file.convert(mode)), None
    both = np.asarray(file.convert(mode + 'A'))
    colours = both[..., 0] if mode == 'L' else both[..., :3]
    return np.ascontiguousarray(colours), both[..., -1].copy()


def _from_cmyk(file: Image.Image, icc: bytes | None, notes: list[str]) -> Image.Image:
    """Return the picture as sRGB: through its profile, black on black; without one by the plain formula."""
    if icc is None:
        notes.append('CMYK without a colour profile, converted to sRGB by the plain formula')
        return file.convert('RGB')
    try:
        converted = ImageCms.profileToProfile(
            file,
            ImageCms.ImageCmsProfile(BytesIO(icc)),
            ImageCms.createProfile('sRGB'),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode='RGB',
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        notes.append('CMYK with a damaged colour profile, converted to sRGB by the plain formula')
        return file.convert('RGB')
    notes.append('CMYK, converted to sRGB through its colour profile')
    return cast(Image.Image, converted)  # None only where the conversion is asked to work in place


def _orientation(file: Image.Image) -> int:
    """By EXIF, 1 to 8; 1 where it says nothing or is damaged, and for a TIFF, which both libraries turn on loading."""
    try:
        turn = file.getexif().get(Base.Orientation, 1)
    except DECODER_ERRORS:  # the EXIF is damaged
        return 1
    return turn if turn in range(1, 9) else 1


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """(H,W) or (H,W,C) made upright, for an EXIF orientation of 1 to 8."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def fill_hidden(picture: Picture) -> Picture:
    """Wholly transparent pixels next to visible ones take their mean colour, so that enlarging draws no fringe."""
    if picture.alpha is None or picture.alpha.all():
        return picture
    visible = picture.alpha > 0
    side = 2 * HIDDEN_REACH + 1
    near = cv2.dilate(visible.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    rows, columns = np.nonzero(near & ~visible)
    total, count = np.zeros((len(rows), 3)), np.zeros((len(rows), 1))
    for down in range(-HIDDEN_REACH, HIDDEN_REACH + 1):
        for right in range(-HIDDEN_REACH, HIDDEN_REACH + 1):
            y, x = (rows + down).clip(0, len(visible) - 1), (columns + right).clip(0, visible.shape[1] - 1)
            seen = visible[y, x, None]
            total += picture.image[y, x] * seen
            count += seen
    image = picture.image.copy()
    image[rows, columns] = np.rint(total / count)
    return replace(picture, image=image)


def write_png(path: str | os.PathLike, picture: Picture) -> None:
    """Write a picture as PNG with its depth, alpha, colour profile and metadata, complete or not at all.

    A grey picture is written with one channel (two with alpha; four for 16 bits, which no library here writes as two).

    Args:
        path: folders are made where missing.
        picture: its profile is left out where it does not fit the channels written.

    Raises:
        ValueError: it could not be encoded.
    """
    png, channels = _encode(path, picture)
    icc = picture.icc or b''
    fits = icc[16:20] == (b'GRAY' if channels < 3 else b'RGB ')
    with replacing(path) as partial, partial.open('wb') as file:
        file.write(png[:PNG_HEADER])
        file.write(png_chunk(b'iCCP', b'ICC profile\0\0' + zlib.compress(icc)) if fits else b'')
        file.write(picture.colour)
        file.write(picture.metadata.chunks())
        file.write(png[PNG_HEADER:])


def _encode(path: str | os.PathLike, picture: Picture) -> tuple[memoryview, int]:
    """Return a picture as PNG without what its values mean, and in how many channels."""
    image, alpha = picture.image, picture.alpha
    if picture.grey and alpha is not None and image.dtype == np.uint8:
        buffer = BytesIO()
        Image.fromarray(np.dstack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), alpha])).save(buffer, 'PNG')
        return buffer.getbuffer(), 2
    if alpha is not None:
        data = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGRA)
        data[..., 3] = alpha
    else:
        data = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY if picture.grey else cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode('.png', data)
    if not done:
        raise ValueError(f'{path}: the picture of shape {image.shape} could not be encoded')
    return encoded.data, 1 if data.ndim == 2 else data.shape[2]
