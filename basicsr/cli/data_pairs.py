"""Make validation pairs from clean faces by the project's own degradation: OUTPUT/lq and OUTPUT/gt, as PNG.

OUTPUT/bicubic has the same damage, enlarged by bicubic instead of bilinear interpolation: what plain resizing gives.

Every picture's draws depend on its name and the seed only, so that a folder made twice is the same.

    id-codeformer data pairs --input datasets/faces --output datasets/val --severity mild --size 128

With --protocol the ranges and the seed are those of a file of options/eval.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from basicsr.cli.arguments import ArgumentParser
from basicsr.data.common import DataError, list_pictures, read_picture, relative_key, resize_square
from basicsr.data.degradation import LARGE, SMALL, DegradationRanges, degrade
from basicsr.metrics.protocol import load_protocol
from basicsr.utils.files import at_even_steps, user_path
from basicsr.utils.image import imwrite, scan_images

KINDS = ('lq', 'bicubic', 'gt')
SEVERITIES = {'mild': SMALL, 'severe': LARGE}
FORMER_NAMES = {'small': 'mild', 'large': 'severe'}


def make_pair(path: Path, name: str, ranges: DegradationRanges, size: int, seed: int) -> dict[str, np.ndarray]:
    """`lq`, `bicubic` and `gt` of one file, RGB uint8 (size,size,3); `name` and `seed` fix the draws.

    Raises:
        DataError: the file cannot be read, or is not square.
    """
    clean = resize_square(read_picture(path, size / 4), size, path)
    pictures = {'gt': clean}
    for kind, interpolation in (('lq', cv2.INTER_LINEAR), ('bicubic', cv2.INTER_CUBIC)):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        damaged = degrade(clean.astype(np.float32) / 255, ranges, rng, interpolation=interpolation)
        pictures[kind] = np.rint(np.clip(damaged, 0, 1) * 255).astype(np.uint8)
    return pictures


def ranges_of(protocol: str) -> tuple[DegradationRanges, int]:
    """Return the ranges for 512 pixels and the seed of a protocol.

    Raises:
        ValueError: there is none of that name, or its inputs are given.
    """
    inputs = load_protocol(protocol).inputs
    if inputs['kind'] != 'synthetic':
        raise ValueError(f"protocol '{protocol}': its inputs come with the set, and are not made")
    return DegradationRanges.from_options(inputs, LARGE), inputs['seed']


def plan_pairs(source: Path, target: Path, limit: int | None) -> dict[str, Path]:
    """Return the pictures below `source` (`limit` at even steps) by the names of their pairs.

    Raises:
        DataError: no pictures, two of one name, `target` inside `source`, or with other pairs.
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise DataError(f'--output {target} lies inside --input {source}; choose a folder outside')
    paths = list_pictures(source, '--input')
    paths = paths if limit is None else at_even_steps(paths, limit)
    names = {relative_key(path, source): path for path in paths}
    if len(names) < len(paths):
        twice = next(path for path in paths if names[relative_key(path, source)] != path)
        raise DataError(f'{twice} and {names[relative_key(twice, source)]} would give the same file; rename one')
    for folder in filter(Path.is_dir, (target / kind for kind in KINDS)):
        other = next((path for path in scan_images(folder) if relative_key(path, folder) not in names), None)
        if other is not None:
            raise DataError(f'{other} is of another run; remove that, or choose another --output')
    return names


def write_pairs(
    names: Mapping[str, Path], target: Path, ranges: DegradationRanges, size: int, seed: int
) -> tuple[int, list[str]]:
    """Write pairs.

    Args:
        names: as `plan_pairs` has them.
        target: the folder for them.
        ranges: of the damage, for `size` pixels.
        size: side, pixels.
        seed: of the draws.

    Returns:
        How many were written, and what is wrong with the other pictures.
    """
    failed: list[str] = []
    for name, path in names.items():
        try:
            for kind, picture in make_pair(path, name, ranges, size, seed).items():
                imwrite(target / kind / f'{name}.png', picture)
        except (DataError, OSError) as error:
            failed.append(str(error))
    return len(names) - len(failed), failed


def make_pairs(source: Path, target: Path, ranges: DegradationRanges, size: int, seed: int, limit: int | None) -> int:
    """Write the pairs of every picture below `source` (`limit` at even steps); how many.

    Args:
        source: folder of clean faces.
        target: the folder for the pairs.
        ranges: of the damage, for 512 pixels.
        size: side, pixels.
        seed: of the draws.
        limit: of pictures; None for all.

    Raises:
        DataError: as `plan_pairs`, or a picture gave no pair.
    """
    count, failed = write_pairs(plan_pairs(source, target, limit), target, ranges.scaled(size), size, seed)
    if failed:
        raise DataError(failed[0])
    return count


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if every pair was written, 1 if a picture gave none, 2 if nothing was begun."""
    parser = ArgumentParser(description='Make validation pairs from clean faces.')
    parser.add_argument('--input', type=Path, required=True, help='folder of clean faces, sub-folders included')
    parser.add_argument('--output', type=Path, required=True, help='folder for lq/, bicubic/ and gt/')
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        '--severity', type=lambda name: FORMER_NAMES.get(name, name), choices=list(SEVERITIES), help='of the damage'
    )
    kind.add_argument('--protocol', type=user_path, help='a name of options/eval, whose ranges and seed are taken')
    parser.add_argument('--size', type=int, default=512, help='side of the pictures, pixels')
    parser.add_argument('--seed', type=int, help="of the draws; by default the protocol's, else 0")
    parser.add_argument('--limit', type=int, help='only so many pictures, at even steps')
    args = parser.parse_args(argv)
    if args.size < 16 or (args.seed or 0) < 0 or (args.limit is not None and args.limit < 1):
        parser.error('--size must be 16 or more, --seed 0 or more, --limit 1 or more')
    try:
        ranges, seed = ranges_of(args.protocol) if args.protocol else (SEVERITIES[args.severity], 0)
        seed = seed if args.seed is None else args.seed
        names = plan_pairs(args.input, args.output, args.limit)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    count, failed = write_pairs(names, args.output, ranges.scaled(args.size), args.size, seed)
    for message in failed:
        print(f'error: {message}', file=sys.stderr)
    print(f'{count} pairs in {args.output}')
    return 1 if failed else 0
