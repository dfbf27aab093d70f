"""Pictures of what a model does, made from the astronaut portrait that scikit-image ships (NASA, public domain).

    python scripts/contact_sheet.py

Writes `docs/contact_sheet.jpg` (rows: draws of mild and severe damage; columns: degraded, restored at several w, truth)
and `docs/assets/collage.jpg`, a part of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from skimage.data import astronaut

from basicsr.cli.arguments import ArgumentParser
from basicsr.data.degradation import LARGE, SMALL, degrade
from basicsr.faces.detection import build_detector
from basicsr.faces.geometry import align_face
from basicsr.inference import FaceRestorer
from basicsr.utils.image import imwrite, sheet

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = (0.0, 0.5, 0.8, 1.0)
ROWS = (('small', SMALL, 1), ('small', SMALL, 2), ('small', SMALL, 4), ('large', LARGE, 1), ('large', LARGE, 2))


def contact_rows(restorer: FaceRestorer, adain: bool) -> list[list[np.ndarray]]:
    """For each draw of `ROWS`: degraded, restored at each of `WEIGHTS`, truth."""
    portrait = astronaut()
    face, _ = align_face(portrait, build_detector().detect(portrait)[0].landmarks, restorer.size)
    rows = []
    for _, ranges, seed in ROWS:
        damaged = degrade(face.astype(np.float32) / 255, ranges.scaled(restorer.size), np.random.default_rng(seed))
        degraded = np.rint(np.clip(damaged, 0, 1) * 255).astype(np.uint8)
        rows.append([degraded, *(restorer.restore(degraded, w, adain)[0] for w in WEIGHTS), face])
    return rows


COLLAGE_ROWS, COLLAGE_COLUMNS = (0, 2, 3), (0, 1, 2, 5)
"""Of the contact sheet."""


def main() -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Write the pictures of docs/ with a model.')
    parser.add_argument('--model', default='small')
    parser.add_argument('--adain', action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument('-o', '--output', type=Path, default=ROOT / 'docs')
    args = parser.parse_args()
    restorer = FaceRestorer(args.model)
    titles = ['degraded', *(f'w = {w:g}' for w in WEIGHTS), 'truth']
    rows = contact_rows(restorer, args.adain)
    imwrite(args.output / 'contact_sheet.jpg', sheet(rows, titles))
    chosen = [[rows[row][column] for column in COLLAGE_COLUMNS] for row in COLLAGE_ROWS]
    imwrite(args.output / 'assets' / 'collage.jpg', sheet(chosen, [titles[column] for column in COLLAGE_COLUMNS]))
    return 0
