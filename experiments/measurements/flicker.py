"""Measure how much a restored face flickers in a clip that stands still but for its noise.

    python scripts/measure_flicker.py --noise 2 5 10 --csv flicker.csv

The flicker is the mean absolute difference (of 255) between consecutive frames of the result, within the face's crop
and without its soft border; nothing moves, so consecutive frames are aligned. `input` is the clip itself, enlarged;
`frame by frame` restores each frame as a picture of its own; `tracked` is what clips get; `fixed` has the same
landmarks in every frame, so that only the network's answer to the noise is left. The jitter is the root mean square
step of the crop's corners from frame to frame, in pixels of the crop. Missed are frames without the face.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from basicsr.cli.arguments import ArgumentParser
from basicsr.faces.detection import Face, build_detector
from basicsr.faces.geometry import affine_scale, apply_affine, frame_corners, invert_affine
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.inference.found_face import RESTORED, FoundFace
from basicsr.utils.files import replacing
from basicsr.utils.image import imread
from basicsr.video.tracking import Tracker

ROOT = Path(__file__).resolve().parents[2]
RATE = 25
SOFT_BORDER = 0.15  # of the crop's side
COLUMNS = ('model', 'noise', 'frames', 'landmarks', 'missed', 'flicker', 'jitter')


def noisy_frames(picture: np.ndarray, noise: float, count: int) -> list[np.ndarray]:
    """`count` copies, RGB uint8 (H,W,3), with noise of a standard deviation, of 255."""
    rng = np.random.default_rng(0)
    noisy = (picture + rng.normal(0, noise, picture.shape) for _ in range(count))
    return [np.rint(np.clip(frame, 0, 255)).astype(np.uint8) for frame in noisy]


def tracked(found: list[list[Face]]) -> list[list[Face]]:
    """Return the faces in consecutive frames, with the landmarks that they have in a clip."""
    seen = ((index, index / RATE, faces, False) for index, faces in enumerate(found))
    return [[one.face for one in faces] for _, faces in Tracker[int](lambda *_: False).follow(seen)]


def near(face: Face, other: Face) -> bool:
    """Return True if they are less than half an eye distance apart."""
    return bool(np.linalg.norm(face.landmarks.mean(0) - other.landmarks.mean(0)) < other.eye_distance / 2)


def corner_steps(crops: list[FoundFace], size: int) -> float:
    """Return the movement of the crop's corners from frame to frame, root mean square, in pixels of the crop."""
    if not crops:
        return 0.0
    corners = [apply_affine(frame_corners(size, size), invert_affine(crop.matrix)) for crop in crops]
    steps = np.diff(np.array(corners), axis=0) * affine_scale(crops[0].matrix)
    return float(np.sqrt(np.mean(np.sum(steps**2, -1))))


def flicker(results: list[np.ndarray], crop: FoundFace, upscale: float) -> float:
    """Mean absolute difference of consecutive results within the inner part of `crop`."""
    size = crop.crop.shape[0]
    corners = apply_affine(frame_corners(size, size), invert_affine(crop.matrix))
    corners = (corners - corners.mean(0)) * (1 - 2 * SOFT_BORDER) + corners.mean(0)
    (left, top), (right, bottom) = (np.rint(edge * upscale).astype(int) for edge in (corners.min(0), corners.max(0)))
    parts = np.stack([result[max(top, 0) : bottom, max(left, 0) : right] for result in results]).astype(np.int16)
    return float(np.abs(np.diff(parts, axis=0)).mean())


def measure(
    images: ImageRestorer, picture: np.ndarray, noise: float, count: int
) -> list[tuple[str, int, float, float]]:
    """Rows of landmarks, frames without the face, flicker and jitter; of the largest face in `picture`.

    Raises:
        ValueError: there is no face in it.
    """
    frames = noisy_frames(picture, noise, count)
    subject = next(iter(images.faces.find(picture)), None)
    if subject is None:
        raise ValueError('there is no face in the picture')
    place = images.faces.cut_out(picture, subject, RESTORED)
    found = [[face for face in images.faces.find(frame) if near(face, subject)][:1] for frame in frames]
    rows = []
    kinds = {'input': [[]] * count, 'frame by frame': found, 'tracked': tracked(found), 'fixed': [[subject]] * count}
    for name, faces in kinds.items():
        pairs = [(frame, face) for frame, several in zip(frames, faces, strict=True) for face in several]
        crops = [images.faces.cut_out(frame, face, RESTORED) for frame, face in pairs]
        done = iter(images.faces.restore_crops(crops))
        results = [
            images.canvas.finish(frame, [next(done) for _ in one]) for frame, one in zip(frames, faces, strict=True)
        ]
        missed, steps = sum(not one for one in faces), corner_steps(crops, images.canvas.size)
        rows.append((name, missed, flicker(results, place, images.canvas.upscale), steps))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Measure flicker.')
    parser.add_argument('--picture', type=Path, default=ROOT / 'inputs' / 'astronaut_lowres.png')
    parser.add_argument('--noise', type=float, nargs='+', default=[2, 5, 10], help='standard deviations, of 255')
    parser.add_argument('--frames', type=int, default=40)
    parser.add_argument('--model', default='small', help='auto, official, small, or a file')
    parser.add_argument('--device', default='auto')
    parser.add_argument('-w', type=float, default=0.8)
    parser.add_argument('--csv', type=Path, help='write the figures there, too')
    args = parser.parse_args(argv)
    lines = []
    try:
        images = ImageRestorer(FaceRestorer(args.model, args.device), build_detector(), w=args.w)
        for noise in args.noise:
            for name, missed, change, jitter in measure(images, imread(args.picture), noise, args.frames):
                lines.append((args.model, noise, args.frames, name, missed, round(change, 3), round(jitter, 3)))
                print(f'noise {noise:g}: {name:15} missed {missed:3}  flicker {change:6.3f}  jitter {jitter:6.3f}')
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    if args.csv:
        with replacing(args.csv) as partial, partial.open('w', encoding='utf-8', newline='') as file:
            csv.writer(file).writerows([COLUMNS, *lines])
    return 0
