"""Measurements of what makes a face hard to restore; for scripts/build_challenge_set.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from basicsr.faces.detection import FaceDetector
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.checkpoint import load_state, load_state_dict_file
from basicsr.utils.image import imread, to_tensor

UPRIGHT = 0.56  # where the nose lies between eyes (0) and mouth (1) on the FFHQ template
PARSENET = Path('facelib') / 'parsing_parsenet.pth'
PARSED = 512  # side that face parsing works at, pixels
LABELS = {'glasses': 3, 'hat': 14, 'earring': 15}  # classes of face parsing (CelebAMask-HQ)
FACE = (1, 2, 3, 4, 5, 6, 7, 10, 11, 12)  # skin, nose, glasses, eyes, brows, mouth and lips
Parser = Callable[[np.ndarray], np.ndarray]


@dataclass
class Photo:
    """One face with what is known of it.

    Attributes:
        name: path below the folder, without extension; the first part is the person.
        path: of the file.
        measured: by name.
        reasons: why it is selected; none if it is not.
    """

    name: str
    path: Path
    measured: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def person(self) -> str:
        """Person on it."""
        return self.name.partition('/')[0]


def pose(landmarks: np.ndarray) -> tuple[float, float]:
    """Return how far a head is turned and how far it nods, by five landmarks (5,2).

    Returns:
        How far the nose lies beside the middle of the eyes, along the line through them, in eye distances: some 0.45
        times the tangent of the angle, since noses are 0.45 eye distances deep. And how far its place between eyes (0)
        and mouth (1) is from where it is upright. Both 0 or more; tilting the picture changes neither.
    """
    left, right, nose = landmarks[:3]
    across = right - left
    distance = np.linalg.norm(across)
    along = across / distance
    down = np.array([-along[1], along[0]])
    eyes, mouth = (left + right) / 2, landmarks[3:].mean(0)
    turn = abs((nose - eyes) @ along) / distance
    nod = abs((nose - eyes) @ down / ((mouth - eyes) @ down) - UPRIGHT)
    return float(turn), float(nod)


def parsing_network(path: Path, device: str) -> Parser:
    """Face parsing by facexlib's ParseNet: RGB uint8 (H,W,3) to classes (512,512).

    Raises:
        CheckpointError: damaged, or other weights.
    """
    from facexlib.parsing.parsenet import ParseNet  # the package takes seconds to import

    network = ParseNet(in_size=PARSED, out_size=PARSED, parsing_ch=19)
    load_state(network, load_state_dict_file(path), source=path)
    network.eval().to(device)

    def parse(image: np.ndarray) -> np.ndarray:
        inputs = to_tensor(cv2.resize(image, (PARSED, PARSED)))[None].to(device)
        return network(inputs)[0][0].argmax(0).cpu().numpy()

    return parse


def things(classes: np.ndarray) -> dict[str, float]:
    """Return the share of each of `LABELS` in a picture's classes (H,W), and of the face's oval that shows no face."""
    height, width = classes.shape
    oval = np.zeros((height, width), np.uint8)
    centre, axes = (width // 2, round(0.6 * height)), (round(0.22 * width), round(0.28 * height))  # of FFHQ's template
    cv2.ellipse(oval, centre, axes, 0, 0, 360, 1, -1)
    shares = {name: float((classes == number).mean()) for name, number in LABELS.items()}
    return {**shares, 'occluded': float((~np.isin(classes, FACE))[oval > 0].mean())}


def measure(photo: Photo, detector: FaceDetector, parse: Parser | None) -> None:
    """Measure one picture; the reasons that follow from it are added by `select`.

    Raises:
        ImageReadError: it cannot be read.
    """
    image = imread(photo.path)
    faces = detector.detect(image)
    if faces:
        photo.measured['turn'], photo.measured['nod'] = pose(faces[0].landmarks)
    if parse is not None:
        photo.measured |= things(parse(image))


@torch.inference_mode()
def compare_with_person(photos: Sequence[Photo], embedder: FaceEmbedder, device: str) -> None:
    """Set `likeness` of each photo: its cosine with the mean of the person's other photos, if there are any."""
    groups: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        groups[photo.person].append(photo)
    for group in tqdm(groups.values(), desc='embedding', unit='person', disable=None):
        if len(group) < 2:
            continue
        faces = (to_tensor(imread(photo.path))[None].to(device) for photo in group)
        vectors = torch.cat([embedder(face) for face in faces]).double().cpu().numpy()
        for photo, vector in zip(group, vectors, strict=True):
            others = vectors.sum(0) - vector
            photo.measured['likeness'] = float(vector @ others / np.linalg.norm(others))
