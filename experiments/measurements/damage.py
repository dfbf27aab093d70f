"""Compare the damage of a training with that of real faces: spectrum, noise and blocks, as a Markdown table.

    python -m experiments.measurements.damage --real lq --clean datasets/faces_val

Each face is judged at 256 pixels, in grey. The table has the quartiles of both and, for each statistic, the share of
real faces outside the middle 95 % of the damaged ones.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from basicsr.cli.arguments import ArgumentParser
from basicsr.cli.data_pairs import SEVERITIES, make_pair
from basicsr.data.common import list_pictures
from basicsr.utils.files import at_even_steps
from basicsr.utils.image import imread, resized

SIDE = 256
BANDS = 5  # octaves from 4 cycles a face on
GRIDS = range(8, 33)  # pixels between the lines of a grid of blocks
NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # blind to lines and slopes
MIDDLE = (2.5, 97.5)  # per cent


def spectrum(grey: np.ndarray) -> dict[str, float]:
    """Return the mean square of each octave of grey (256,256), in decibels over one grey level squared."""
    window = np.outer(np.hanning(SIDE), np.hanning(SIDE))
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2 / grey.size / (window**2).sum()
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE))) * SIDE
    edges = [4 * 2**octave for octave in range(BANDS + 1)]
    return {
        f'{low} to {high} cycles (dB)': float(
            10 * np.log10(power[(frequency >= low) & (frequency < high)].sum() + 1e-9)
        )
        for low, high in pairwise(edges)
    }


def noise(grey: np.ndarray) -> float:
    """Return the standard deviation of the noise of grey (H,W), in grey levels (Immerkaer 1996, by the median)."""
    response = cv2.filter2D(grey, cv2.CV_32F, NOISE_MASK)[1:-1, 1:-1]
    return float(np.median(np.abs(response)) / 0.6745 / 6)


def blocks(grey: np.ndarray) -> float:
    """Return how much steeper grey (H,W) is across its clearest grid of lines than elsewhere: 1 without any."""
    found = 1.0
    for axis in (0, 1):
        steps = np.abs(np.diff(grey, axis=axis)).mean(1 - axis)
        for period in GRIDS:
            lines = np.array([steps[start::period].mean() for start in range(period)])
            found = max(found, float(lines.max() / (np.median(lines) + 0.1)))
    return found


def statistics(face: np.ndarray) -> dict[str, float]:
    """Return spectrum, noise and blocks of a face, RGB uint8 (H,W,3)."""
    grey = cv2.cvtColor(resized(face, SIDE, SIDE), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return {**spectrum(grey), 'noise (levels)': noise(grey), 'blocks (ratio)': blocks(grey)}


def damaged_faces(paths: Sequence[Path]) -> list[np.ndarray]:
    """Return clean faces at 256 pixels under the two ranges of the training in turn, RGB uint8 (256,256,3)."""
    ranges = [severity.scaled(SIDE) for severity in SEVERITIES.values()]
    return [make_pair(path, path.stem, ranges[number % 2], SIDE, 0)['lq'] for number, path in enumerate(paths)]


def table(real: Sequence[Mapping[str, float]], made: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the lines of the table."""
    lines = ['| statistic | real: quartiles | training: quartiles | real below, above |', '|---|---|---|---|']
    for name in real[0]:
        there, here = (np.array([face[name] for face in faces]) for faces in (real, made))
        low, high = np.percentile(here, MIDDLE)
        quartiles = (' to '.join(f'{value:.1f}' for value in np.percentile(each, (25, 75))) for each in (there, here))
        outside = f'{(there < low).mean():.0%}, {(there > high).mean():.0%}'
        lines.append(f'| {name} | ' + ' | '.join(quartiles) + f' | {outside} |')
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Compare the damage of a training with that of real faces.')
    parser.add_argument('--real', type=Path, nargs='+', required=True, help='folders of aligned damaged faces')
    parser.add_argument('--clean', type=Path, required=True, help='folder of clean faces, which are damaged')
    parser.add_argument('--limit', type=int, default=300, help='so many clean faces, at even steps')
    args = parser.parse_args(argv)
    try:
        real = [statistics(imread(path)) for folder in args.real for path in list_pictures(folder, '--real')]
        paths = at_even_steps(list_pictures(args.clean, '--clean'), args.limit)
        made = [statistics(face) for face in damaged_faces(paths)]
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print('\n'.join(table(real, made)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
