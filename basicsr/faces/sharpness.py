"""Sharpness and damage of faces: whether one is sharper already than a network of a given size could make it.

A network that works at `size` pixels returns nothing finer than half a wave per crop pixel. A face loses by it when it
has finer detail than that, and no damage. Two classifiers must agree. The first goes by statistics of the pixels inside
the face (`basicsr.faces.damage_features`), taken twice: in the pixels of the picture, where blocks, few colours and
rows are as they came about, and reduced to `LOOK` times the network's size, where blur is seen in the measure of what
the network makes. The second, a small convolutional network (`basicsr.faces.overlay_net`), looks for what lies on a
sharp face and leaves its detail: letters, dust, scratches, stickers. `experiments/face_damage` trains both and has the
table.
"""

from __future__ import annotations

import functools
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from basicsr.faces.damage_features import LEAST_PIXELS, features
from basicsr.faces.geometry import covering_rectangle, crop_side, ellipse_distance
from basicsr.faces.overlay_net import STRIDE, OverlayNet
from basicsr.utils.templates import ffhq_template

WEIGHTS = Path(__file__).with_name('sharpness.safetensors')
LOOK = 1.5  # times the network's size: in a larger face, blur is looked for at this size
LARGEST_LOOK, LARGEST_VIEW = 512, 320  # pixels of the crop: a larger face is reduced to it, for statistics and network
LEAST_SIZE = 0.75  # smaller faces, in that measure, look better restored even where they are sharp
LEAST_PROBABILITY = 0.5  # that a face is sharp and undamaged, by its statistics: below it, it is restored
OVERLAY_WEIGHTS = Path(__file__).with_name('overlays.safetensors')
# Probability that nothing lies on a sharp face, from each side of its crop on: below it, it is restored. In a small
# face little tells specks from eyes, and the network is seldom sure.
CLEAN_SIDES = (0, 64, 80, 96, 128, 192, 384)
LEAST_CLEAN = (0.0, 0.0006, 0.0009, 0.07, 0.87, 0.0034, 0.87)
REACH, VIEW_REACH = 0.36, 0.4  # of the crop's side, around the middle of the face: what is cut out
MARGIN = 3  # pixels around the face in a view, at least


def look_at(
    image: np.ndarray, landmarks: np.ndarray, size: int, others: Sequence[np.ndarray] = ()
) -> np.ndarray | None:
    """Statistics of a face in its picture, (2F+3,) float32; None where too little of it is to be seen.

    Args:
        image: RGB uint8 (H,W,3).
        landmarks: (5,2).
        size: side at which the network works.
        others: landmarks of the other faces; what belongs to them is not looked at.
    """
    side = crop_side(landmarks)
    native, reduced = min(side, LARGEST_LOOK), min(side, LARGEST_LOOK, LOOK * size)
    first = _features_at(image, landmarks, native / side, others)
    second = first if reduced == native else _features_at(image, landmarks, reduced / side, others)
    if first is None or second is None:
        return None
    return np.concatenate([first, second, np.log([native, reduced, native / reduced])]).astype(np.float32)


def _features_at(
    image: np.ndarray, landmarks: np.ndarray, factor: float, others: Sequence[np.ndarray]
) -> np.ndarray | None:
    """Return the statistics in the picture reduced by `factor`."""
    cut = _cut(image, landmarks, factor, others, REACH)
    return features(*cut, crop_side(landmarks) * factor) if cut else None


def _cut(
    image: np.ndarray, landmarks: np.ndarray, factor: float, others: Sequence[np.ndarray], reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the part of the picture around a face, reduced by `factor`, the mask of the face, and its landmarks."""
    side = crop_side(landmarks)
    middle = ((landmarks[0] + landmarks[1]) / 2 + landmarks[3:].mean(0)) / 2
    corners = np.array([[-1, -1], [1, 1]]) * reach * side + middle
    left, top, right, bottom = covering_rectangle(corners, image.shape[1], image.shape[0])
    part = image[top:bottom, left:right]
    if min(part.shape[:2]) < 8:
        return None
    ratio = np.ones(2)
    if factor < 1:
        width, height = (max(8, round(length * factor)) for length in part.shape[1::-1])
        ratio = np.array([width, height]) / part.shape[1::-1]
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    moved, *beside = ((points - (left, top) + 0.5) * ratio - 0.5 for points in (landmarks, *others))
    distance = ellipse_distance(moved, *part.shape[1::-1])
    inside = distance <= 1
    for points in beside:
        inside &= ellipse_distance(points, *part.shape[1::-1]) > distance
    return (part, inside, moved) if inside.sum() >= LEAST_PIXELS else None


@dataclass(frozen=True)
class Views:
    """A face as the network of overlays sees it.

    Attributes:
        native: RGB and mask, uint8 (H,W,4), in the pixels of the picture; H and W are multiples of `STRIDE`.
        reduced: likewise, of the reduced face; None where it is the same.
        log_ratio: natural logarithm of the size of the first over that of the second, 0 and more.
    """

    native: np.ndarray
    reduced: np.ndarray | None
    log_ratio: float


def views_of(image: np.ndarray, landmarks: np.ndarray, size: int, others: Sequence[np.ndarray] = ()) -> Views | None:
    """Return the views of a face in its picture; None where too little of it is to be seen.

    The arguments are those of `look_at`.
    """
    side = crop_side(landmarks)
    native, reduced = min(side, LARGEST_VIEW), min(side, LARGEST_VIEW, LOOK * size)
    first = _cut(image, landmarks, native / side, others, VIEW_REACH)
    second = first if reduced == native else _cut(image, landmarks, reduced / side, others, VIEW_REACH)
    if first is None or second is None:
        return None
    smaller = None if second is first else _framed(*second[:2])
    return Views(_framed(*first[:2]), smaller, float(np.log(native / reduced)))


def _framed(part: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the view (H,W,4) of a face in a part of a picture; where the part ends, it is reflected."""
    view = np.dstack([part, inside.astype(np.uint8)])
    spans = []
    for axis, length in ((1, view.shape[0]), (0, view.shape[1])):
        held = np.flatnonzero(view[..., 3].any(axis))
        first, last = int(held[0]), int(held[-1]) + 1
        wanted = -(-(last - first + 2 * MARGIN) // STRIDE) * STRIDE
        start = (first + last - wanted) // 2
        spans.append((max(start, 0), min(start + wanted, length), max(-start, 0), max(start + wanted - length, 0)))
    (top, bottom, above, below), (left, right, before, after) = spans
    cut = np.ascontiguousarray(view[top:bottom, left:right])
    framed = cv2.copyMakeBorder(cut, above, below, before, after, cv2.BORDER_REFLECT)
    framed[:above, :, 3] = framed[framed.shape[0] - below :, :, 3] = 0
    framed[:, :before, 3] = framed[:, framed.shape[1] - after :, 3] = 0
    return framed


@dataclass(frozen=True)
class Classifier:
    """A multilayer perceptron with one hidden layer (tanh), on standardized statistics.

    Attributes:
        mean: of the statistics, (F,).
        scale: what they are divided by, (F,).
        hidden: weights (H,F).
        hidden_bias: (H,).
        output: weights (H,).
        bias: of the output.
    """

    mean: np.ndarray
    scale: np.ndarray
    hidden: np.ndarray
    hidden_bias: np.ndarray
    output: np.ndarray
    bias: float

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Classifier:
        """From a safetensors file."""
        state = load_file(path)
        return cls(**{key: value for key, value in state.items() if key != 'bias'}, bias=float(state['bias'][0]))

    def __call__(self, statistics: np.ndarray) -> np.ndarray:
        """Statistics (...,F) to the probability that a face is sharp and undamaged, (...)."""
        standard = np.clip((statistics - self.mean) / self.scale, -5, 5)
        value = np.tanh(standard @ self.hidden.T + self.hidden_bias) @ self.output + self.bias
        return 1 / (1 + np.exp(-value))


@functools.cache
def classifier() -> Classifier:
    """Return the one that comes with the package."""
    return Classifier.load()


@functools.cache
def overlay_network() -> OverlayNet:
    """Return the one that comes with the package."""
    network = OverlayNet()
    network.load_state_dict({key: value.float() for key, value in load_tensors(OVERLAY_WEIGHTS).items()})
    return network.eval()


def to_network(views: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the picture in [-1,1], (B,3,H,W), and the mask, (B,1,H,W), of views (B,H,W,4)."""
    values = torch.from_numpy(np.ascontiguousarray(views.transpose(0, 3, 1, 2))).float()
    return values[:, :3] / 127.5 - 1, (values[:, 3:] > 0).float()


@torch.inference_mode()
@torch.autocast('cpu', enabled=False)
def clean_probability(network: OverlayNet, faces: Sequence[Views]) -> np.ndarray:
    """Return the probability that nothing lies on each of some faces whose views have the same shape, (N,)."""
    native, _ = network.pool(*to_network(np.stack([face.native for face in faces])))
    reduced = [face.reduced for face in faces if face.reduced is not None]
    pooled, _ = network.pool(*to_network(np.stack(reduced))) if reduced else (native, None)
    log_ratio = torch.from_numpy(np.array([[face.log_ratio] for face in faces], np.float32))
    return torch.sigmoid(network(native, pooled, log_ratio)).numpy()


def least_clean(side: float) -> float:
    """Return the probability of the network from which on a face whose crop covers `side` pixels is left alone."""
    return LEAST_CLEAN[bisect(CLEAN_SIDES, side) - 1]


def is_sharper_than(
    image: np.ndarray, size: int, landmarks: np.ndarray | None = None, others: Sequence[np.ndarray] = ()
) -> bool:
    """Return True if a face is undamaged, and sharper than the results of a network of `size` pixels.

    Args:
        image: RGB uint8 (H,W,3), a picture as it came.
        size: side at which the network works.
        landmarks: of the face, (5,2); by default the picture is square and the aligned face itself.
        others: landmarks of the other faces in the picture.
    """
    points = ffhq_template(image.shape[0]) if landmarks is None else landmarks
    if round(crop_side(points)) < LEAST_SIZE * size:
        return False
    statistics = look_at(image, points, size, others)
    if statistics is None or classifier()(statistics) < LEAST_PROBABILITY:
        return False
    views = views_of(image, points, size, others)
    if views is None:
        return False
    return bool(clean_probability(overlay_network(), [views])[0] >= least_clean(crop_side(points)))


@dataclass(frozen=True)
class Sharpness:
    """Of an aligned face, beyond a limit.

    Attributes:
        detail: amplitude beyond the limit without its noise, over that of the octave two below the limit; 0 and more.
        coherence: correlation of the local amplitudes beyond the limit and of the octave below it; -1 to 1.
    """

    detail: float
    coherence: float


def measure_sharpness(face: np.ndarray, size: int) -> Sharpness:
    """Measure the detail of `face` beyond what `size` pixels can hold.

    Args:
        face: RGB uint8 (n,n,3), aligned, n > `size`.
        size: at least 16.
    """
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    side = grey.shape[0]

    def held_by(pixels: int) -> np.ndarray:
        small = cv2.resize(grey, (pixels, pixels), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)

    middle = slice(side // 8, side - side // 8)
    limit, octave, two_octaves = held_by(size), held_by(size // 2), held_by(size // 4)
    beyond, below, base = ((a - b)[middle, middle] for a, b in ((grey, limit), (limit, octave), (octave, two_octaves)))
    noise = 1.4826 * float(np.median(np.abs(beyond)))
    detail = np.sqrt(max(0.0, float(np.mean(beyond**2)) - noise**2) / max(float(np.mean(base**2)), 1e-6))
    spread = 1.5 * side / size
    fine, coarse = (np.sqrt(cv2.GaussianBlur(band**2, (0, 0), spread)).ravel() for band in (beyond, below))
    flat = min(fine.std(), coarse.std()) < 1e-6
    return Sharpness(float(detail), 0.0 if flat else float(np.corrcoef(fine, coarse)[0, 1]))
