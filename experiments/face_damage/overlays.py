"""What lies on a picture: dust, scratches, letters, stickers, a mesh, colour noise."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.face_damage.damages import Damage, Rng, clip, jpeg, log_uniform

WORDS = ('SAMPLE', 'PROOF', 'Kodak', '12.04.98', 'copyright', 'DRAFT', '@photo', 'PREVIEW', 'IMG_2041', 'studio')
FONTS = (0, 1, 2, 3, 4, 5, 6, 7)


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
    hit = rng.random(image.shape[:2]) < log_uniform(rng, 0.003, 0.06)
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
    scale = float(log_uniform(rng, 0.25, 1.6)) * max(height, 160) / 320
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
    return clip(base * (1 - layer) + colour * layer)


def watermark(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Lay a word on the picture over and over."""
    base, layer = image.astype(np.float32), _letters(image, rng, (0, 1), True)
    layer = layer * rng.uniform(0.25, 1)
    return clip(base * (1 - layer) + (255 if rng.random() < 0.75 else 0) * layer)


def mesh(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Behind a grid of lines or a hatching."""
    base, (height, width) = image.astype(np.float32), image.shape[:2]
    y, x = np.mgrid[:height, :width]
    turn, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
    lines = (x * np.cos(turn) + y * np.sin(turn)) % period < rng.uniform(1, 2.5)
    if rng.random() < 0.5:
        lines |= (y * np.cos(turn) - x * np.sin(turn)) % period < rng.uniform(1, 2.5)
    layer = lines[..., None] * rng.uniform(0.3, 1)
    return clip(base * (1 - layer) + rng.choice([0, 255]) * layer)


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


def colour_noise(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
    """Grain in the colours, of one or several pixels, and by chance a little in the brightness."""
    space = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    grain = rng.normal(0, 1, space.shape)
    if rng.random() < 0.7:
        grain = cv2.GaussianBlur(grain, (0, 0), log_uniform(rng, 0.5, 3))
    grain *= np.array([rng.uniform(0, 0.25), 1, 1]) / grain.std() * log_uniform(rng, 7, 35)
    return cv2.cvtColor(clip(space + grain), cv2.COLOR_YCrCb2RGB)


def laid(overlay: Damage) -> Damage:
    """Return the damage of an overlay, by chance with softer edges, seen through, or saved again."""

    def damage(image: np.ndarray, unit: float, rng: Rng) -> np.ndarray:
        layer = overlay(image, unit, rng).astype(np.float32) - image
        if rng.random() < 0.35:
            layer = cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.4, 1.2))
        result = clip(image + layer * (rng.uniform(0.55, 1) if rng.random() < 0.35 else 1))
        return jpeg(result, int(rng.integers(75, 97))) if rng.random() < 0.35 else result

    return damage
