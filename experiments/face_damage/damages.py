"""Damage of whole pictures, blur, codecs, grain, few colours and rows, and what leaves a picture clean."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, cast

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image

Rng = np.random.Generator
Damage = Callable[[np.ndarray, float, Rng], np.ndarray]
"""RGB uint8 (H,W,3), pixels of the picture for one of the look, a generator of chance; to a picture of that shape."""


def clip(image: np.ndarray) -> np.ndarray:
    """Return a picture in uint8."""
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """Return a number from low to high whose logarithm is uniform."""
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
    return cv2.GaussianBlur(image, (0, 0), unit * log_uniform(rng, 0.9, 6))


def disc(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Out of focus, with a round aperture."""
    radius = unit * log_uniform(rng, 1.8, 8)
    place = np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    kernel = (place[:, None] ** 2 + place**2 <= radius**2).astype(np.float32)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)


def motion(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Return the image, blurred by motion."""
    kernel = _kernel(unit * log_uniform(rng, 5, 20), rng.uniform(0, 180))
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT)


def small(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Reduced and enlarged."""
    factor = unit * log_uniform(rng, 2.2, 7)
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
    return clip(np.rint(image / step + tiled) * step)


def combing(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Every other row from elsewhere or of another brightness."""
    result = image.astype(np.float32)
    thick = 1 if rng.random() < 0.8 else 2
    rows = np.arange(len(result)) // thick % 2 == 1
    if rng.random() < 0.7:
        result[rows] = np.roll(result, int(rng.choice([-1, 1]) * rng.integers(1, 9)), axis=1)[rows]
    else:
        result[rows] = result[rows] * rng.uniform(0.8, 1.2) + rng.uniform(-12, 12)
    return clip(result)


def sharp_combing(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Every other row from a moment later."""
    result = image.copy()
    result[1::2] = np.roll(image, int(rng.choice([-1, 1]) * rng.integers(3, 12)), axis=1)[1::2]
    return result


def scanlines(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Dark rows as on a screen."""
    result, period = image.astype(np.float32), int(rng.integers(2, 5))
    result[::period] *= rng.uniform(0.5, 0.85)
    return clip(result)


def noise(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Grain."""
    return clip(image + _grain(image.shape, rng) * log_uniform(rng, 3, 30))


def hard_noise(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Much grain."""
    return clip(image + _grain(image.shape, rng) * log_uniform(rng, 14, 45))


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
    factor = unit * log_uniform(rng, 1.5, 8)
    size = (max(8, round(width / factor)), max(8, round(height / factor)))
    base = cv2.GaussianBlur(image, (0, 0), unit * log_uniform(rng, 0.4, 5))
    low = cv2.resize(base, size, interpolation=int(rng.choice([cv2.INTER_AREA, cv2.INTER_LINEAR])))
    low = jpeg(clip(low + _grain(low.shape, rng) * log_uniform(rng, 2, 20)), int(rng.integers(30, 98)))
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
    base = cv2.GaussianBlur(image, (0, 0), unit * log_uniform(rng, 1.3, 5)).astype(np.float32)
    for _ in range(rng.integers(1, 3)):
        sigma = unit * log_uniform(rng, 0.7, 3)
        base = np.clip(base + rng.uniform(1, 4) * (base - cv2.GaussianBlur(base, (0, 0), sigma)), 0, 255)
    return clip(base)


CODECS = ('mpeg4', 'libx264', 'mpeg1video')


def video(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Return the picture out of a clip of few bits."""
    bits = log_uniform(rng, 0.02, 0.25)
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


def as_it_is(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Clean."""
    return image


def mild_noise(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Little grain."""
    return clip(image + _grain(image.shape, rng) * rng.uniform(0.5, 4))


def mild_jpeg(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """JPEG of good quality."""
    return jpeg(image, int(rng.integers(75, 97)), rng.random() < 0.6)


def mild_sharpening(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Edges drawn a little harder, as cameras do."""
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.5)).astype(np.float32)
    return clip(image + rng.uniform(0.2, 0.7) * (image - soft))
