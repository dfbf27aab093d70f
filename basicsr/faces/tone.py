"""Tones and colours of a face: brought to what networks know before restoration, and back to the picture's after it.

All scales are parts of the face's side, so that they are the same for a network of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Of 600 clean and damaged faces 99 % spread their luma over 105 levels or more.
SPREAD, MIDDLE, MOST_GAIN = 110.0, 128.0, 8.0
SEEN = 64  # pixels a side at which the spread is measured, so that noise does not count
EXTREMES = (2, 98)  # percentiles between which luma spreads


@dataclass(frozen=True)
class Tone:
    """An affine map of levels that gives underexposed and faded faces the contrast that networks were trained with.

    A network draws patterns of its own where an input is dark or flat: a level of error is much there.

    Attributes:
        gain: 1 for a face of usual contrast, which stays as it is, bit for bit; else more.
        centre, target: a level, and the level that it is mapped to.
    """

    gain: float = 1.0
    centre: float = 0.0
    target: float = 0.0

    @classmethod
    def of(cls, face: np.ndarray) -> Tone:
        """Return the map for an aligned face, RGB uint8 (n,n,3)."""
        side = face.shape[0]
        middle = slice(side // 8, side - side // 8)
        small = cv2.resize(face[middle, middle], (SEEN, SEEN), interpolation=cv2.INTER_AREA)
        low, high = np.percentile(small @ LUMA, EXTREMES)
        spread = max(float(high - low), SPREAD / MOST_GAIN)
        if spread >= SPREAD:
            return cls()
        centre = float(high + low) / 2
        return cls(SPREAD / spread, centre, centre + (1 - spread / SPREAD) * (MIDDLE - centre))

    @property
    def is_usual(self) -> bool:
        """Nothing is changed."""
        return self.gain == 1

    def apply(self, face: np.ndarray) -> np.ndarray:
        """RGB uint8 (n,n,3) to float32 levels of the usual contrast, within 0 to 255."""
        return self._map(face).clip(0, 255)

    def undo(self, restored: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Return the restoration of `apply(face)`, float32 levels, with the contrast of `face`.

        What did not fit into 0 to 255, such as a bright background of a dark face, is added again.
        """
        beyond = self._map(face) - self.apply(face)
        return (restored + beyond - self.target) / self.gain + self.centre

    def _map(self, face: np.ndarray) -> np.ndarray:
        return (face.astype(np.float32) - self.centre) * self.gain + self.target


# Scales of the colour fix, parts of the face's side; an iris is 0.046 wide.
COARSE, FINE_LUMA, FINE_CHROMA = 1 / 24, 0.02, 0.012
CHROMA_BLUR = 0.008  # of damage beyond that of luma: JPEG and video halve the resolution of colours
RECOLOUR_BLUR = 0.012  # of colours that are taken over, a part of the side
LOCAL = 0.02  # where differences are told from noise
STEPS = 4  # of back-projection
BLURS = (0.0, 0.004, 0.008, 0.012, 0.016, 0.024, 0.032, 0.045)  # of damage that are tried
COMPARED = 128  # pixels a side at which larger faces are compared; no scale above needs more
STEADY = 1 / 64  # blur under which contrasts are compared, so that noise does not count
GAINS = (0.3, 1.25)
RIM, EDGE = 0.03, 25.0  # reach of overshoot; levels across a strong edge
FEATURES = (0.5, 0.6, 0.24, 0.26)  # centre and radii of eyes, nose and mouth, parts of the side


def fix_colour(restored: np.ndarray, original: np.ndarray) -> np.ndarray:
    """`restored` with the contrast and colours of `original`, as far as they survived its damage.

    The restoration, blurred as the input is, is to be the input (back-projection; Irani and Peleg, 1991): with all low
    frequencies, as in StableSR (2023), and with finer ones where the difference stands out from its median over the
    face, which is noise. So what is sharper than the input leaves no rims, and eyes keep their colour. Contrasts are
    matched first. What overshoots beside strong edges is taken back.

    Args:
        restored: RGB levels (n,n,3), from 0 to 255.
        original: the input, of the same size.

    Returns:
        float32 (n,n,3), not clipped.
    """
    luma, chroma = _split(_small(restored))
    luma_in, chroma_in = _split(_small(original))
    blur, gain = _compare(luma[..., 0], luma_in[..., 0])
    middle = float(luma.mean())
    luma = (luma - middle) * gain + middle
    change = _projected(luma, luma_in, blur, FINE_LUMA) - luma
    change = change + _projected(chroma, chroma_in, float(np.hypot(blur, CHROMA_BLUR)), FINE_CHROMA) - chroma
    luma, chroma = _split(restored)
    change = cv2.resize(change, restored.shape[:2], interpolation=cv2.INTER_CUBIC)
    fixed = (luma - middle) * gain + middle + chroma + change
    return fixed - _rims(fixed @ LUMA, luma_in[..., 0])[..., None]


def recolour(coloured: np.ndarray, original: np.ndarray) -> np.ndarray:
    """`original` in the colours of another picture of the face, whose detail may be another person's.

    Args:
        coloured: RGB levels (n,n,3), from 0 to 255.
        original: of the same size; its luma stays.

    Returns:
        float32 (n,n,3), not clipped.
    """
    luma, chroma = _split(original)[0], _split(coloured)[1]
    return luma + cv2.GaussianBlur(chroma, (0, 0), RECOLOUR_BLUR * len(chroma))


def _rims(luma: np.ndarray, luma_in: np.ndarray) -> np.ndarray:
    """Return what is lighter or darker than the input around it, beside strong edges outside the features, (n,n).

    Networks draw edges of hair and jaw with overshoot; lights in eyes and on teeth may be finer than in the input.

    Args:
        luma: of the restoration, (n,n).
        luma_in: of the input, (m,m).
    """
    side = len(luma_in)
    reach = 2 * round(RIM * side) + 1
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    highest, lowest = cv2.dilate(luma_in, window), cv2.erode(luma_in, window)
    x, y = np.meshgrid(*[(np.arange(side, dtype=np.float32) + 0.5) / side] * 2)
    middle_x, middle_y, width, height = FEATURES
    outside = ((np.hypot((x - middle_x) / width, (y - middle_y) / height) - 0.85) / 0.3).clip(0, 1)
    weight = outside * ((highest - lowest - EDGE) / EDGE).clip(0, 1)
    highest, lowest, weight = (cv2.resize(each, luma.shape) for each in (highest, lowest, weight))
    return weight * (luma - luma.clip(lowest, highest))


def _small(image: np.ndarray) -> np.ndarray:
    side = min(len(image), COMPARED)
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def _projected(image: np.ndarray, target: np.ndarray, blur: float, finest: float) -> np.ndarray:
    """Return an image (n,n,C) that, blurred, is nearer to a target.

    Args:
        image, target: float32.
        blur: of the target, as a part of the side.
        finest: scale of the finest changes, likewise.
    """
    side = len(image)
    for _ in range(STEPS):
        missing = target - _blurred(image, blur * side)
        coarse = _blurred(missing, COARSE * side)
        fine = _blurred(missing, finest * side) - coarse
        energy = _blurred((fine**2).sum(2), LOCAL * side) + 1e-6
        image = image + coarse + fine * np.clip(1 - np.median(energy) / energy, 0, 1)[..., None]
    return image


def _split(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luma (n,n,1), and what the channels have beyond it (n,n,3)."""
    image = image.astype(np.float32)
    luma = (image @ LUMA)[..., None]
    return luma, image - luma


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape) if sigma > 0 else image


def _compare(restored: np.ndarray, original: np.ndarray) -> tuple[float, float]:
    """Return the blur of `original` relative to `restored`, as a part of the side, and the ratio of their contrasts.

    Args:
        restored, original: luma (n,n).
    """
    side = len(restored)
    middle = slice(side // 8, side - side // 8)

    def changes(luma: np.ndarray, blur: float) -> np.ndarray:
        rows, columns = np.gradient(_blurred(luma, np.hypot(blur, BLURS[1]) * side))
        change = np.stack([rows, columns])[:, middle, middle].ravel()
        return change / max(float(np.linalg.norm(change)), 1e-6)

    target = changes(original, 0)
    blur = max(BLURS, key=lambda tried: float(changes(restored, tried) @ target))
    levels = [
        float(_blurred(luma, np.hypot(own, STEADY) * side)[middle, middle].std())
        for luma, own in ((restored, blur), (original, 0))
    ]
    return blur, float(np.clip(levels[1] / max(levels[0], 1e-3), *GAINS))
