"""Restore people of held-out sets under several references by each row, and measure identity: tables and sheets.

    python -m experiments.ridfr.evaluate --out results/ridfr --people datasets/people_val --judge mobilefacenet_casia128

Each input is restored under several references of its person, under the first of them reduced to some sides, under one
of somebody else, and blind, from the same noise. The judge is a recognizer that no training used.
"""

from __future__ import annotations

import argparse
import csv
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from skimage.data import astronaut
from torch import Tensor

from basicsr.data.common import resize_square
from basicsr.data.degradation import LARGE, degrade, to_bytes, to_unit
from basicsr.data.synthetic_identity_dataset import ANOTHER_PHOTOGRAPH
from basicsr.faces.detection import build_detector
from basicsr.faces.geometry import align_face
from basicsr.inference.diffusion_restorer import DiffusionConfig, DiffusionRestorer
from basicsr.losses import PerceptualLoss
from basicsr.metrics.builders import feature_distance
from basicsr.metrics.evaluation import paired_bootstrap
from basicsr.metrics.identity import identity_variance
from basicsr.metrics.niqe import NIQE
from basicsr.metrics.pictures import Folder
from basicsr.metrics.psnr_ssim import calculate_psnr
from basicsr.recognition.choose import embed_faces
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.files import at_even_steps
from basicsr.utils.image import imread, imwrite, sheet, to_tensor
from experiments.references import own_references, people_of
from experiments.ridfr.prepare import reference

HERE = Path(__file__).resolve().parent
SETS = ('celebref512', 'multi_id')
ROWS = {'none': 'content', 'naive': 'naive', 'alignment': 'alignment'}
SIDES = (64, 128)
"""Sides in pixels to which the first reference is reduced."""
COLUMNS = {
    'identity_variance': ('identity variance', '.4f'), 'ids': ('IDS', '.3f'), 'ids_wrong': ('IDS, wrong', '.3f'),
    'ids_ref': ('to reference', '.3f'), 'ids_blind': ('IDS, blind', '.3f'), 'psnr': ('PSNR', '.2f'),
    'feature': ('feature distance', '.3f'), 'niqe_192': ('NIQE, 192', '.2f'),
    **{f'ids_{side}': (f'IDS, {side}', '.3f') for side in SIDES}, 'ids_full': ('IDS, full', '.3f'),
}  # fmt: skip
MEANING = """| column | meaning |
|---|---|
| identity variance | of the restorations of one input under several references of its person; lower is more consistent, also if the reference is ignored |
| IDS | cosine of restoration and truth, mean over these references |
| IDS, wrong | the same under a reference of somebody else; below IDS by what the reference does |
| to reference | cosine of restoration and its own reference |
| IDS, blind | without reference |
| PSNR, feature distance, NIQE | of the restorations under these references; distance of VGG16's features to the truth, NIQE at 192 pixels |
| IDS, 64, 128, full | under the first reference alone, reduced to that side |
"""  # noqa: E501  a table


@dataclass(frozen=True, eq=False)
class Case:
    """Input to restore.

    Attributes:
        name: `<set>/<person>/<photo>`.
        truth: RGB uint8 (S,S,3).
        degraded: likewise.
        references: photographs, RGB uint8 (n,n,3); the last is of somebody else.
    """

    name: str
    truth: np.ndarray
    degraded: np.ndarray
    references: list[np.ndarray]


def cases_of(folder: Path, size: int, inputs: int, references: int) -> Iterator[Case]:
    """Yield `inputs` photographs of each person, evenly chosen, each with others of the person and one of the next."""
    photos = Folder.scan(folder, '--people')
    people = list(people_of(photos).values())
    for place, names in enumerate(people):
        others = people[(place + 1) % len(people)]
        stranger = imread(photos.files[others[len(others) // 2]])
        for name in at_even_steps(names, inputs):
            truth = resize_square(imread(photos.files[name]), size)
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            degraded = to_bytes(degrade(to_unit(truth), LARGE.scaled(size), rng))
            own = own_references(photos, name, references, 'even')
            yield Case(f'{folder.name}/{name}', truth, degraded, [*map(imread, own), stranger])


def restore(restorer: DiffusionRestorer, embedder: FaceEmbedder, case: Case, id_scale: float = 1.0) -> list[np.ndarray]:
    """Return the restorations under each reference, under the first one at each side of `SIDES`, and the blind one."""
    references = [*case.references, *(resize_square(case.references[0], side) for side in SIDES)]
    vectors = embed_faces(embedder, references)[:, None]
    photos = torch.stack([to_tensor(resize_square(photo, restorer.size)) for photo in references])[:, None]
    vectors = torch.cat([vectors, vectors[:1]])
    photos = torch.cat([photos, photos[:1]])
    mask = torch.ones(len(vectors), 1)
    mask[-1] = 0
    faces = [case.degraded] * len(vectors)
    return restorer.restore(faces, identity=vectors, mask=mask, id_scale=id_scale, photos=photos)


@dataclass(frozen=True, eq=False)
class Judge:
    """What measures.

    Attributes:
        embedder: recognizer that no training used.
        feature: distance of VGG16's features.
        niqe: at 192 pixels.
    """

    embedder: FaceEmbedder
    feature: PerceptualLoss | None
    niqe: NIQE | None

    @torch.no_grad()
    def __call__(self, case: Case, restored: Sequence[np.ndarray]) -> dict[str, float]:
        """Return the figures of an input's restorations, as `restore` gives them."""
        made: Tensor = embed_faces(self.embedder, restored)
        own = len(case.references) - 1
        truth = embed_faces(self.embedder, [case.truth])[0]
        of_references = embed_faces(self.embedder, case.references)[:own]
        ids = (made @ truth).tolist()
        faces = restored[:own]
        figures = {
            'identity_variance': identity_variance(made[:own].numpy()),
            'ids': float(np.mean(ids[:own])),
            'ids_wrong': ids[own],
            'ids_ref': float((made[:own] * of_references).sum(1).mean()),
            'ids_blind': ids[-1],
            'psnr': float(np.mean([calculate_psnr(face, case.truth) for face in faces])),
            **{f'ids_{side}': ids[own + 1 + place] for place, side in enumerate(SIDES)},
            'ids_full': ids[0],
        }
        if self.feature is not None:
            truths = to_tensor(case.truth)[None]
            distances = [self.feature(to_tensor(face)[None], truths)[0] for face in faces]
            figures['feature'] = float(np.mean([float(distance) for distance in distances]))
        if self.niqe is not None:
            figures['niqe_192'] = float(np.mean([self.niqe(face) for face in faces]))
        return figures


def table(rows: Sequence[dict[str, str | float]], sets: Sequence[str]) -> str:
    """Return means of each set and row, and paired differences with 95 % intervals, as Markdown."""
    text = []
    columns = {key: column for key, column in COLUMNS.items() if key in rows[0]}
    for name in sets:
        own = {row: [r for r in rows if r['set'] == name and r['row'] == row] for row in ROWS}
        text += [f'## {name}, {len(own["none"])} inputs', '']
        text += [f'| row | {" | ".join(title for title, _ in columns.values())} |', '|---' * (len(columns) + 1) + '|']
        for row, found in own.items():
            means = (f'{np.mean([float(r[key]) for r in found]):{form}}' for key, (_, form) in columns.items())
            text.append(f'| {row} | {" | ".join(means)} |')
        text += ['', '| difference | identity variance | IDS | IDS less IDS wrong |', '|---|---|---|---|']
        for first, second in (('naive', 'none'), ('alignment', 'none'), ('alignment', 'naive')):
            cells = []
            for value in (
                lambda r: float(r['identity_variance']),
                lambda r: float(r['ids']),
                lambda r: float(r['ids']) - float(r['ids_wrong']),
            ):
                one, other = ([value(r) for r in own[row]] for row in (first, second))
                mean, low, high = paired_bootstrap(one, other)
                cells.append(f'{mean:+.4f} ({low:+.4f} to {high:+.4f})')
            text.append(f'| {first} less {second} | ' + ' | '.join(cells) + ' |')
        text.append('')
    return '\n'.join(text)


def portrait(size: int) -> Case:
    """Return the public-domain portrait, with three synthetic other photographs and one of nobody."""
    face, _ = align_face(astronaut(), build_detector().detect(astronaut())[0].landmarks, size)
    rng = np.random.default_rng(0)
    degraded = to_bytes(degrade(to_unit(face), LARGE.scaled(size), rng))
    others = [
        reference(face, rng),
        to_bytes(ANOTHER_PHOTOGRAPH(to_unit(face), rng))[:, ::-1].copy(),
        reference(face, rng),
    ]
    return Case('portrait', face, degraded, [*others, np.full_like(face, 128)])


def build_judge(args: argparse.Namespace) -> Judge:
    """Return the judge of the command line's flags."""
    return Judge(
        FaceEmbedder(args.judge),
        feature_distance(args.vgg) if args.vgg else None,
        NIQE(args.niqe, 192) if args.niqe else None,
    )


def publish(rows: Sequence[dict[str, str | float]], args: argparse.Namespace, judge: str) -> None:
    """Write `figures.csv` and `figures.md`, and print the latter."""
    target = args.publish or args.out
    target.mkdir(parents=True, exist_ok=True)
    with (target / 'figures.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    about = f'Judge {judge}; {args.references} references an input, {args.steps} steps, the same noise everywhere.'
    text = f'# RIDFR at small scale: figures\n\n{about}\n\n{MEANING}\n{table(rows, args.sets)}'
    (target / 'figures.md').write_text(text)
    print(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description='Judge the rows of the small RIDFR experiment.')
    add = parser.add_argument
    add('--out', type=Path, default=Path('results/ridfr'), help='of the recipe')
    add('--people', type=Path, default=Path('datasets/people_val'), help=f'with the folders {" and ".join(SETS)}')
    add('--sets', nargs='+', default=SETS)
    add('--recognizer', help='of the references (default: that of the recipe)')
    add('--judge', default='mobilefacenet_casia128')
    add('--vgg', help='weights of VGG16, for the feature distance')
    add('--niqe', help="NIQE's statistics, for NIQE")
    add('--inputs', type=int, default=3, help='of each person')
    add('--references', type=int, default=3, help='of each input')
    add('--steps', type=int, default=20)
    add('--id_scale', type=float, default=1.0)
    add('--publish', type=Path, help='folder of the tables and the sheet of the portrait')
    args = parser.parse_args(argv)
    recipe = yaml.safe_load((HERE / 'recipe.yml').read_text())
    root = args.out / 'prior' / 'root'
    embedder, judge = FaceEmbedder(args.recognizer or recipe['paths']['recognizer']), build_judge(args)
    config = DiffusionConfig(root, steps=args.steps)
    restorers = {row: DiffusionRestorer(args.out / folder / 'net_g.pth', config, 'cpu') for row, folder in ROWS.items()}
    size = restorers['none'].size
    rows: list[dict[str, str | float]] = []
    for name in args.sets:
        sheets = []
        for case in cases_of(args.people / name, size, args.inputs, args.references):
            for row, restorer in restorers.items():
                restored = restore(restorer, embedder, case, args.id_scale)
                rows.append({'set': name, 'input': case.name, 'row': row, **judge(case, restored)})
                sheets.append([case.truth, case.degraded, *restored[: args.references + 1], restored[-1]])
        titles = ['truth', 'input', *(f'reference {n + 1}' for n in range(args.references)), 'wrong', 'blind']
        imwrite(args.out / f'{name}.png', sheet(sheets[:24], titles))
    publish(rows, args, judge.embedder.name)
    case = portrait(size)
    shown = [resize_square(photo, size) for photo in case.references[:3]]
    lines = [[case.degraded, *shown, case.truth]]
    for restorer in restorers.values():
        faces = restore(restorer, embedder, case, args.id_scale)[:3]
        lines.append([case.degraded, *faces, np.full_like(case.truth, 255)])
    titles = ['input', 'reference 1', 'reference 2', 'reference 3', 'truth']
    imwrite((args.publish or args.out) / 'portrait.jpg', sheet(lines, titles))
    return 0


if __name__ == '__main__':
    sys.exit(main())
