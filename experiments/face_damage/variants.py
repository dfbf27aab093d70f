"""Damage that the classifier is judged on and never trained on: other fonts, shapes, textures, colours and codecs."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFont

from experiments.face_damage.damages import Damage, Rng, coarse_video
from experiments.face_damage.overlays import put, stamp

PHRASES = (
    'Summer 1987',
    'to my love',
    'Foto Weber',
    '(c) all rights',
    'No. 4711',
    'www.foto.example',
    'HELLO',
    'x 25/36',
)
FONTS = 'ttf/STIXGeneral*.ttf ttf/cm[brst]*10.ttf ttf/DejaVuSerif*.ttf ttf/DejaVuSansMono*.ttf'
GRAIN = 0.02  # of the side: of the smooth noise that blotches are cut from


def _font(rng: Rng, size: float) -> ImageFont.FreeTypeFont:
    """Return a print type of those that come with matplotlib (which the extra `detectors` brings)."""
    spec = find_spec('matplotlib')
    if spec is None or spec.origin is None:
        raise FileNotFoundError('letters are drawn in the fonts of matplotlib: pip install matplotlib')
    folder = Path(spec.origin).parent / 'mpl-data' / 'fonts'
    files = sorted(file for pattern in FONTS.split() for file in folder.glob(pattern))
    return ImageFont.truetype(files[rng.integers(len(files))], max(7.0, size))


def _blend(image: np.ndarray, layer: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return the image under a colour, (3,) or (H,W,3), where the layer (H,W) is up to 1."""
    share = np.clip(layer, 0, 1)[..., None].astype(np.float32)
    return np.rint(np.clip(image * (1 - share) + colour * share, 0, 255)).astype(np.uint8)


def _smooth(shape: tuple[int, ...], sigma: float, rng: Rng) -> np.ndarray:
    """Return noise without detail, (H,W), of variance 1."""
    field = cv2.GaussianBlur(rng.normal(0, 1, shape[:2]), (0, 0), sigma)
    return field / field.std()


def _walk(shape: tuple[int, ...], steps: int, step: float, bend: float, rng: Rng) -> np.ndarray:
    """Return the points of a line that wanders, (steps,1,2) int32 in 16ths of a pixel."""
    turn = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, steps))
    start = rng.uniform(0, 1, 2) * shape[1::-1]
    points = start + np.cumsum(step * np.stack([np.cos(turn), np.sin(turn)], 1), axis=0)
    return np.rint(points * 16).astype(np.int32)[:, None]


def caption(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Lines of text in print types, with a gradient, a shadow or an outline."""
    height, width = image.shape[:2]
    font, layer = _font(rng, height * rng.uniform(0.05, 0.16)), np.zeros((height, width), np.uint8)
    left, top = int(rng.uniform(-0.1, 0.35) * width), rng.uniform(0.15, 0.6) * height
    for _ in range(rng.integers(1, 5)):
        word = stamp(str(rng.choice(PHRASES)), font, int(rng.integers(2)))
        put(layer, word, left, int(top))
        top += word.shape[0] * rng.uniform(1.2, 1.6)
    share, style = layer / 255, rng.integers(3)
    if style == 1:
        image = _blend(image, 0.8 * np.roll(share, (2, 2), (0, 1)), np.zeros(3))
    if style == 2:
        image = _blend(image, cv2.dilate(share, np.ones((3, 3))), np.full(3, 255 * rng.integers(2)))
    across = np.linspace(0, 1, width)[:, None]
    return _blend(image, share, (across * rng.integers(0, 256, 3) + (1 - across) * rng.integers(0, 256, 3))[None])


def blotches(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Specks of irregular shape, mould, and fibres that wander."""
    side = max(image.shape[:2])
    layer = (_smooth(image.shape, max(0.6, rng.uniform(0.3, 1) * GRAIN * side), rng) > rng.uniform(2.0, 2.7)) * 1.0
    for _ in range(rng.integers(0, 12)):
        points = _walk(image.shape, 20, side / 100, 0.35, rng)
        cv2.polylines(layer, [points], False, (1.0,), 1, cv2.LINE_AA, 4)
    layer = cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.3, 0.7)) * rng.uniform(0.6, 1)
    tint = rng.uniform(0.75, 1, 3) * (rng.uniform(200, 256) if rng.random() < 0.6 else rng.uniform(0, 60))
    return _blend(image, layer, tint)


def tears(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Scratches that wander, of changing strength and colour, and folds with soft flanks."""
    side, layer = max(image.shape[:2]), np.zeros(image.shape[:2])
    for _ in range(rng.integers(3, 12)):
        line = np.zeros(image.shape[:2])
        points = _walk(image.shape, 60, side / 40, rng.uniform(0.01, 0.12), rng)
        cv2.polylines(line, [points], False, (1.0,), int(rng.integers(1, 3)), cv2.LINE_AA, 4)
        fade = np.clip(0.8 + 0.5 * _smooth(image.shape, side / 12, rng), 0, 1)
        soft = cv2.GaussianBlur(line, (0, 0), side / 60) * (2 if rng.random() < 0.3 else 0)
        layer = np.maximum(layer, (line + soft) * fade * rng.uniform(0.7, 1))
    white, dark = rng.uniform(0.7, 1, 3) * 255, rng.uniform(0, 0.3, 3) * 255
    emulsion = np.array([rng.uniform(60, 255), rng.uniform(180, 255), rng.uniform(30, 160)])
    return _blend(image, layer, (white, dark, emulsion)[rng.integers(3)])


def _shape(shape: tuple[int, ...], rng: Rng) -> np.ndarray:
    """Return a heart, a bar, a ring or a rounded box somewhere on the face, (H,W), 1 in it."""
    height, width = shape[:2]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    radius = rng.uniform(0.07, 0.17) * min(height, width)
    turn, middle = rng.uniform(-0.6, 0.6), rng.uniform(0.3, 0.7, 2) * (width, height)
    along = ((x - middle[0]) * np.cos(turn) + (y - middle[1]) * np.sin(turn)) / radius
    down = ((y - middle[1]) * np.cos(turn) - (x - middle[0]) * np.sin(turn)) / radius
    far = np.hypot(along, down)
    forms = (
        (along**2 + down**2 - 0.8) ** 3 + along**2 * down**3 < 0,
        (abs(along) < 3) & (abs(down) < 0.45),
        (far < 1.1) & (far > 0.6),
        along**4 + down**4 < 1,
    )
    return cv2.GaussianBlur(forms[rng.integers(len(forms))].astype(np.float32), (0, 0), 0.5)


def decal(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Hearts, bars, rings and boxes, with a gradient or a piece of picture in them, by chance with a border."""
    for _ in range(rng.integers(1, 4)):
        layer = _shape(image.shape, rng)
        if rng.random() < 0.5:
            image = _blend(image, cv2.dilate(layer, np.ones((5, 5))), np.full(3, 255.0))
        down = np.linspace(0, 1, image.shape[0])[:, None, None]
        gradient = down * rng.integers(0, 256, 3) + (1 - down) * rng.integers(0, 256, 3)
        piece = np.roll(image[::-1], image.shape[1] // 3, axis=1)
        image = _blend(image, layer, gradient if rng.random() < 0.6 else piece)
    return image


def stock_mark(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """One large word across the face, or an embossed one over and over, or the rings of a logo."""
    height, width = image.shape[:2]
    layer, style = np.zeros((height, width), np.uint8), rng.integers(3)
    if style == 2:
        for radius in np.linspace(0.1, 0.4, rng.integers(2, 5)) * width:
            cv2.circle(layer, (width // 2, height // 2), int(radius), (255,), max(2, width // 60), cv2.LINE_AA)
    else:
        word = stamp(str(rng.choice(PHRASES)), _font(rng, height * (0.2 if style else rng.uniform(0.06, 0.12))), 1)
        rows = [height // 2 - word.shape[0] // 2] if style else range(0, height, round(2.2 * word.shape[0]))
        for row, top in enumerate(rows):
            for left in range(-row * word.shape[1] // 3 % word.shape[1] - word.shape[1], width, 5 * word.shape[1] // 4):
                put(layer, word, left, top)
    if style == 0:
        image = _blend(image, np.roll(layer, (1, 1), (0, 1)) / 255 * 0.5, np.zeros(3))
    return _blend(image, layer / 255 * rng.uniform(0.3, 0.65), np.full(3, 255.0 if rng.random() < 0.8 else 20.0))


def chroma_blotches(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Noise in the colours as cheap sensors have it: coarse, per channel of the sensor, then saved."""
    height, width = image.shape[:2]
    coarse = rng.normal(0, 1, (height // 2 + 1, width // 2 + 1, 3)).astype(np.float32)
    grain = cv2.resize(coarse, (width, height), interpolation=int(rng.choice([0, 1, 2])))
    grain = grain - 0.8 * grain.mean(2, keepdims=True)
    noisy = np.rint(np.clip(image + grain / grain.std() * rng.uniform(10, 30), 0, 255)).astype(np.uint8)
    return _saved(noisy, 'JPEG', quality=int(rng.integers(80, 96))) if rng.random() < 0.5 else noisy


def _saved(image: np.ndarray, form: str, **values: object) -> np.ndarray:
    with io.BytesIO() as file:
        Image.fromarray(image).save(file, form, **values)
        return np.array(Image.open(file).convert('RGB'))


def jpeg2000(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """JPEG 2000 of few bits."""
    return _saved(
        image, 'JPEG2000', quality_mode='rates', quality_layers=[float(rng.uniform(40, 110))], irreversible=True
    )


def avif(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """AVIF of low quality."""
    return _saved(image, 'AVIF', quality=int(rng.integers(5, 25)), speed=9, max_threads=1)


COVERING: dict[str, Damage] = {
    'dust, other shapes': blotches,
    'scratches, other shapes': tears,
    'letters, other fonts': caption,
    'sticker, other shapes': decal,
    'watermark, other forms': stock_mark,
}
CODECS: dict[str, Damage] = {
    'JPEG 2000, not blurred': jpeg2000,
    'AVIF 5-24, not blurred': avif,
    'other codecs, not blurred': coarse_video(('mpeg2video', 'libvpx-vp9')),
}
VARIANTS: dict[str, Damage] = {
    **COVERING,
    'colour noise, another grain': chroma_blotches,
    **CODECS,
}
