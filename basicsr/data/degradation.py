"""The blind degradation: ranges as frozen dataclasses, and pure functions of a picture, the ranges and a generator.

Pictures are float32 (H,W,3) RGB in [0, 1]. Order and figures follow CodeFormer (Zhou et al., NeurIPS 2022): blur,
bilinear reduction, Gaussian noise, JPEG, bilinear enlargement; colour changes come last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np

from basicsr.data.blur import blur_and_reduce

Range = tuple[float, float]
KERNELS = ('iso', 'aniso')
REFERENCE_SIZE = 512
UNIT = (np.arange(256, dtype=np.float32) / 255)[None]
SMALLEST_SIGMA = 0.01  # narrower than this, a Gaussian on the pixel grid is one tap; it also keeps the division defined


def _check_range(name: str, value: Range | None, lowest: float, highest: float = float('inf')) -> None:
    if value is not None and (len(value) != 2 or not lowest <= value[0] <= value[1] <= highest):
        raise ValueError(f'{name}: {list(value)} is no range [low, high] within {lowest:g} to {highest:g}')


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f'{name}: {value} is no probability (0 to 1)')


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class DegradationRanges:
    """Ranges of a degradation; the fields carry the names of the option keys. `None` leaves a step out.

    Args:
        blur_sigma: standard deviation of the Gaussian, pixels of the input picture.
        downsample_range: reduction factor, 1 or more.
        noise_range: standard deviation of the noise, 1/255 units.
        jpeg_range: JPEG quality, 1 to 100.
        blur_kernel_size: taps of every kernel, odd.
        kernel_list: kinds of Gaussian, of 'iso' and 'aniso'.
        kernel_prob: weight of each kind.
        motion_kernel_prob: chance of a motion blur before the Gaussian one.

    Raises:
        ValueError: a value outside its limits; the message names the field.
    """

    blur_sigma: Range | None
    downsample_range: Range | None
    noise_range: Range | None
    jpeg_range: Range | None
    blur_kernel_size: int = 41
    kernel_list: tuple[str, ...] = KERNELS
    kernel_prob: tuple[float, ...] = (0.5, 0.5)
    motion_kernel_prob: float = 0.0

    def __post_init__(self) -> None:
        _check_range('blur_sigma', self.blur_sigma, 0)
        _check_range('downsample_range', self.downsample_range, 1)
        _check_range('noise_range', self.noise_range, 0)
        _check_range('jpeg_range', self.jpeg_range, 1, 100)
        _check_probability('motion_kernel_prob', self.motion_kernel_prob)
        if self.blur_kernel_size < 1 or self.blur_kernel_size % 2 == 0:
            raise ValueError(f'blur_kernel_size: {self.blur_kernel_size} is not odd and positive')
        unknown = [kind for kind in self.kernel_list if kind not in KERNELS]
        if unknown or not self.kernel_list:
            raise ValueError(f'kernel_list: {list(self.kernel_list)}; choose from {list(KERNELS)}')
        if len(self.kernel_prob) != len(self.kernel_list) or min(self.kernel_prob) < 0 or sum(self.kernel_prob) <= 0:
            raise ValueError(f'kernel_prob: {list(self.kernel_prob)} must give one weight to each of kernel_list')

    def scaled(self, size: int) -> DegradationRanges:
        """Return the same severity for pictures of `size` pixels instead of 512: lengths shrink."""
        ratio = size / REFERENCE_SIZE
        sigma, factor = self.blur_sigma, self.downsample_range
        return replace(
            self,
            blur_kernel_size=2 * max(0, round((self.blur_kernel_size * ratio - 1) / 2)) + 1,
            blur_sigma=sigma and (sigma[0] * ratio, sigma[1] * ratio),
            downsample_range=factor and (max(1.0, factor[0] * ratio), max(1.0, factor[1] * ratio)),
        )

    @classmethod
    def from_options(cls, opt: Mapping[str, Any], default: DegradationRanges, suffix: str = '') -> DegradationRanges:
        """Ranges from option keys; a missing key keeps `default`'s value, and a range that is null leaves its step out.

        Motion blur needs `use_motion_kernel: true`; its chance is then `motion_kernel_prob`, 0.001 when missing.

        Args:
            opt: options of a dataset.
            default: values of the missing keys.
            suffix: `_large` reads `blur_sigma_large` and so on for the four ranges; the other keys have no suffix.
        """
        suffixed = ('blur_sigma', 'downsample_range', 'noise_range', 'jpeg_range')
        keys = {field.name: field.name + (suffix if field.name in suffixed else '') for field in fields(cls)}
        values = {
            name: _frozen(opt[key])
            for name, key in keys.items()
            if opt.get(key) is not None or (key in opt and name in suffixed)
        }
        chance = opt.get('motion_kernel_prob', 0.001) if opt.get('use_motion_kernel') else None
        return replace(default, **{**values, 'motion_kernel_prob': chance or 0.0})


@dataclass(frozen=True)
class ColourRanges:
    """Colour changes of the low-quality side; the fields carry the names of the option keys.

    Args:
        color_jitter_prob: chance of a shift of each channel.
        color_jitter_shift: largest shift, 1/255 units.
        color_jitter_pt_prob: chance of brightness, contrast, saturation and hue changes, in random order.
        brightness: range of the factor.
        contrast: range of the factor.
        saturation: range of the factor.
        hue: range of the shift, in turns of the colour circle (-0.5 to 0.5).
        gray_prob: chance of a grey picture.
    """

    color_jitter_prob: float = 0.0
    color_jitter_shift: float = 20.0
    color_jitter_pt_prob: float = 0.0
    brightness: Range = (0.5, 1.5)
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.0, 1.5)
    hue: Range = (-0.1, 0.1)
    gray_prob: float = 0.0

    def __post_init__(self) -> None:
        for name in ('color_jitter_prob', 'color_jitter_pt_prob', 'gray_prob'):
            _check_probability(name, getattr(self, name))
        for name in ('brightness', 'contrast', 'saturation'):
            _check_range(name, getattr(self, name), 0)
        _check_range('hue', self.hue, -0.5, 0.5)

    @classmethod
    def from_options(cls, opt: Mapping[str, Any]) -> ColourRanges:
        """Ranges from option keys; a key that is missing or null keeps the default."""
        return cls(**{f.name: _frozen(opt[f.name]) for f in fields(cls) if opt.get(f.name) is not None})


LARGE = DegradationRanges(blur_sigma=(1, 15), downsample_range=(4, 30), noise_range=(0, 20), jpeg_range=(30, 80))
SMALL = DegradationRanges(blur_sigma=(0.1, 10), downsample_range=(1, 12), noise_range=(0, 15), jpeg_range=(60, 100))


def gaussian_kernel(taps: int, sigma_x: float, sigma_y: float, angle: float = 0.0) -> np.ndarray:
    """Return a Gaussian of deviations `sigma_x`, `sigma_y` (pixels) turned by `angle` (radians); (taps,taps), sum 1."""
    axis = np.arange(taps) - taps // 2
    x, y = axis[None, :], axis[:, None]
    along = (np.cos(angle) * x + np.sin(angle) * y) / max(sigma_x, SMALLEST_SIGMA)
    across = (np.cos(angle) * y - np.sin(angle) * x) / max(sigma_y, SMALLEST_SIGMA)
    kernel = np.exp(-0.5 * (along**2 + across**2))
    return (kernel / kernel.sum()).astype(np.float32)


def motion_kernel(taps: int, rng: np.random.Generator) -> np.ndarray:
    """Return the trace of a camera on a smoothly turning path, its centroid in the middle; (taps,taps), sum 1."""
    steps = 16 * taps
    length = rng.uniform(0.25, 1.0) * max(taps - 2, 0)
    turns = np.linspace(0, 1, steps)
    heading = rng.uniform(0, 2 * np.pi) + rng.normal(0, 1.0) * turns + rng.normal(0, 1.5) * turns**2
    path = np.cumsum(np.stack([np.sin(heading), np.cos(heading)]), axis=1) * length / steps
    path += taps // 2 - path.mean(axis=1, keepdims=True)
    corner = np.floor(path).astype(int)
    part = path - corner
    kernel = np.zeros((taps + 1, taps + 1))
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = np.abs(1 - down - part[0]) * np.abs(1 - right - part[1])
        np.add.at(kernel, (corner[0] + down, corner[1] + right), weight)
    kernel = kernel[:taps, :taps]
    return (kernel / kernel.sum()).astype(np.float32)


def random_kernel(ranges: DegradationRanges, rng: np.random.Generator) -> np.ndarray:
    """Return a Gaussian kernel drawn from `ranges`; (taps,taps), sum 1."""
    low, high = ranges.blur_sigma or (0.0, 0.0)
    weights = np.asarray(ranges.kernel_prob, float)
    kind = ranges.kernel_list[rng.choice(len(weights), p=weights / weights.sum())]
    sigma_x = rng.uniform(low, high)
    if kind == 'iso':
        return gaussian_kernel(ranges.blur_kernel_size, sigma_x, sigma_x)
    sigma_y, angle = rng.uniform(low, high), rng.uniform(-np.pi, np.pi)
    return gaussian_kernel(ranges.blur_kernel_size, sigma_x, sigma_y, angle)


def add_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """`image` plus Gaussian noise of standard deviation `sigma` (1/255 units), not clipped."""
    return image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(sigma / 255)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """`image` written as JPEG of that quality (1 to 100) and read again."""
    done, data = cv2.imencode(
        '.jpg', cv2.cvtColor(to_bytes(image), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    if decoded is None:
        raise ValueError(f'a picture of shape {image.shape} could not be written as JPEG')
    return to_unit(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def to_bytes(image: np.ndarray) -> np.ndarray:
    """float32 (H,W,3) clipped to [0, 1] and rounded to the 256 levels of a file: uint8 (H,W,3)."""
    return cv2.addWeighted(image, 255, image, 0, 0, dtype=cv2.CV_8U)  # the one scaling of OpenCV that also saturates


def to_unit(image: np.ndarray) -> np.ndarray:
    """uint8 (H,W,3) to float32 in [0, 1]."""
    return cv2.LUT(image, UNIT)


def degrade(
    image: np.ndarray,
    ranges: DegradationRanges,
    rng: np.random.Generator,
    size: int | None = None,
    interpolation: int = cv2.INTER_LINEAR,
) -> np.ndarray:
    """Damage a picture: blur, reduce, noise, JPEG, enlarge.

    Blur and reduction are those of `cv2.filter2D` and `cv2.resize` to within a quarter of an 8-bit level (see `blur`).

    Args:
        image: float32 (H,W,3) RGB in [0, 1]; left as it is.
        ranges: what to draw the strengths from.
        rng: the only source of chance.
        size: side of the result; None gives (H,W) again.
        interpolation: of the enlargement, OpenCV's; bilinear as published.

    Returns:
        float32 (size,size,3), in [0, 1] up to the tails of the noise when `jpeg_range` is None.
    """
    height, width = image.shape[:2]
    if ranges.motion_kernel_prob and rng.random() < ranges.motion_kernel_prob:
        image = cv2.filter2D(image, -1, motion_kernel(ranges.blur_kernel_size, rng))
    kernel = random_kernel(ranges, rng) if ranges.blur_sigma else None
    factor = rng.uniform(*ranges.downsample_range) if ranges.downsample_range else 1.0
    reduced = (max(1, round(width / factor)), max(1, round(height / factor)))
    if kernel is not None:
        image = blur_and_reduce(image, kernel, reduced)
    else:
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_LINEAR)
    if ranges.noise_range:
        image = add_noise(image, rng.uniform(*ranges.noise_range), rng)
    if ranges.jpeg_range:
        image = jpeg(image, round(rng.uniform(*ranges.jpeg_range)))
    return cv2.resize(image, (size, size) if size else (width, height), interpolation=interpolation)


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def _blend(image: np.ndarray, other: np.ndarray | float, factor: float) -> np.ndarray:
    return np.clip(factor * image + (1 - factor) * other, 0, 1).astype(np.float32)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: 0 is black, 1 the picture itself."""
    return _blend(image, 0.0, factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean grey of the picture: 0 is flat, 1 the picture itself."""
    return _blend(image, float(_grey(image).mean()), factor)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grey picture: 0 is grey, 1 the picture itself."""
    return _blend(image, _grey(image), factor)


def adjust_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the colour circle by `turn` (1 is a whole turn)."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def change_colour(image: np.ndarray, ranges: ColourRanges, rng: np.random.Generator) -> np.ndarray:
    """Channel shift, grey, then brightness, contrast, saturation and hue in random order, each by its chance.

    Args:
        image: float32 (H,W,3) RGB in [0, 1]; left as it is.
        ranges: chances and strengths.
        rng: the only source of chance.

    Returns:
        float32 (H,W,3) in [0, 1].
    """
    if ranges.color_jitter_prob and rng.random() < ranges.color_jitter_prob:
        shift = rng.uniform(-ranges.color_jitter_shift, ranges.color_jitter_shift, 3).astype(np.float32) / 255
        image = np.clip(image + shift, 0, 1)
    if ranges.gray_prob and rng.random() < ranges.gray_prob:
        image = np.repeat(_grey(image), 3, axis=2)
    if ranges.color_jitter_pt_prob and rng.random() < ranges.color_jitter_pt_prob:
        steps: list[tuple[Callable[[np.ndarray, float], np.ndarray], Range]] = [
            (adjust_brightness, ranges.brightness),
            (adjust_contrast, ranges.contrast),
            (adjust_saturation, ranges.saturation),
            (adjust_hue, ranges.hue),
        ]
        image = np.clip(image, 0, 1)
        for position in rng.permutation(len(steps)):
            adjust, limits = steps[position]
            image = adjust(image, rng.uniform(*limits))
    return image
