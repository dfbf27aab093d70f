"""Measure colourization and inpainting on clean aligned faces: a table of errors, and a sheet to look at.

    python -m experiments.small_model.judge_tasks --input faces_val --output judged --limit 50

Faces in colour, at 256 pixels, are made grey, and put under the strokes of the training. Errors are mean absolute
differences in levels: of colour (RGB less luma) in the middle half of the face, and under the strokes, beside those of
the input and of a smooth continuation without a network (Telea, 2004).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from basicsr.data.brush_mask import brush_mask
from basicsr.data.common import list_pictures
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.inference.face_pipeline import is_grey
from basicsr.inference.inpainting import Inpainter, bridge
from basicsr.inference.tasks import COLORIZE, INPAINT
from basicsr.utils.files import at_even_steps
from basicsr.utils.image import imread, imwrite, resized, sheet, whitened

SIDE = 256
MIDDLE = np.s_[SIDE // 4 : 3 * SIDE // 4, SIDE // 4 : 3 * SIDE // 4]
SHOWN = 12


def grey(image: np.ndarray) -> np.ndarray:
    """Return RGB uint8 (H,W,3) without colour."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def colour_error(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean absolute difference of RGB less luma in the middle of two faces."""
    first, second = (face.astype(float) - grey(face) for face in (image, truth))
    return float(np.abs(first - second)[MIDDLE].mean())


def error_under(mask: np.ndarray, image: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean absolute difference of two faces where `mask` (H,W) is."""
    return float(np.abs(image.astype(float) - truth)[mask].mean())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description='Measure colourization and inpainting on clean aligned faces.')
    parser.add_argument('--input', type=Path, required=True, help='clean aligned faces, in sub-folders too')
    parser.add_argument('--output', type=Path, required=True, help='folder for tasks.md and tasks.png')
    parser.add_argument('--model', default='small', help='of both tasks, as `--model` of restore')
    parser.add_argument('--limit', type=int, default=50, help='so many of the faces, at even steps')
    args = parser.parse_args(argv)
    paths = at_even_steps(list_pictures(args.input, '--input'), args.limit)
    faces = [resized(imread(path), SIDE, SIDE) for path in paths]
    faces = [face for face in faces if not is_grey(face)]
    colorizer = FaceRestorer(args.model, task=COLORIZE)
    filler = FaceRestorer(args.model, task=INPAINT)
    images = ImageRestorer(filler, w=filler.default_w, adain=filler.default_adain, upscale=1, force=True)
    inpainter = Inpainter(images)
    errors, rows = [], []
    for number, face in enumerate(faces):
        mask = brush_mask(SIDE, np.random.default_rng(number))
        given, masked = grey(face), whitened(face, mask)
        coloured, filled = colorizer.restore(given)[0], inpainter.inpaint_aligned(masked, mask).image
        pairs = [(colour_error(each, face) for each in (given, coloured))]
        pairs += [(error_under(mask, each, face) for each in (masked, filled, bridge(masked, mask)))]
        errors.append([value for pair in pairs for value in pair])
        rows.append([given, coloured, masked, filled, face])
    names = ('colour: grey', 'colour: colourized', 'strokes: white', 'strokes: filled', 'strokes: Telea')
    lines = [f'| mean absolute error, levels | {len(faces)} faces |', '|---|---|']
    lines += [f'| {name} | {value:.1f} |' for name, value in zip(names, np.mean(errors, 0), strict=True)]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / 'tasks.md').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    titles = ['grey', 'colourized', 'masked', 'filled', 'truth']
    imwrite(args.output / 'tasks.png', sheet(at_even_steps(rows, SHOWN), titles))
    print('\n'.join(lines))
    return 0


if __name__ == '__main__':
    sys.exit(main())
