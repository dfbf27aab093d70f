"""Finding faces: one Protocol, detectors by name, and what all of them share (picture sizes, doubles, thresholds)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from basicsr.faces.backends import InsightFaceFinder, TinyFinder, YuNetFinder
from basicsr.faces.face import Face
from basicsr.faces.geometry import apply_affine, compose, ellipse_distance
from basicsr.faces.second_look import CONTEXT, SecondLook, moved_box
from basicsr.utils.folders import weights_folder
from basicsr.utils.image import resized
from basicsr.utils.numerics import check_finite
from basicsr.utils.registry import nearest

DEFAULT_DETECTOR = 'tiny'
# Each name: the weights below the weights folder, and the group of the download script that fetches them.
DETECTORS = {
    'tiny': ('', ''),
    'retinaface_mobile0.25': ('facelib/detection_mobilenet0.25_Final.pth', 'facelib'),
    'retinaface_resnet50': ('facelib/detection_Resnet50_Final.pth', 'facelib'),
    'yunet': ('facelib/face_detection_yunet_2023mar.onnx', 'yunet'),
    'insightface': ('insightface/models/buffalo_l', ''),
}
MIN_SCORE = 0.7  # of faces that are kept,
OTHER_MIN_SCORES = {'insightface': 0.5}  # and of detectors with another scale
LONG_SIDES = (480, 1600)  # a picture is looked at with its long side brought to these: close-ups, then groups
MOST_PIXELS = 1.6e6  # of the second of them, if that is more
NEARLY = 1.25  # a picture at most this many times the first of them is looked at once
# A strip longer than this many short sides is looked at in windows of so many, which overlap by one.
STRIP = 2.5
LEAST_WINDOW = 480  # pixels
UPSIDE_DOWN = (
    0.5  # of the largest of these sizes: in it, the picture is looked at upside down, for a quarter of the time
)
TURNED_SIDE = 800  # pixels of the long side of a picture without faces that is looked at turned in every way
CLOSE_UP = 64  # pixels in the first look: a face that is larger there, and was not seen, is doubtful
MOSTLY = 0.7  # a face with more than this part of its box inside a larger face is none
OVERLAP = 0.4  # two boxes that share more than this (intersection over union) are the same face
LARGEST_STRIDE = 32  # pixels from one anchor to the next where they are farthest apart
HINT = 0.45  # score below which nothing is worth a second look
MOST_HINTS = 8  # that are looked at, those with the best scores


class FaceDetector(Protocol):
    """Anything that finds faces."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in an RGB uint8 (H,W,3) picture, the largest first."""
        ...


class ScaledDetector:
    """A detection network, given pictures in sizes that suit it.

    Networks see upright faces of some 16 to 500 pixels. So a small picture is enlarged, and a large one is looked at
    twice, small for its close-ups and larger for its groups; a strip, window after window. What is found twice is kept
    once. What is doubtful (turned, of low score, landmarks unlike a face's, a close-up that the first look has not
    seen) is looked at again by itself, in all directions. Faces that are upside down are often not seen at all: the
    picture is looked at in that way, too, and in every way if it is without faces. A face within or upon a larger or
    surer one is a mouth or an eye taken for one, and is dropped.

    Args:
        find: RGB uint8 (H,W,3) to rows of box (4), score, landmarks (10), float (N,15).
        min_score: faces of a smaller score are dropped.
        min_eye_distance: in pixels of the picture; smaller faces are dropped.
        sure_score: upright faces reach it, and turned ones seldom do; faces of a smaller score are looked at again.
    """

    def __init__(
        self,
        find: Callable[[np.ndarray], np.ndarray],
        min_score: float = MIN_SCORE,
        min_eye_distance: float = 5,
        sure_score: float = 0,
    ) -> None:
        self.find = find
        self.min_score = min_score
        self.min_eye_distance = min_eye_distance
        self.second_look = SecondLook(find, min_score, sure_score)

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in an RGB uint8 (H,W,3) picture, the largest first."""
        sure, doubtful = self._look_over(image)
        upside_down = self._look_turned(image, (2,), lambda width, height: UPSIDE_DOWN * factors(width, height)[-1])
        faces = distinct([*sure, *self._settled(image, [*doubtful, *upside_down], sure)])
        if not any(face.consistent for face in faces):
            turned = self._look_turned(image, (1, 2, 3), lambda width, height: TURNED_SIDE / max(width, height))
            faces = distinct([*self._settled(image, turned, []), *faces])
        faces = [face for face in faces if face.eye_distance >= self.min_eye_distance]
        return sorted(faces, key=lambda face: -face.eye_distance)

    def follow(self, image: np.ndarray, expected: Face) -> Face | None:
        """Return a face of a clip near where it is expected; None where only `detect` can tell.

        A window around the place is looked at, at the scale at which the face was found and on the same grid of
        anchors, so that its landmarks are those of a look at the whole picture: a window that lies otherwise moves them
        by up to a twentieth of the eye distance. The time depends on the size of the face, not on that of the picture.
        """
        if not expected.scale:
            return self.second_look.follow(image, expected)
        size = np.max(expected.box[2:] - expected.box[:2]) * CONTEXT
        middle, grid = (expected.box[:2] + expected.box[2:]) / 2, LARGEST_STRIDE / expected.scale
        left, top = np.rint(np.maximum(np.floor((middle - size / 2) / grid), 0) * grid).astype(int)
        right, bottom = np.rint(np.ceil((middle + size / 2) / grid) * grid).astype(int)
        part = image[top : max(bottom, 0), left : max(right, 0)]
        rows = self._find_at(part, expected.scale) if part.size else np.empty((0, 15))
        found = [_shifted(_face(row, expected.scale), left, top) for row in rows if row[4] >= self.min_score]
        face = max((face for face in found if self.second_look.is_near(expected, face)), key=_score, default=None)
        return None if face is None or self.second_look.is_doubtful(face) else face

    def _look_over(self, image: np.ndarray) -> tuple[list[Face], list[tuple[Face, bool]]]:
        """Return the faces of all windows that are beyond doubt, and the others, the best scores first.

        Beside each of the others is whether it is a mere hint, which counts where a second look confirms it.
        """
        sure: list[Face] = []
        doubtful: list[tuple[Face, bool]] = []
        for left, top, right, bottom in windows(image.shape[1], image.shape[0]):
            for face, unseen in self._look_at(image[top:bottom, left:right]):
                moved = _shifted(face, left, top)
                if unseen or self.second_look.is_doubtful(face):
                    doubtful.append((moved, unseen or face.score < self.min_score))
                else:
                    sure.append(moved)
        return distinct(sure), sorted(doubtful, key=lambda pair: -pair[0].score)

    def _look_at(self, image: np.ndarray) -> Iterator[tuple[Face, bool]]:
        """Yield the faces of a window, and whether the first look should have found them and did not."""
        sizes = factors(image.shape[1], image.shape[0])
        looks = [self._find_at(image, factor) for factor in sizes]
        rows = np.concatenate(looks)
        boxes = [(x, y, right - x, bottom - y) for x, y, right, bottom in rows[:, :4].tolist()]
        kept = cv2.dnn.NMSBoxes(boxes, rows[:, 4].tolist(), min(HINT, self.min_score), OVERLAP) if boxes else []
        seen = looks[0][looks[0][:, 4] >= self.min_score]
        for place in np.asarray(kept, int):
            row, scale = rows[place], sizes[int(place >= len(looks[0]))]
            large = sizes[0] * np.max(row[2:4] - row[:2]) > CLOSE_UP
            yield _face(row, scale), bool(large and not (_overlaps(row, seen) > OVERLAP).any())

    def _settled(self, image: np.ndarray, doubtful: Sequence[tuple[Face, bool]], sure: Sequence[Face]) -> list[Face]:
        """Yield the results of a second look at doubtful faces apart from the others, and at a few hints."""
        settled: list[Face] = []
        hints = 0
        for face, hint in doubtful:
            hints += hint
            if (hint and hints > MOST_HINTS) or any(_are_one(face, other) for other in [*sure, *settled]):
                continue
            again = self.second_look(image, face)
            if again is not None and again.consistent:
                settled.append(again)
            elif not hint:
                settled.append(replace(again or face, consistent=False))
        return settled

    def _look_turned(
        self, image: np.ndarray, turns: Sequence[int], factor_of: Callable[[int, int], float]
    ) -> list[tuple[Face, bool]]:
        """Hints from the picture turned by so many quarters and resized, the best scores first."""
        faces: list[Face] = []
        for left, top, right, bottom in windows(image.shape[1], image.shape[0]):
            part = image[top:bottom, left:right]
            factor = factor_of(part.shape[1], part.shape[0])
            width, height = (max(16, round(length * factor)) for length in part.shape[1::-1])
            small = resized(part, width, height)
            x, y = part.shape[1] / width, part.shape[0] / height
            place = np.array([[x, 0, left + (x - 1) / 2], [0, y, top + (y - 1) / 2]])
            for quarters in turns:
                rows = np.asarray(self.find(np.ascontiguousarray(np.rot90(small, -quarters))), np.float64)
                back = compose(place, _turned_back(quarters, width, height))
                faces += [_moved(_face(row), back) for row in rows.reshape(-1, 15) if row[4] >= self.min_score]
        return [(face, True) for face in sorted(faces, key=lambda face: -face.score)]

    def _find_at(self, image: np.ndarray, factor: float) -> np.ndarray:
        """Rows of what is found in the picture resized by `factor`, in pixels of the picture as it is."""
        width, height = (max(16, round(side * factor)) for side in (image.shape[1], image.shape[0]))
        rows = np.asarray(self.find(resized(image, width, height)), np.float64).reshape(-1, 15)
        check_finite(rows, 'the face detector')
        ratio = np.array([image.shape[1] / width, image.shape[0] / height])
        rows[:, :4] = (rows[:, :4] + 0.5) * np.tile(ratio, 2) - 0.5
        rows[:, 5:] = (rows[:, 5:] + 0.5) * np.tile(ratio, 5) - 0.5
        return rows[rows[:, 4] >= min(HINT, self.min_score)]


def factors(width: int, height: int) -> list[float]:
    """By how much a picture of that size is resized for each look."""
    long_side, (near, far) = max(width, height), LONG_SIDES
    if long_side <= NEARLY * near:
        return [near / long_side]
    return [near / long_side, min(1.0, max(far / long_side, float(np.sqrt(MOST_PIXELS / (height * width)))))]


def windows(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Return the picture, or what covers a strip: left, top, right and bottom, the last two excluded."""
    long_side, short_side = max(width, height), min(width, height)
    length = max(round(STRIP * short_side), LEAST_WINDOW)
    if long_side <= length:
        return [(0, 0, width, height)]
    count = 1 + -(-(long_side - length) // max(1, length - short_side))
    starts = np.linspace(0, long_side - length, count).round().astype(int).tolist()
    if width > height:
        return [(start, 0, start + length, height) for start in starts]
    return [(0, start, width, start + length) for start in starts]


def distinct(faces: Sequence[Face]) -> list[Face]:
    """Faces, the surest first, without those that are parts or doubles of others."""
    order = sorted(faces, key=lambda face: (not face.consistent, -face.score))
    largest = [face for face in order if not any(_lies_within(face, other) for other in order if other.consistent)]
    kept: list[Face] = []
    for face in largest:
        if not any(_are_one(face, other) for other in kept):
            kept.append(face)
    return kept


def _are_one(face: Face, other: Face) -> bool:
    """Return True if two boxes agree, or the landmarks of one are centred within the ellipse of the other."""
    if _overlaps(face.box, other.box[None])[0] > OVERLAP:
        return True
    return any(_contains(one, two.landmarks.mean(0)) for one, two in ((face, other), (other, face)))


def _contains(face: Face, point: np.ndarray) -> bool:
    matrix = np.array([[1.0, 0, -point[0]], [0, 1.0, -point[1]]])
    return bool(ellipse_distance(face.landmarks, 1, 1, matrix)[0, 0] < 1)


def _face(row: np.ndarray, scale: float = 0) -> Face:
    return Face(row[:4], float(row[4]), row[5:].reshape(5, 2), scale=scale)


def _score(face: Face) -> float:
    return face.score


def _shifted(face: Face, x: int, y: int) -> Face:
    return replace(face, box=face.box + np.tile([x, y], 2), landmarks=face.landmarks + np.array([x, y]))


def _moved(face: Face, matrix: np.ndarray) -> Face:
    return replace(face, box=moved_box(face.box, matrix), landmarks=apply_affine(face.landmarks, matrix))


def _turned_back(quarters: int, width: int, height: int) -> np.ndarray:
    """Return the matrix from a picture of that size, turned clockwise by so many quarters, to the picture."""
    if quarters == 2:
        return np.array([[-1.0, 0, width - 1], [0, -1.0, height - 1]])
    clockwise = np.array([[0, 1.0, 0], [-1.0, 0, height - 1]])  # (x, y) was (y, height - 1 - x)
    return clockwise if quarters == 1 else np.array([[0, -1.0, width - 1], [1.0, 0, 0]])


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,...) with the boxes of rows (N,4,...), (N,)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:4], others[:, 2:4])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(others[:, 2:4] - others[:, :2], axis=1) + np.prod(box[2:4] - box[:2])
    return shared / np.maximum(areas - shared, 1e-9)


def _lies_within(face: Face, other: Face) -> bool:
    """Return True if most of a face's box lies in the box of a larger face."""
    area, other_area = (np.prod(found.box[2:] - found.box[:2]) for found in (face, other))
    low, high = np.maximum(face.box[:2], other.box[:2]), np.minimum(face.box[2:], other.box[2:])
    return bool(area < other_area and np.prod(np.clip(high - low, 0, None)) > MOSTLY * area)


def _find_file(name: str, candidates: list[Path], remedy: str) -> Path:
    """Return the first of `candidates` that is there; of a folder, with ONNX files in it.

    Raises:
        FileNotFoundError: none is.
    """
    for path in candidates:
        if path.is_file() or any(path.glob('*.onnx')):
            return path
    places = ' or '.join(map(str, candidates))
    raise FileNotFoundError(f"detector '{name}' needs {places}, which is not there; {remedy}")


def build_detector(
    name: str = DEFAULT_DETECTOR,
    weights_dir: str | os.PathLike | None = None,
    path: str | os.PathLike | None = None,
    device: str = 'cpu',
    min_score: float | None = None,
) -> FaceDetector:
    """Return a detector by name. None of them downloads anything.

    Args:
        name: one of `DETECTORS`.
        weights_dir: where the weights lie, unless the detector carries its own; by default `weights_folder()`.
        path: the weights (for `insightface`, the pack's folder), instead of the usual place in `weights_dir`.
        device: where RetinaFace runs; the others run on the CPU.
        min_score: faces of a smaller score are dropped; by default 0.7, and 0.5 for `insightface`.

    Raises:
        KeyError: an unknown name; the message names the nearest.
        FileNotFoundError: the weights are not there; the message says how to get them.
    """
    if name.lower().startswith(('yolo', 'dlib')):
        raise KeyError(
            f"detector '{name}' is not part of this project; use 'tiny', or 'retinaface_resnet50' for the best"
        )
    if name not in DETECTORS:
        raise KeyError(f"unknown detector '{name}'{nearest(name, DETECTORS)}")
    least = OTHER_MIN_SCORES.get(name, MIN_SCORE) if min_score is None else min_score
    if name == 'tiny':
        return ScaledDetector(TinyFinder(), least, sure_score=0.98)
    file, group = DETECTORS[name]
    candidates = [Path(path)] if path else [Path(weights_dir or weights_folder()) / file]
    if name == 'insightface':
        candidates += [] if path else [Path.home() / '.insightface' / 'models' / 'buffalo_l']
        folder = _find_file(name, candidates, 'unpack the pack buffalo_l (insightface, non-commercial) there')
        return ScaledDetector(InsightFaceFinder(folder), least, sure_score=0.75)
    found = _find_file(name, candidates, f'get it with: id-codeformer download {group}')
    if name == 'yunet':
        return ScaledDetector(YuNetFinder(found), least, sure_score=0.93)
    from basicsr.faces.retinaface import RetinaFaceFinder  # imports torchvision, which takes seconds

    finder = RetinaFaceFinder(name.removeprefix('retinaface_'), found, device)
    return ScaledDetector(finder, least, sure_score=0.98)
