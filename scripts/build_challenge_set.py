"""Select the faces that restoration loses most easily, by what can be measured, and make low-quality inputs of them.

    python scripts/build_challenge_set.py --input datasets/people --output datasets/challenge --recogniser FILE

--input holds aligned faces, <person>/<photo>. A photo is selected for one reason or more:

- `pose`: turned or nodding, by the five landmarks; `undetected`: the detector finds no face.
- `glasses`, `hat`, `earring`, `occluded`: by face parsing, where its weights are there (--parsing); or whatever
  --declared says, a CSV of `file` and `reason`.
- `unlike`: its embedding is among those farthest from the mean of the person's other photos (--recogniser).
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
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

if __name__ == '__main__':  # started as a file: the package is the folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from basicsr.archs.arcface_arch import FaceEmbedder
from basicsr.data.common import DataError, list_pictures, relative_key
from basicsr.faces.detection import FaceDetector, build_detector
from basicsr.utils.checkpoint import CheckpointError, load_state, load_state_dict_file
from basicsr.utils.download import sha256_of
from basicsr.utils.files import replacing, write_text
from basicsr.utils.folders import weights_folder
from basicsr.utils.image import ImageReadError, imread, imwrite, to_tensor
from basicsr.utils.sheet import TILE, sheet
from scripts.make_val_pairs import make_pair, ranges_of

UPRIGHT = 0.56  # where the nose lies between eyes (0) and mouth (1) on the FFHQ template
PARSENET = Path('facelib') / 'parsing_parsenet.pth'
PARSED = 512  # side that face parsing works at, pixels
LABELS = {'glasses': 3, 'hat': 14, 'earring': 15}  # classes of face parsing (CelebAMask-HQ)
FACE = (1, 2, 3, 4, 5, 6, 7, 10, 11, 12)  # skin, nose, glasses, eyes, brows, mouth and lips
SHARES = {'glasses': 0.005, 'hat': 0.02, 'earring': 0.002}  # of the picture, from which a thing counts as there
OCCLUDED = 0.15  # of the oval of the face
AGES = (18, 40, 60)  # between the groups, years
PER_ROW = 8  # faces of a reason on the sheet
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
        """Who is on it."""
        return self.name.partition('/')[0]


def pose(landmarks: np.ndarray) -> tuple[float, float]:
    """How far a head is turned and how far it nods, by five landmarks (5,2).

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
    """The share of each of `LABELS` in a picture's classes (H,W), and that of the face's oval which shows no face."""
    height, width = classes.shape
    oval = np.zeros((height, width), np.uint8)
    centre, axes = (width // 2, round(0.6 * height)), (round(0.22 * width), round(0.28 * height))  # of FFHQ's template
    cv2.ellipse(oval, centre, axes, 0, 0, 360, 1, -1)
    shares = {name: float((classes == number).mean()) for name, number in LABELS.items()}
    return {**shares, 'occluded': float((~np.isin(classes, FACE))[oval > 0].mean())}


def measure(photo: Photo, detector: FaceDetector, parse: Parser | None) -> None:
    """What one picture tells by itself; the reasons that follow from it are added by `select`.

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
    """The cosine of each photo to the mean of the person's other photos, as `likeness`; none where there are none."""
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


def select(photos: Sequence[Photo], turn: float, nod: float, unlike: float) -> None:
    """Add the reasons that follow from what was measured.

    Args:
        photos: all.
        turn, nod: from which a pose counts, see `pose`.
        unlike: share of the photos, those of the least likeness, that count as unlike the person.
    """
    likeness = sorted(p.measured['likeness'] for p in photos if 'likeness' in p.measured)
    limit = likeness[min(int(unlike * len(likeness)), len(likeness) - 1)] if likeness else -np.inf
    for photo in photos:
        known = photo.measured
        found = {
            'pose': known.get('turn', 0) >= turn or known.get('nod', 0) >= nod,
            'undetected': 'turn' not in known,
            **{name: known.get(name, 0) >= share for name, share in SHARES.items()},
            'occluded': known.get('occluded', 0) >= OCCLUDED,
            'unlike': known.get('likeness', np.inf) < limit,
        }
        photo.reasons += [reason for reason, there in found.items() if there]


def read_table(path: Path, column: str | None = None) -> dict[str, dict[str, str]]:
    """The rows of a CSV by its column `file`, paths without extension.

    Raises:
        DataError: it lacks that column, or `column`.
    """
    with path.open(newline='', encoding='utf-8-sig') as lines:
        reader = csv.DictReader(lines)
        wanted = {'file', *([column] if column else [])}
        if not wanted <= set(reader.fieldnames or ()):
            raise DataError(f'{path}: its columns are {reader.fieldnames}; it needs {" and ".join(sorted(wanted))}')
        return {Path(row['file']).with_suffix('').as_posix(): row for row in reader}


def declare(photos: Sequence[Photo], path: Path) -> None:
    """Add the reasons of a list of `file` and `reason` (several joined by ';').

    Raises:
        DataError: it names a photo that is not there, or lacks a column.
    """
    table = read_table(path, 'reason')
    by_name = {photo.name: photo for photo in photos}
    for name, row in table.items():
        if name not in by_name:
            raise DataError(f'{path}: {row["file"]} is not among the {len(photos)} photos')
        reasons = [reason.strip() for reason in row['reason'].split(';') if reason.strip()]
        by_name[name].reasons += [reason for reason in reasons if reason not in by_name[name].reasons]


def spread(photos: Sequence[Photo], path: Path, count: int, seed: int) -> None:
    """Fill up each group of the labels to `count` selected photos, as far as there are so many.

    Args:
        photos: with their other reasons.
        path: CSV of `file` and labels; the numbers of a column `age` are taken in groups.
        count: of photos of each group.
        seed: of the draw among those that have no other reason.

    Raises:
        DataError: it lacks the column `file`.
    """
    rng = np.random.default_rng(seed)
    groups: dict[str, list[Photo]] = defaultdict(list)
    table = read_table(path)
    for photo in photos:
        for column, value in table.get(photo.name, {}).items():
            if column != 'file' and value:
                groups[f'{column} {_age_group(value) if column == "age" else value}'].append(photo)
    for name, members in sorted(groups.items()):
        rest = [photo for photo in members if not photo.reasons]
        lacking = max(0, count - (len(members) - len(rest)))
        for index in rng.permutation(len(rest))[:lacking]:
            rest[index].reasons.append(f'spread: {name}')


def _age_group(value: str) -> str:
    age = float(value)
    low = max((limit for limit in AGES if age >= limit), default=0)
    high = min((limit for limit in AGES if age < limit), default=None)
    return f'{low}-{high - 1}' if high else f'{low}+'


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
        steps = range(min(PER_ROW, len(members)))  # even ones, so that several people are shown
        found = [imread(members[step * len(members) // len(steps)].path) for step in steps]
        rows.append(sheet([found + [blank] * (PER_ROW - len(found))], [reason]))
    if rows:
        imwrite(out / 'selected.jpg', np.vstack(rows))


def about(photos: Sequence[Photo], arguments: Mapping[str, object]) -> dict[str, Any]:
    """How many photos were selected for which reason, and with what settings."""
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
    result = argparse.ArgumentParser(description='Select hard faces and degrade them.')
    result.add_argument('--input', type=Path, required=True, help='aligned faces, <person>/<photo>')
    result.add_argument('--output', type=Path, required=True)
    result.add_argument('--recogniser', help='weights of a face recogniser, for photos unlike the person')
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
    """The photos of --input with what is measured on them, and what is wrong with others.

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
    """The command line; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        if args.output.exists() and any(args.output.iterdir()):
            raise DataError(f'--output {args.output}: not empty; choose another folder, or remove it')
        photos, problems = find_photos(args)
        if args.recogniser:
            compare_with_person(photos, FaceEmbedder(args.recogniser).to(args.device), args.device)
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


if __name__ == '__main__':
    sys.exit(main())
