"""Shared parts of the tests of faces and inference: a tiny network, stand-ins, pictures with and without faces."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.data import astronaut

from basicsr.archs import build_network
from basicsr.faces.geometry import align_face
from basicsr.utils.checkpoint import save_atomic

TINY = {
    'type': 'CodeFormer',
    'img_size': 64,
    'nf': 32,
    'ch_mult': [1, 2, 2],
    'res_blocks': 1,
    'attn_resolutions': [16],
    'codebook_size': 64,
    'emb_dim': 64,
    'dim_embd': 64,
    'n_head': 4,
    'n_layers': 1,
    'connect_list': ['32'],
}
# On the original portrait, in pixels.
ASTRONAUT_LANDMARKS = np.array([[204.6, 99.5], [247.8, 103.7], [222.4, 130.5], [199.0, 136.5], [244.3, 140.1]])
TRIALS = Path(__file__).parents[1] / 'trials'
GROUP_PHOTO = Path(find_spec('insightface').submodule_search_locations[0]) / 'data' / 'images' / 't1.jpg'


def save_tiny_model(path: Path, **sizes) -> Path:
    """Return a CodeFormer of 64 pixels with random weights."""
    torch.manual_seed(1)
    save_atomic({'params_ema': build_network({**TINY, **sizes}).state_dict()}, path)
    return path


class Unchanged:
    """A stand-in for FaceRestorer: it only resizes, so that what else happens to a picture can be seen."""

    batch_size = 4

    def __init__(self, size: int = 128) -> None:
        self.size = self.input_size = size

    def restore(self, faces, w=0.8, adain=True):
        return [cv2.resize(face, (self.size, self.size), interpolation=cv2.INTER_AREA) for face in faces]


class Found:
    """A stand-in for a detector that always finds these faces."""

    def __init__(self, *faces) -> None:
        self.faces = list(faces)

    def detect(self, image):
        return self.faces


def portrait() -> np.ndarray:
    """Return a sharp portrait, RGB uint8 (512,512,3), whose face is some 170 pixels large."""
    return astronaut()


def blurred_portrait() -> np.ndarray:
    """Return the same portrait without fine detail."""
    return cv2.GaussianBlur(astronaut(), (0, 0), 3)


def aligned_face(size: int) -> np.ndarray:
    """Return the portrait's face, blurred and aligned."""
    return align_face(blurred_portrait(), ASTRONAUT_LANDMARKS, size)[0]


def turned(image: np.ndarray, degrees: float, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture and its landmarks turned clockwise about its middle, on grey ground."""
    height, width = image.shape[:2]
    side = round(1.1 * float(np.hypot(height, width)))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1)
    matrix[:, 2] += (np.array([side, side]) - (width, height)) / 2
    seen = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_CUBIC, borderValue=(128, 128, 128))
    return seen, landmarks @ matrix[:, :2].T + matrix[:, 2]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In decibels, of 8-bit pictures."""
    return 10 * float(np.log10(255**2 / max(np.mean((a.astype(np.float64) - b) ** 2), 1e-9)))
