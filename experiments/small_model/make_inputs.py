"""Make the pictures in inputs/ from the astronaut portrait that scikit-image ships (NASA, public domain).

    python scripts/make_inputs.py

The portrait as it is, the portrait small, blurred, noisy and compressed, and its face cut out at 128 pixels with four
draws of the stage III degradation. The same seeds give the same files.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from skimage.data import astronaut

from basicsr.cli.arguments import ArgumentParser
from basicsr.data.degradation import SMALL, DegradationRanges, degrade
from basicsr.faces.detection import build_detector
from basicsr.faces.geometry import align_face
from basicsr.utils.image import imwrite

FACE_SIDE = 128
FACE_SEEDS = (1, 2, 3, 4)
WHOLE_SIDE = 256
WHOLE = DegradationRanges(blur_sigma=(1, 1), downsample_range=(1.5, 1.5), noise_range=(4, 4), jpeg_range=(60, 60))


def degraded(image: np.ndarray, ranges: DegradationRanges, seed: int) -> np.ndarray:
    """RGB uint8 (H,W,3), damaged."""
    damaged = degrade(image.astype(np.float32) / 255, ranges, np.random.default_rng(seed))
    return np.rint(np.clip(damaged, 0, 1) * 255).astype(np.uint8)


def main() -> int:
    """Run the command line."""
    parser = ArgumentParser(description='Make the pictures in inputs/.')
    parser.add_argument('-o', '--output', type=Path, default=Path(__file__).resolve().parents[2] / 'inputs')
    output = parser.parse_args().output
    portrait = astronaut()
    imwrite(output / 'astronaut.jpg', portrait)
    small = cv2.resize(portrait, (WHOLE_SIDE, WHOLE_SIDE), interpolation=cv2.INTER_AREA)
    imwrite(output / 'astronaut_lowres.png', degraded(small, WHOLE, 0))
    face, _ = align_face(portrait, build_detector().detect(portrait)[0].landmarks, FACE_SIDE)
    for seed in FACE_SEEDS:
        imwrite(output / 'cropped_faces' / f'astronaut_{seed}.png', degraded(face, SMALL.scaled(FACE_SIDE), seed))
    return 0
