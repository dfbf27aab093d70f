"""Kinds of damage, and kinds of clean pictures, for the classifier of sharp faces."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, cast

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont

Rng = np.random.Generator
Damage = Callable[[np.ndarray, float, Rng], np.ndarray]
"""RGB uint8 (H,W,3), pixels of the picture for one of the look, a generator of chance; to a picture of that shape."""

WORDS = ('SAMPLE', 'PROOF', 'Kodak', '12.04.98', 'copyright', 'DRAFT', '@photo', 'PREVIEW', 'IMG_2041', 'studio')
FONTS = (0, 1, 2, 3, 4, 5, 6, 7)


def _clip(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _kernel(length: float, degrees: float) -> np.ndarray:
    side = int(length) // 2 * 2 + 3
    kernel = np.zeros((side, side), np.float32)
    middle, reach = side // 2, length / 2
    end = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]) * reach
    first, last = (tuple(np.rint((middle + sign * end) * 16).astype(int).tolist()) for sign in (-1, 1))
    cv2.line(kernel, first, last, 1.0, 1, cv2.LINE_AA, 4)
    return kernel / kernel.sum()


def gaussian(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Out of focus."""
    return cv2.GaussianBlur(image, (0, 0), unit * _log_uniform(rng, 0.9, 6))


def disc(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Out of focus, with a round aperture."""
    radius = unit * _log_uniform(rng, 1.8, 8)
    place = np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    kernel = (place[:, None] ** 2 + place**2 <= radius**2).astype(np.float32)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)


def motion(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Return the image, blurred by motion."""
    kernel = _kernel(unit * _log_uniform(rng, 5, 20), rng.uniform(0, 180))
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT)


def small(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Reduced and enlarged."""
    factor = unit * _log_uniform(rng, 2.2, 7)
    height, width = image.shape[:2]
    size = (max(4, round(width / factor)), max(4, round(height / factor)))
    down, up = rng.choice([cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LINEAR]), rng.choice([1, 2, 2, 4])
    return cv2.resize(cv2.resize(image, size, interpolation=int(down)), (width, height), interpolation=int(up))


def any_blur(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """One of those above, out of focus more often."""
    return (gaussian, gaussian, gaussian, disc, motion, small)[rng.integers(6)](image, unit, rng)


def decoded(data: np.ndarray) -> np.ndarray:
    """Return the picture that OpenCV encoded, RGB."""
    return cast(np.ndarray, cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def jpeg(image: np.ndarray, quality: int, sampling: bool = True) -> np.ndarray:
    """Through JPEG."""
    flag = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if sampling else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    values = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, flag]
    return decoded(cv2.imencode('.jpg', image[..., ::-1], values)[1])


def blurred(damage: Damage) -> Damage:
    """Blurred, then damaged."""
    return lambda image, unit, rng: damage(any_blur(image, unit, rng), unit, rng)


def any_jpeg(low: int, high: int) -> Damage:
    """JPEG of that quality."""
    return lambda image, unit, rng: jpeg(image, int(rng.integers(low, high + 1)), rng.random() < 0.7)


def resized_jpeg(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Through JPEG in another size."""
    height, width = image.shape[:2]
    factor = rng.uniform(0.45, 0.95)
    other = cv2.resize(image, (round(width * factor), round(height * factor)), interpolation=3)
    return cv2.resize(jpeg(other, int(rng.integers(8, 35))), (width, height), interpolation=cv2.INTER_CUBIC)


def webp(low: int, high: int) -> Damage:
    """WebP of that quality."""

    def damage(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
        values = [cv2.IMWRITE_WEBP_QUALITY, int(rng.integers(low, high + 1))]
        return decoded(cv2.imencode('.webp', image[..., ::-1], values)[1])

    return damage


def palette(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Few colours, dithered or not."""
    picture = Image.fromarray(image)
    colours = int(rng.choice([8, 16, 32, 32, 32, 64]))
    dither = Image.Dither.FLOYDSTEINBERG if rng.random() < 0.6 else Image.Dither.NONE
    if rng.random() < 0.2:
        return np.array(picture.convert('P', dither=dither, palette=Image.Palette.WEB).convert('RGB'))
    table = picture.quantize(colours, method=Image.Quantize(int(rng.choice([0, 2]))))
    return np.array(picture.quantize(palette=table, dither=dither).convert('RGB'))


def bayer(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Few levels and an ordered dither."""
    matrix = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16 - 0.47
    height, width = image.shape[:2]
    tiled = np.tile(matrix, (height // 4 + 1, width // 4 + 1))[:height, :width, None]
    step = float(rng.choice([24, 36, 51]))
    return _clip(np.rint(image / step + tiled) * step)


def combing(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Every other row from elsewhere or of another brightness."""
    result = image.astype(np.float32)
    thick = 1 if rng.random() < 0.8 else 2
    rows = np.arange(len(result)) // thick % 2 == 1
    if rng.random() < 0.7:
        result[rows] = np.roll(result, int(rng.choice([-1, 1]) * rng.integers(1, 9)), axis=1)[rows]
    else:
        result[rows] = result[rows] * rng.uniform(0.8, 1.2) + rng.uniform(-12, 12)
    return _clip(result)


def sharp_combing(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Every other row from a moment later."""
    result = image.copy()
    result[1::2] = np.roll(image, int(rng.choice([-1, 1]) * rng.integers(3, 12)), axis=1)[1::2]
    return result


def scanlines(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Dark rows as on a screen."""
    result, period = image.astype(np.float32), int(rng.integers(2, 5))
    result[::period] *= rng.uniform(0.5, 0.85)
    return _clip(result)


def dust(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Specks and hairs."""
    result, (height, width) = image.copy(), image.shape[:2]
    bright = rng.random() < 0.6
    for _ in range(rng.integers(20, 60 + height * width // 300)):
        tone = int(rng.integers(170, 256) if bright != (rng.random() < 0.2) else rng.integers(0, 60))
        centre = (int(rng.integers(width * 16)), int(rng.integers(height * 16)))
        if rng.random() < 0.12:
            turn, first, last = rng.integers(0, 360), *np.sort(rng.integers(0, 360, 2)).tolist()
            axes = tuple((rng.uniform(2, 14, 2) * 16).astype(int).tolist())
            cv2.ellipse(result, centre, axes, int(turn), first, last, (tone,) * 3, 1, cv2.LINE_AA, 4)
        else:
            cv2.circle(result, centre, int(rng.uniform(0.3, 2.2) * 16), (tone,) * 3, -1, cv2.LINE_AA, 4)
    return result


def salt(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Single dead pixels."""
    result = image.copy()
    hit = rng.random(image.shape[:2]) < _log_uniform(rng, 0.003, 0.06)
    result[hit] = rng.choice([0, 255], (int(hit.sum()), 1))
    return result


def scratches(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Scratches and folds."""
    result, (height, width) = image.copy(), image.shape[:2]
    steep = rng.random() < 0.5
    for _ in range(rng.integers(4, 26)):
        if steep:
            x = rng.uniform(0, width)
            points = np.array([[x, 0], [x + rng.normal(0, 3), height / 2], [x + rng.normal(0, 6), height]])
        else:
            points = rng.uniform(-0.1, 1.1, (rng.integers(2, 4), 2)) * (width, height)
        tone = int(rng.integers(190, 256) if rng.random() < 0.75 else rng.integers(0, 50))
        thick = 1 if rng.random() < 0.75 else int(rng.integers(2, 4))
        cv2.polylines(result, [np.rint(points * 16).astype(int)], False, (tone,) * 3, thick, cv2.LINE_AA, 4)
    return result


def stamp(word: str, font: ImageFont.FreeTypeFont, stroke: int = 0) -> np.ndarray:
    """Return a word in a font, (h,w) uint8, 255 where it is."""
    left, top, right, bottom = font.getbbox(word, stroke_width=stroke)
    picture = Image.new('L', (max(1, round(right - left)), max(1, round(bottom - top))))
    ImageDraw.Draw(picture).text((-left, -top), word, 255, font, stroke_width=stroke)
    return np.array(picture)


def _drawn(word: str, scale: float, rng: Rng) -> np.ndarray:
    """Return a word in the font of Pillow or of OpenCV, (h,w) uint8."""
    if rng.random() < 0.5:
        font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(max(6.0, 30 * scale)))
        return stamp(word, font, int(rng.integers(3)))
    font, thick = int(rng.choice(FONTS)), max(1, round(scale * rng.uniform(0.8, 2.6)))
    (long, tall), below = cv2.getTextSize(word, font, scale, thick)
    layer = np.zeros((tall + below + 2 * thick, long + 2 * thick), np.uint8)
    return cv2.putText(layer, word, (thick, tall + thick), font, scale, (255,), thick, cv2.LINE_AA)


def put(layer: np.ndarray, word: np.ndarray, left: int, top: int) -> None:
    """Lay a word on a layer, (H,W) uint8, in place; what lies outside is cut off."""
    x, y = max(left, 0), max(top, 0)
    place = layer[y : max(y, top + word.shape[0]), x : max(x, left + word.shape[1])]
    np.maximum(place, word[y - top :, x - left :][: place.shape[0], : place.shape[1]], out=place)


def _letters(image: np.ndarray, rng: Rng, rows: tuple[int, int], every: bool) -> np.ndarray:
    """Return a layer with words, (H,W,1): 1 where they are."""
    layer, (height, width) = np.zeros(image.shape[:2], np.uint8), image.shape[:2]
    scale = float(_log_uniform(rng, 0.25, 1.6)) * max(height, 160) / 320
    if every:
        word = _drawn(str(rng.choice(WORDS)), scale, rng)
        tall, long = word.shape
        for y in range(-int(rng.integers(tall)), height, max(6, round(tall * rng.uniform(1.3, 3.5)))):
            for x in range(-int(rng.integers(long)), width, max(12, round(long * rng.uniform(1.1, 2)))):
                put(layer, word, x, y)
    else:
        for _ in range(rng.integers(*rows)):
            word = _drawn(str(rng.choice(WORDS)), scale, rng)
            x, y = rng.integers(-word.shape[1] // 3, max(1, width - word.shape[1] // 2)), rng.integers(height)
            put(layer, word, int(x), int(y) - word.shape[0] // 2)
    if rng.random() < 0.3:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-45, 45), 1.2)
        layer = cv2.warpAffine(layer, matrix, (width, height))
    return layer[..., None].astype(np.float32) / 255


def letters(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Words over it."""
    base, layer = image, _letters(image, rng, (2, 9), False)
    colour = rng.choice([0, 255], 3) if rng.random() < 0.7 else rng.integers(0, 256, 3)
    if rng.random() < 0.3:
        edge = cv2.dilate(layer, np.ones((3, 3)))[..., None]
        base = base * (1 - edge) + (255 - colour) * edge
    return _clip(base * (1 - layer) + colour * layer)


def watermark(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Lay a word on the picture over and over."""
    base, layer = image.astype(np.float32), _letters(image, rng, (0, 1), True)
    layer = layer * rng.uniform(0.25, 1)
    return _clip(base * (1 - layer) + (255 if rng.random() < 0.75 else 0) * layer)


def mesh(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Behind a grid of lines or a hatching."""
    base, (height, width) = image.astype(np.float32), image.shape[:2]
    y, x = np.mgrid[:height, :width]
    turn, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
    lines = (x * np.cos(turn) + y * np.sin(turn)) % period < rng.uniform(1, 2.5)
    if rng.random() < 0.5:
        lines |= (y * np.cos(turn) - x * np.sin(turn)) % period < rng.uniform(1, 2.5)
    layer = lines[..., None] * rng.uniform(0.3, 1)
    return _clip(base * (1 - layer) + rng.choice([0, 255]) * layer)


def sticker(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Shapes on a part of it."""
    result, (height, width) = image.copy(), image.shape[:2]
    for _ in range(rng.integers(1, 5)):
        centre = (rng.uniform(0.2, 0.8, 2) * (width, height)).astype(int)
        radius = int(rng.uniform(0.05, 0.17) * min(height, width))
        colour = [int(v) for v in rng.integers(0, 256, 3)]
        if rng.random() < 0.5:
            cv2.circle(result, centre.tolist(), radius, colour, -1, cv2.LINE_AA)
            for side in (-1, 1):
                eye = (int(centre[0]) + side * radius // 3, int(centre[1]) - radius // 4)
                cv2.circle(result, eye, max(1, radius // 7), (0, 0, 0), -1, cv2.LINE_AA)
            mouth = (int(centre[0]), int(centre[1]) + radius // 6)
            cv2.ellipse(result, mouth, (radius // 2, radius // 3), 0, 10, 170, (0, 0, 0), 2)
        else:
            corners = rng.integers(3, 11)
            spokes = radius * (rng.uniform(0.4, 1, corners) if rng.random() < 0.5 else np.ones(corners))
            angle = np.arange(corners) * 2 * np.pi / corners + rng.uniform(0, 6)
            points = centre + np.stack([np.cos(angle), np.sin(angle)], 1) * spokes[:, None]
            cv2.fillPoly(result, [points.astype(int)], colour, cv2.LINE_AA)
            cv2.polylines(result, [points.astype(int)], True, (255, 255, 255), 1, cv2.LINE_AA)
    return result


def noise(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Grain."""
    return _clip(image + _grain(image.shape, rng) * _log_uniform(rng, 3, 30))


def hard_noise(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Much grain."""
    return _clip(image + _grain(image.shape, rng) * _log_uniform(rng, 14, 45))


def noise_jpeg(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Grain, then JPEG."""
    return jpeg(noise(image, unit, rng), int(rng.integers(15, 70)))


def _grain(shape: tuple[int, ...], rng: Rng) -> np.ndarray:
    grain = rng.normal(0, 1, shape if rng.random() < 0.5 else (*shape[:2], 1))
    if rng.random() < 0.3:
        grain = cv2.GaussianBlur(grain, (0, 0), 0.7).reshape(grain.shape)
        grain = grain / grain.std()
    return grain


def chain(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Blurred, reduced, grain, JPEG, enlarged: what restoration networks are trained on."""
    height, width = image.shape[:2]
    factor = unit * _log_uniform(rng, 1.5, 8)
    size = (max(8, round(width / factor)), max(8, round(height / factor)))
    base = cv2.GaussianBlur(image, (0, 0), unit * _log_uniform(rng, 0.4, 5))
    low = cv2.resize(base, size, interpolation=int(rng.choice([cv2.INTER_AREA, cv2.INTER_LINEAR])))
    low = jpeg(_clip(low + _grain(low.shape, rng) * _log_uniform(rng, 2, 20)), int(rng.integers(30, 98)))
    return cv2.resize(low, (width, height), interpolation=int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC])))


def pixels(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Large pixels."""
    height, width = image.shape[:2]
    factor = unit * rng.uniform(2.2, 8)
    size = (max(4, round(width / factor)), max(4, round(height / factor)))
    result = cv2.resize(cv2.resize(image, size, interpolation=3), (width, height), interpolation=cv2.INTER_NEAREST)
    return jpeg(result, int(rng.integers(40, 95))) if rng.random() < 0.4 else result


def oversharpened(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Blurred, then edges drawn hard."""
    base = cv2.GaussianBlur(image, (0, 0), unit * _log_uniform(rng, 1.3, 5)).astype(np.float32)
    for _ in range(rng.integers(1, 3)):
        sigma = unit * _log_uniform(rng, 0.7, 3)
        base = np.clip(base + rng.uniform(1, 4) * (base - cv2.GaussianBlur(base, (0, 0), sigma)), 0, 255)
    return _clip(base)


def video(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Return the picture out of a clip of few bits."""
    bits = _log_uniform(rng, 0.02, 0.25)
    rate = max(1000, round(bits * image.shape[0] * image.shape[1] * 25))
    presets = {'libx264': {'preset': 'ultrafast' if bits > 0.1 else 'veryfast'}}
    codec = str(rng.choice(CODECS))
    return encoded(image, codec, {'b': str(rate), **presets.get(codec, {})}, int(rng.integers(1, 5)))


def coarse_video(codecs: tuple[str, ...]) -> Damage:
    """Return the damage of a clip whose values are rounded coarsely, whatever its bits."""

    def damage(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
        codec = str(rng.choice(codecs))
        options = {
            'libx264': {'preset': 'veryfast', 'crf': str(rng.integers(32, 47))},
            'libvpx-vp9': {'cpu-used': '8', 'b': '0', 'crf': str(rng.integers(44, 64))},
        }
        step = str(rng.integers(9, 32))
        return encoded(image, codec, options.get(codec, {'qmin': step, 'qmax': step}), int(rng.integers(1, 5)))

    return damage


def encoded(image: np.ndarray, codec: str, options: dict[str, str], frames: int) -> np.ndarray:
    """Return the last of some frames of a clip."""
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    with io.BytesIO() as file:
        with av.open(file, 'w', format='matroska') as out:
            stream = cast(VideoStream, out.add_stream(codec, rate=25, options=options))
            stream.width, stream.height, stream.pix_fmt = *padded.shape[1::-1], 'yuv420p'
            stream.codec_context.thread_count = 1
            for shift in range(frames):
                moved = cast(Any, np.roll(padded, shift - frames + 1, axis=1))
                out.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format='rgb24')))
            out.mux(stream.encode(None))
        file.seek(0)
        with cast(InputContainer, av.open(file)) as clip:
            *_, last = clip.decode(video=0)
            return last.to_ndarray(format='rgb24')[:height, :width]


def colour_noise(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Grain in the colours, of one or several pixels, and by chance a little in the brightness."""
    space = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    grain = rng.normal(0, 1, space.shape)
    if rng.random() < 0.7:
        grain = cv2.GaussianBlur(grain, (0, 0), _log_uniform(rng, 0.5, 3))
    grain *= np.array([rng.uniform(0, 0.25), 1, 1]) / grain.std() * _log_uniform(rng, 7, 35)
    return cv2.cvtColor(_clip(space + grain), cv2.COLOR_YCrCb2RGB)


def laid(overlay: Damage) -> Damage:
    """Return the damage of an overlay, by chance with softer edges, seen through, or saved again."""

    def damage(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
        layer = overlay(image, unit, rng).astype(np.float32) - image
        if rng.random() < 0.35:
            layer = cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.4, 1.2))
        result = _clip(image + layer * (rng.uniform(0.55, 1) if rng.random() < 0.35 else 1))
        return jpeg(result, int(rng.integers(75, 97))) if rng.random() < 0.35 else result

    return damage


CODECS = ('mpeg4', 'libx264', 'mpeg1video')
KINDS: dict[str, Damage] = {
    'blur': any_blur,
    'JPEG 5-14': blurred(any_jpeg(5, 14)),
    'JPEG 15-24': blurred(any_jpeg(15, 24)),
    'JPEG 25-40': blurred(any_jpeg(25, 40)),
    'JPEG in another size': blurred(resized_jpeg),
    'few colours': blurred(palette),
    'combing': blurred(combing),
    'dust': blurred(dust),
    'scratches': blurred(scratches),
    'letters': blurred(letters),
    'sticker': blurred(sticker),
    'watermark': blurred(watermark),
    'noise': blurred(noise),
    'noise, JPEG': blurred(noise_jpeg),
    'large pixels': pixels,
    'oversharpened': oversharpened,
    'video': blurred(video),
    'chain of training': chain,
    'JPEG 3-14, not blurred': any_jpeg(3, 14),
    'combing, not blurred': sharp_combing,
    'noise 14-45, not blurred': hard_noise,
    'ordered dither': blurred(bayer),
    'WebP': blurred(webp(2, 24)),
    'dead pixels': blurred(salt),
    'mesh': blurred(mesh),
    'dark rows': blurred(scanlines),
}
OVERLAYS: dict[str, Damage] = {
    'dust, not blurred': laid(dust),
    'scratches, not blurred': laid(scratches),
    'letters, not blurred': laid(letters),
    'sticker, not blurred': laid(sticker),
    'watermark, not blurred': laid(watermark),
    'mesh, not blurred': laid(mesh),
    'dead pixels, not blurred': laid(salt),
    'colour noise, not blurred': colour_noise,
}
SHARP: dict[str, Damage] = {
    'JPEG 15-24, not blurred': any_jpeg(15, 24),
    'JPEG in another size, not blurred': resized_jpeg,
    'WebP 2-15, not blurred': webp(2, 15),
    'few colours, not blurred': palette,
    'ordered dither, not blurred': bayer,
    'video, not blurred': coarse_video(CODECS),
    'dark rows, not blurred': scanlines,
}


def as_it_is(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Clean."""
    return image


def mild_noise(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Little grain."""
    return _clip(image + _grain(image.shape, rng) * rng.uniform(0.5, 4))


def mild_jpeg(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """JPEG of good quality."""
    return jpeg(image, int(rng.integers(75, 97)), rng.random() < 0.6)


def mild_sharpening(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Edges drawn a little harder, as cameras do."""
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.5)).astype(np.float32)
    return _clip(image + rng.uniform(0.2, 0.7) * (image - soft))


CLEAN: dict[str, Damage] = {
    'as it is': as_it_is,
    'noise 0.5-4': mild_noise,
    'JPEG 75-96': mild_jpeg,
    'WebP 80-95': webp(80, 95),
    'sharpened': mild_sharpening,
}
BESIDE = 'overlay beside the face'
