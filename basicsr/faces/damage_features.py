"""Statistics of the pixels inside a face that tell detail from damage.

Detail of a sharp face is wherever the face has structure; overlays, dust and scratches are in some places only, grain
is in smooth skin too, blocks, few colours, rows and large pixels repeat or stand still. Every statistic is a ratio or
a logarithm, of the natural-scene kind (Mittal et al., "No-reference image quality assessment in the spatial domain",
2012) or of one kind of damage, and none is a decision: `basicsr.faces.sharpness` weighs them.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np

TINY = 1e-3
SIGMAS = (0.8, 1.6, 3.2, 6.4)  # pixels; each band is what the blur takes off the one before
LOCAL = 3.0  # pixels: sigma of local amplitudes
QUANTILES = (10, 30, 50, 70, 90)
PERIODS = (4, 20)  # pixels between the edges of blocks, from and to
LEAST_PIXELS = 64  # fewer say nothing


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a (H,W) float32 picture."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def log(value: float | np.ndarray) -> np.ndarray:
    """Natural logarithm that bears zero."""
    return np.log(np.maximum(value, 0) + TINY)


def moments(values: np.ndarray) -> tuple[float, float]:
    """Logarithms of the ratios of robust spread and of mean absolute value to the root mean square."""
    rms = float(np.sqrt(np.mean(values**2)))
    return (
        float(log(1.4826 * np.median(np.abs(values)) / (rms + TINY))),
        float(log(np.abs(values).mean() / (rms + TINY))),
    )


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's, 0 where one of the two is constant."""
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / norm) if norm > TINY else 0.0


def features(image: np.ndarray, inside: np.ndarray, points: np.ndarray, side: float) -> np.ndarray:
    """All statistics.

    Args:
        image: RGB uint8 (H,W,3), a part of a picture around a face.
        inside: bool (H,W), the pixels of the face; at least `LEAST_PIXELS`.
        points: the landmarks in it, (5,2).
        side: pixels that the aligned crop of the face covers.

    Returns:
        (F,) float32.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    weight = inside.astype(np.float32)
    levels = [grey, *(blurred(grey, sigma) for sigma in SIGMAS)]
    bands = [fine - coarse for fine, coarse in itertools.pairwise(levels)]
    cover = blurred(weight, LOCAL) + TINY
    local = [log(np.sqrt(blurred(band**2 * weight, LOCAL) / cover)) for band in bands]
    parts = [
        _of_bands([band[inside] for band in bands]),
        _of_places([amplitude[inside] for amplitude in local]),
        _of_landmarks(local, inside, points, side),
        _of_noise(bands, local, inside),
        _of_natural_scenes(grey, inside),
        _of_rows_and_columns(grey, inside),
        _of_blocks(grey, inside),
        _of_colours(image, inside),
        _of_outliers(grey, inside),
        _of_directions(bands, inside),
    ]
    return np.concatenate(parts).astype(np.float32)


def _of_bands(bands: list[np.ndarray]) -> list[float]:
    """Energy from octave to octave, tails, and correlation of neighbouring octaves."""
    energy = [float(log(np.sqrt(np.mean(band**2)))) for band in bands]
    result = [energy[k] - energy[k + 1] for k in range(3)] + [energy[0]]
    for band in bands[:3]:
        result += moments(band)
    return result + [correlation(bands[k], bands[k + 1]) for k in range(3)]


def _of_places(local: list[np.ndarray]) -> list[float]:
    """Return the fineness of structure in places: quantiles, so that a sharp overlay on a blurred face shows."""
    structured = local[2] + local[3] >= np.percentile(local[2] + local[3], 60)
    result: list[float] = []
    for fine, coarse in ((0, 2), (1, 3), (0, 1)):
        ratio = local[fine] - local[coarse]
        result += [*np.percentile(ratio[structured], QUANTILES).tolist(), float(ratio.std())]
    return result + [correlation(local[fine], local[coarse]) for fine, coarse in ((0, 1), (0, 2), (1, 3))]


def _of_landmarks(local: list[np.ndarray], inside: np.ndarray, points: np.ndarray, side: float) -> list[float]:
    """Return the fineness of eyes, nose and mouth, which every sharp face has; neutral where they are not visible."""
    reach = max(2, round(0.06 * side))
    values: list[float] = []
    for x, y in np.rint(points).astype(int):
        window = (slice(max(0, y - reach), max(0, y + reach + 1)), slice(max(0, x - reach), max(0, x + reach + 1)))
        seen = inside[window]
        ratios = [(local[0] - local[2])[window][seen], (local[1] - local[3])[window][seen]]
        values += [float(np.percentile(ratio, 75)) if ratio.size else np.nan for ratio in ratios]
    table = np.array(values).reshape(5, 2)
    known = table[~np.isnan(table[:, 0])]
    fallback = known.mean(0) if len(known) else np.zeros(2)
    table = np.where(np.isnan(table), fallback, table)
    eyes, mouth = table[:2], table[3:]
    return [*eyes.max(0), *eyes.min(0), *table[2], *mouth.mean(0), *np.median(table, axis=0)]


def _of_noise(bands: list[np.ndarray], local: list[np.ndarray], inside: np.ndarray) -> list[float]:
    """Level and grain of what is in smooth skin."""
    smooth = inside & (local[2] <= np.percentile(local[2][inside], 35))
    fine, next_band = bands[0], bands[1]
    level = float(log(1.4826 * np.median(np.abs(fine[smooth]))))
    contrast = float(log(np.sqrt(np.mean(bands[3][inside] ** 2))))
    beside = smooth[:, 1:] & smooth[:, :-1]
    below = smooth[1:] & smooth[:-1]
    return [
        level,
        level - contrast,
        float(log(1.4826 * np.median(np.abs(next_band[smooth])))) - level,
        correlation(fine[:, 1:][beside], fine[:, :-1][beside]),
        correlation(fine[1:][below], fine[:-1][below]),
        *moments(fine[smooth]),
    ]


def _of_natural_scenes(grey: np.ndarray, inside: np.ndarray) -> list[float]:
    """Of intensities with mean and contrast taken off: spread, tails, products of neighbours."""
    mean = blurred(grey, 7 / 6)
    deviation = np.sqrt(np.maximum(blurred(grey**2, 7 / 6) - mean**2, 0))
    normal = (grey - mean) / (deviation + 1)
    result = [float(log(normal[inside].std())), *moments(normal[inside]), float(log(deviation[inside].mean()))]
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        height, width = grey.shape[0] - dy, grey.shape[1] - dx
        both = inside[dy:, dx:] & inside[:height, :width]
        result.append(correlation(normal[dy:, dx:][both], normal[:height, :width][both]))
    return result


def _of_rows_and_columns(grey: np.ndarray, inside: np.ndarray) -> list[float]:
    """Combed and repeated rows and columns: differences over two pixels against those over one, alternating signs."""
    result: list[float] = []
    for picture, mask in ((grey, inside), (grey.T, inside.T)):
        one = (picture[1:] - picture[:-1])[:-1]
        two, within = picture[2:] - picture[:-2], mask[2:] & mask[1:-1] & mask[:-2]
        bend = two - 2 * one
        turns = bend[1:] * bend[:-1]
        both = within[1:] & within[:-1]
        single = np.abs(one[within]).mean()
        result += [
            float(log(np.abs(two[within]).mean()) - log(single)),
            float((turns[both] < 0).mean()),
            correlation(bend[1:][both], bend[:-1][both]),
            correlation(one[within], (two - one)[within]),
            float((np.abs(one[within]) < 0.5).mean()),
            float(log(np.abs(bend[within]).mean())),
        ]
    return result + [result[k] - result[k + 6] for k in (0, 1, 2, 3, 5)]


def _of_blocks(grey: np.ndarray, inside: np.ndarray) -> list[float]:
    """Return steps that come back in regular distances, along both axes: 8 pixels, and whatever period is strongest."""
    result: list[float] = []
    for picture, mask in ((grey, inside), (grey.T, inside.T)):
        within = mask[:, 3:] & mask[:, :-3]
        step = np.abs(picture[:, 2:-1] - picture[:, 1:-2])
        around = (np.abs(picture[:, 1:-2] - picture[:, :-3]) + np.abs(picture[:, 3:] - picture[:, 2:-1])) / 2
        excess = np.where(within, np.clip(step - around, -8, 8), 0)
        count = within.sum(0)
        profile = excess.sum(0)[count > 0] / (count[count > 0] + 4)
        result += [*_grid(profile, 8), _period(profile)]
    return result


def _grid(profile: np.ndarray, period: int) -> tuple[float, float]:
    """Return how far the strongest offset of a grid stands out: in spreads of the others, and in levels."""
    if len(profile) < 3 * period:
        return 0.0, 0.0
    rows = profile[: len(profile) // period * period].reshape(-1, period)
    means = np.sort(np.median(rows, axis=0))
    rest = means[:-2]
    return float(log((means[-1] - rest.mean()) / (rest.std() + 0.05))), float(log(means[-1] - rest.mean()))


def _period(profile: np.ndarray) -> float:
    """Return the strongest period in a profile: its share of the variation that is not slow."""
    if len(profile) < 2 * PERIODS[1]:
        return 0.0
    power = np.abs(np.fft.rfft((profile - profile.mean()) * np.hanning(len(profile)), 512)) ** 2
    frequency = np.fft.rfftfreq(512)
    likely = (frequency > 1 / PERIODS[1]) & (frequency < 1 / PERIODS[0])
    fast = frequency > 1 / PERIODS[1]
    return float(log(power[likely].max() / (power[fast].mean() + TINY)))


def _of_colours(image: np.ndarray, inside: np.ndarray) -> list[float]:
    """Few colours, few levels, and neighbours that are the same to the last bit."""
    packed = image.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    values = packed[inside]
    number = len(np.unique(values))
    beside = inside[:, 1:] & inside[:, :-1]
    below = inside[1:] & inside[:-1]
    flat_x, flat_y = (packed[:, 1:] == packed[:, :-1])[beside].mean(), (packed[1:] == packed[:-1])[below].mean()
    green = image[..., 1][inside]
    span = float(np.ptp(np.percentile(green, (2, 98)))) + 1
    return [
        float(log(number)),
        float(log(number / len(values))),
        float(log(np.count_nonzero(np.bincount(green)) / span)),
        float(flat_x),
        float(flat_y),
        float(log(flat_x + flat_y)),
    ]


def _of_outliers(grey: np.ndarray, inside: np.ndarray) -> list[float]:
    """Single pixels and thin lines that a median takes away."""
    result: list[float] = []
    for size in (3, 5):
        rest = np.abs(grey - cv2.medianBlur(grey, size))[inside]
        high, middle = np.percentile(rest, (99, 75))
        result += [float(log(rest.mean())), float(log(high) - log(middle)), float((rest > 25).mean())]
    return result


def _of_directions(bands: list[np.ndarray], inside: np.ndarray) -> list[float]:
    """Return the eigenvalues of a band's mean structure tensor: how evenly it changes in all directions."""
    result: list[float] = []
    for band in bands[:3]:
        changes = np.stack([change[inside] for change in np.gradient(band)])
        tensor = changes @ changes.T / changes.shape[1]
        least, most = np.linalg.eigvalsh(tensor)
        result += [float(log(np.sqrt(max(least, 0) / max(most, 1e-6)))), float(log(tensor[0, 0]) - log(tensor[1, 1]))]
    return result
