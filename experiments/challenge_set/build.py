"""Select the faces that restoration loses most easily, by what can be measured, and make low-quality inputs of them.

    python scripts/build_challenge_set.py --input datasets/people --output datasets/challenge --recognizer FILE

--input holds aligned faces, <person>/<photo>. A photo is selected for one reason or more:

- `pose`: turned or nodding, by the five landmarks; `undetected`: the detector finds no face.
- `glasses`, `hat`, `earring`, `occluded`: by face parsing, where its weights are there (--parsing); or whatever
  --declared says, a CSV of `file` and `reason`.
- `unlike`: its embedding is among those farthest from the mean of the person's other photos (--recognizer).
- `spread`: so that each age group and each value of the other columns of --labels (a CSV of `file` and for example
  `age`, `skin_tone`) is there.

Written are OUT/gt, lq, bicubic (degraded as options/eval/challenge.yml says) and ref (the people's other photos),
OUT/manifest.csv with the reasons and what was measured, OUT/summary.json, and OUT/selected.jpg to look at.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from basicsr.cli.arguments import ArgumentParser
from basicsr.cli.data_pairs import make_pair, ranges_of
from basicsr.data.common import DataError, list_pictures, relative_key
from basicsr.faces.detection import build_detector
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.download import sha256_of
from basicsr.utils.files import at_even_steps, replacing, write_text
from basicsr.utils.folders import weights_folder
from basicsr.utils.image import TILE, ImageReadError, imread, imwrite, sheet
from experiments.challenge_set.photos import PARSENET, Photo, compare_with_person, measure, parsing_network
from experiments.challenge_set.reasons import declare, select, spread

PER_ROW = 8  # faces of a reason on the sheet


def write_set(photos: Sequence[Photo], out: Path, protocol: str, size: int) -> None:
    """Write the selected photos as pairs, and the same people's others as references.

    Raises:
        DataError: one cannot be read.
    """
    ranges, seed = ranges_of(protocol)
    chosen = [photo for photo in photos if photo.reasons]
    people = {photo.person for photo in chosen}
    for photo in tqdm(chosen, desc='degrading', unit='face', disable=None):
        for kind, picture in make_pair(photo.path, photo.name, ranges.scaled(size), size, seed).items():
            imwrite(out / kind / f'{photo.name}.png', picture)
    for photo in photos:
        if photo.person in people and not photo.reasons:
            target = out / 'ref' / f'{photo.name}{photo.path.suffix}'
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photo.path, target)


def write_manifest(photos: Sequence[Photo], out: Path) -> None:
    """`manifest.csv`: each selected photo with its reasons, its content's SHA-256 and what was measured."""
    chosen = [photo for photo in photos if photo.reasons]
    columns = list(dict.fromkeys(name for photo in chosen for name in photo.measured))
    with replacing(out / 'manifest.csv') as partial, partial.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['file', 'person', 'reasons', 'sha256', *columns])
        for photo in chosen:
            figures = [f'{photo.measured[name]:.4g}' if name in photo.measured else '' for name in columns]
            writer.writerow([photo.name, photo.person, ';'.join(photo.reasons), sha256_of(photo.path), *figures])


def write_sheet(photos: Sequence[Photo], out: Path) -> None:
    """`selected.jpg`: a row of faces for each reason."""
    blank = np.full((TILE, TILE, 3), 255, np.uint8)
    rows = []
    for reason in dict.fromkeys(reason for photo in photos for reason in photo.reasons):
        members = [photo for photo in photos if reason in photo.reasons]
        found = [imread(photo.path) for photo in at_even_steps(members, PER_ROW)]  # so several people are shown
        rows.append(sheet([found + [blank] * (PER_ROW - len(found))], [reason]))
    if rows:
        imwrite(out / 'selected.jpg', np.vstack(rows))


def about(photos: Sequence[Photo], arguments: Mapping[str, object]) -> dict[str, Any]:
    """Summarise the selection: photos by reason, and the settings."""
    chosen = [photo for photo in photos if photo.reasons]
    return {
        'photos': len(photos),
        'selected': len(chosen),
        'people': len({photo.person for photo in chosen}),
        'reasons': dict(Counter(reason for photo in chosen for reason in photo.reasons)),
        'selected_by_person': dict(Counter(photo.person for photo in chosen)),
        'settings': {name: value for name, value in arguments.items() if isinstance(value, (int, float))},
    }


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    result = ArgumentParser(description='Select hard faces and degrade them.')
    result.add_argument('--input', type=Path, required=True, help='aligned faces, <person>/<photo>')
    result.add_argument('--output', type=Path, required=True)
    result.add_argument('--recognizer', help='weights of a face recognizer, for photos unlike the person')
    result.add_argument('--parsing', type=Path, help=f"ParseNet's weights; by default {PARSENET} where it is there")
    result.add_argument('--declared', type=Path, help='CSV of file and reason')
    result.add_argument('--labels', type=Path, help='CSV of file and for example age, skin_tone')
    result.add_argument('--spread', type=int, default=5, help='photos of each group of the labels (default: 5)')
    result.add_argument(
        '--turn', type=float, default=0.3, help='of the head, see pose() (default: 0.3, some 34 degrees)'
    )
    result.add_argument(
        '--nod', type=float, default=0.25, help='of the head, see pose(); a smile counts up to 0.2 (default: 0.25)'
    )
    result.add_argument('--unlike', type=float, default=0.1, help='share of the photos (default: 0.1)')
    result.add_argument('--size', type=int, default=512, help='side of the pairs, pixels')
    result.add_argument('--protocol', default='challenge', help='whose ranges and seed the degradation has')
    result.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return result


@torch.inference_mode()
def find_photos(args: argparse.Namespace) -> tuple[list[Photo], list[str]]:
    """Return the photos of --input with what is measured on them, and what is wrong with others.

    Raises:
        DataError: no photos, or none of people.
    """
    paths = list_pictures(args.input, '--input')
    photos = [Photo(relative_key(path, args.input), path) for path in paths]
    alone = next((photo for photo in photos if '/' not in photo.name), None)
    if alone is not None:
        raise DataError(f'{alone.path}: lies in no folder of a person; sort the photos into {args.input}/<person>/')
    weights = args.parsing or weights_folder() / PARSENET
    parse = parsing_network(weights, args.device) if args.parsing or weights.is_file() else None
    if parse is None:
        print(f'note: {weights} is not there: glasses, hats and occlusion are known from --declared only')
    detector, problems, good = build_detector(), [], []
    for photo in tqdm(photos, desc='measuring', unit='face', disable=None):
        try:
            measure(photo, detector, parse)
            good.append(photo)
        except ImageReadError as error:
            problems.append(str(error))
    return good, problems


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parser().parse_args(argv)
    try:
        if args.output.exists() and any(args.output.iterdir()):
            raise DataError(f'--output {args.output}: not empty; choose another folder, or remove it')
        photos, problems = find_photos(args)
        if args.recognizer:
            compare_with_person(photos, FaceEmbedder(args.recognizer).to(args.device), args.device)
        select(photos, args.turn, args.nod, args.unlike)
        if args.declared:
            declare(photos, args.declared)
        if args.labels:
            spread(photos, args.labels, args.spread, ranges_of(args.protocol)[1])
        write_set(photos, args.output, args.protocol, args.size)
        write_manifest(photos, args.output)
        write_sheet(photos, args.output)
    except (ValueError, OSError, CheckpointError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    found = about(photos, vars(args))
    write_text(args.output / 'summary.json', json.dumps(found, indent=2) + '\n')
    print(f'{found["selected"]} of {found["photos"]} photos of {found["people"]} people in {args.output}')
    for reason, count in sorted(found['reasons'].items()):
        print(f'  {reason}: {count}')
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if problems else 0
