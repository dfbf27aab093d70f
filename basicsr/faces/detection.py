"""Finding faces: one Protocol, detectors by name, and what all of them share (picture sizes, doubles, thresholds)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from basicsr.faces.backends import InsightFaceFinder, TinyFinder, YuNetFinder
from basicsr.utils.finite import check_finite
from basicsr.utils.folders import weights_folder
from basicsr.utils.image import resized
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
LONG_SIDES = (480, 1600)  # a picture is looked at with its long side brought to these: close-ups, then groups
NEARLY = 1.25  # a picture at most this many times the first of them is looked at once
MOSTLY = 0.7  # a face with more than this part of its box inside a larger face is none
OVERLAP = 0.4  # two boxes that share more than this (intersection over union) are the same face


@dataclass(frozen=True, eq=False)
class Face:
    """A face found.

    Attributes:
        box: (4,), left, top, right, bottom, in pixels of the picture.
        score: 0 to 1.
        landmarks: (5,2), left eye, right eye (as seen), nose, left and right mouth corner.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray

    @property
    def eye_distance(self) -> float:
        """In pixels of the picture."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))


class FaceDetector(Protocol):
    """Anything that finds faces."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """The faces in an RGB uint8 (H,W,3) picture, the largest first."""
        ...


class ScaledDetector:
    """A detection network, given pictures in sizes that suit it.

    Networks see faces of some 16 to 500 pixels. So a small picture is enlarged, and a large one is looked at twice,
    small for its close-ups and larger for its groups; what is found twice is kept once, the better score of the two.
    A face within a larger face is a mouth or an eye taken for one, and is dropped.

    Args:
        find: RGB uint8 (H,W,3) to rows of box (4), score, landmarks (10), float (N,15).
        min_score: faces of a smaller score are dropped.
        min_eye_distance: in pixels of the picture; smaller faces are dropped.
    """

    def __init__(
        self, find: Callable[[np.ndarray], np.ndarray], min_score: float = 0.7, min_eye_distance: float = 5
    ) -> None:
        self.find = find
        self.min_score = min_score
        self.min_eye_distance = min_eye_distance

    def detect(self, image: np.ndarray) -> list[Face]:
        """The faces in an RGB uint8 (H,W,3) picture, the largest first."""
        long_side = max(image.shape[:2])
        near, far = LONG_SIDES
        sides = [near] if long_side <= NEARLY * near else [near, min(long_side, far)]
        rows = np.concatenate([self._find_at(image, side / long_side) for side in sides])
        rows = rows[rows[:, 4] >= self.min_score]
        boxes = [(x, y, right - x, bottom - y) for x, y, right, bottom in rows[:, :4].tolist()]
        kept = cv2.dnn.NMSBoxes(boxes, rows[:, 4].tolist(), self.min_score, OVERLAP) if boxes else []
        faces = [Face(rows[i, :4], float(rows[i, 4]), rows[i, 5:].reshape(5, 2)) for i in kept]
        faces = [face for face in faces if face.eye_distance >= self.min_eye_distance]
        faces = [face for face in faces if not any(_lies_within(face, other) for other in faces)]
        return sorted(faces, key=lambda face: -face.eye_distance)

    def _find_at(self, image: np.ndarray, factor: float) -> np.ndarray:
        """Rows of what is found in the picture resized by `factor`, in pixels of the picture as it is."""
        width, height = (max(16, round(side * factor)) for side in (image.shape[1], image.shape[0]))
        rows = np.asarray(self.find(resized(image, width, height)), np.float64).reshape(-1, 15)
        check_finite(rows, 'the face detector')
        ratio = np.array([image.shape[1] / width, image.shape[0] / height])
        rows[:, :4] = (rows[:, :4] + 0.5) * np.tile(ratio, 2) - 0.5
        rows[:, 5:] = (rows[:, 5:] + 0.5) * np.tile(ratio, 5) - 0.5
        return rows


def _lies_within(face: Face, other: Face) -> bool:
    """Whether most of a face's box lies in the box of a larger face."""
    area, other_area = (np.prod(found.box[2:] - found.box[:2]) for found in (face, other))
    low, high = np.maximum(face.box[:2], other.box[:2]), np.minimum(face.box[2:], other.box[2:])
    return bool(area < other_area and np.prod(np.clip(high - low, 0, None)) > MOSTLY * area)


def _find_file(name: str, candidates: list[Path], remedy: str) -> Path:
    """The first of `candidates` that is there; of a folder, with ONNX files in it.

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
) -> FaceDetector:
    """A detector by name. None of them downloads anything.

    Args:
        name: one of `DETECTORS`.
        weights_dir: where the weights lie, unless the detector carries its own; by default `weights_folder()`.
        path: the weights (for `insightface`, the pack's folder), instead of the usual place in `weights_dir`.
        device: where RetinaFace runs; the others run on the CPU.

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
    if name == 'tiny':
        return ScaledDetector(TinyFinder())
    file, group = DETECTORS[name]
    candidates = [Path(path)] if path else [Path(weights_dir or weights_folder()) / file]
    if name == 'insightface':
        candidates += [] if path else [Path.home() / '.insightface' / 'models' / 'buffalo_l']
        folder = _find_file(name, candidates, 'unpack the pack buffalo_l (insightface, non-commercial) there')
        return ScaledDetector(InsightFaceFinder(folder), min_score=0.5)
    found = _find_file(name, candidates, f'get it with: id-codeformer download {group}')
    if name == 'yunet':
        return ScaledDetector(YuNetFinder(found))
    from basicsr.faces.retinaface import RetinaFaceFinder  # imports torchvision, which takes seconds

    return ScaledDetector(RetinaFaceFinder(name.removeprefix('retinaface_'), found, device))
