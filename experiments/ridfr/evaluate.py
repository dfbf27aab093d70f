"""Restore people of held-out sets under several references by each row, and measure identity: tables and sheets.

    python -m experiments.ridfr.evaluate --out results/ridfr --people datasets/people_val --judge mobilefacenet_casia128

Each input is restored under several references of its person, under one of somebody else, and blind, from the same
noise. The judge is a recognizer that no training used.
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
from basicsr.data.identity_augment import ANOTHER_PHOTOGRAPH
from basicsr.faces.detection import build_detector
from basicsr.faces.geometry import align_face
from basicsr.inference.diffusion_restorer import DiffusionConfig, DiffusionRestorer
from basicsr.metrics.identity import identity_variance
from basicsr.metrics.statistics import paired_bootstrap
from basicsr.recognition.choose import embed_faces
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.files import at_even_steps
from basicsr.utils.image import imread, imwrite, scan_images, to_tensor
from basicsr.utils.sheet import sheet
from experiments.ridfr.prepare import reference

HERE = Path(__file__).resolve().parent
SETS = ('celebref512', 'multi_id')
ROWS = {'none': 'content', 'naive': 'naive', 'alignment': 'alignment'}
METRICS = ('identity_variance', 'ids', 'ids_wrong', 'ids_ref', 'ids_blind', 'psnr')
MEANING = """| column | meaning |
|---|---|
| identity variance | of the restorations of one input under several references of its person; lower is more consistent, also if the reference is ignored |
| IDS | cosine of restoration and truth, mean over these references |
| IDS, wrong | the same under a reference of somebody else; below IDS by what the reference does |
| to reference | cosine of restoration and its own reference |
| IDS, blind | without reference |
"""  # noqa: E501  a table


@dataclass(frozen=True, eq=False)
class Case:
    """Input to restore.

    Attributes:
        name: `<set>/<person>/<photo>`.
        truth: RGB uint8 (S,S,3).
        degraded: likewise.
        references: photographs; the last is of somebody else.
    """

    name: str
    truth: np.ndarray
    degraded: np.ndarray
    references: list[np.ndarray]


def cases_of(folder: Path, size: int, inputs: int, references: int) -> Iterator[Case]:
    """Yield `inputs` photographs of each person, evenly chosen, each with others of the person and one of the next."""
    people = {sub.name: scan_images(sub) for sub in sorted(folder.iterdir()) if sub.is_dir()}
    names = list(people)

    def read(path: Path) -> np.ndarray:
        return resize_square(imread(path), size)

    for place, person in enumerate(names):
        stranger = people[names[(place + 1) % len(names)]]
        for path in at_even_steps(people[person], inputs):
            others = at_even_steps([other for other in people[person] if other != path], references)
            truth = read(path)
            rng = np.random.default_rng(zlib.crc32(f'{person}/{path.stem}'.encode()))
            degraded = to_bytes(degrade(to_unit(truth), LARGE.scaled(size), rng))
            name = f'{folder.name}/{person}/{path.stem}'
            yield Case(name, truth, degraded, [*map(read, others), read(stranger[len(stranger) // 2])])


def restore(restorer: DiffusionRestorer, embedder: FaceEmbedder, case: Case) -> list[np.ndarray]:
    """Return the restorations of an input under each of its references, and last the blind one."""
    vectors = embed_faces(embedder, case.references)[:, None]
    photos = torch.stack([to_tensor(photo) for photo in case.references])[:, None]
    vectors = torch.cat([vectors, vectors[:1]])
    photos = torch.cat([photos, photos[:1]])
    mask = torch.ones(len(vectors), 1)
    mask[-1] = 0
    return restorer.restore([case.degraded] * len(vectors), identity=vectors, mask=mask, photos=photos)


def judge(case: Case, restored: Sequence[np.ndarray], seen: FaceEmbedder) -> dict[str, float]:
    """Return the figures of an input."""
    made: Tensor = embed_faces(seen, restored)
    own = len(case.references) - 1
    truth = embed_faces(seen, [case.truth])[0]
    of_references = embed_faces(seen, case.references)[:own]
    ids = made @ truth
    errors = [np.square(image.astype(float) - case.truth).mean() for image in restored[:own]]
    return {
        'identity_variance': identity_variance(made[:own].numpy()),
        'ids': float(ids[:own].mean()),
        'ids_wrong': float(ids[own]),
        'ids_ref': float((made[:own] * of_references).sum(1).mean()),
        'ids_blind': float(ids[-1]),
        'psnr': float(np.mean([10 * np.log10(255**2 / error) for error in errors])),
    }


def table(rows: Sequence[dict[str, str | float]], sets: Sequence[str]) -> str:
    """Return means of each set and row, and paired differences with 95 % intervals, as Markdown."""
    text = []
    for name in sets:
        own = {row: [r for r in rows if r['set'] == name and r['row'] == row] for row in ROWS}
        count = len(own['none'])
        text += [f'## {name}, {count} inputs', '']
        text += ['| row | identity variance | IDS | IDS, wrong | to reference | IDS, blind | PSNR |', '|---' * 7 + '|']
        for row, found in own.items():
            means = [np.mean([float(r[metric]) for r in found]) for metric in METRICS]
            text.append(
                f'| {row} | {means[0]:.4f} | '
                + ' | '.join(f'{mean:.3f}' for mean in means[1:5])
                + f' | {means[5]:.2f} |'
            )
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description='Judge the rows of the small RIDFR experiment.')
    add = parser.add_argument
    add('--out', type=Path, default=Path('results/ridfr'), help='of the recipe')
    add('--people', type=Path, default=Path('datasets/people_val'), help=f'with the folders {" and ".join(SETS)}')
    add('--sets', nargs='+', default=SETS)
    add('--recognizer', help='of the references (default: that of the recipe)')
    add('--judge', default='mobilefacenet_casia128')
    add('--inputs', type=int, default=3, help='of each person')
    add('--references', type=int, default=3, help='of each input')
    add('--steps', type=int, default=20)
    add('--id_scale', type=float, default=1.0)
    add('--publish', type=Path, help='folder of the tables and the sheet of the portrait')
    args = parser.parse_args(argv)
    recipe = yaml.safe_load((HERE / 'recipe.yml').read_text())
    root = args.out / 'prior' / 'root'
    embedder, seen = FaceEmbedder(args.recognizer or recipe['paths']['recognizer']), FaceEmbedder(args.judge)
    config = DiffusionConfig(root, steps=args.steps)
    restorers = {row: DiffusionRestorer(args.out / folder / 'net_g.pth', config, 'cpu') for row, folder in ROWS.items()}
    size = restorers['none'].size
    rows: list[dict[str, str | float]] = []
    for name in args.sets:
        sheets = []
        for case in cases_of(args.people / name, size, args.inputs, args.references):
            for row, restorer in restorers.items():
                restored = restore(restorer, embedder, case)
                rows.append({'set': name, 'input': case.name, 'row': row, **judge(case, restored, seen)})
                sheets.append([case.truth, case.degraded, *restored])
        titles = ['truth', 'input', *(f'reference {n + 1}' for n in range(args.references)), 'wrong', 'blind']
        imwrite(args.out / f'{name}.png', sheet(sheets[:24], titles))
    target = args.publish or args.out
    target.mkdir(parents=True, exist_ok=True)
    with (target / 'figures.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    about = f'Judge {seen.name}; {args.references} references an input, {args.steps} steps, the same noise everywhere.'
    text = f'# RIDFR at small scale: figures\n\n{about}\n\n{MEANING}\n{table(rows, args.sets)}'
    (target / 'figures.md').write_text(text)
    case = portrait(size)
    blank = np.full_like(case.truth, 255)
    lines = [[case.degraded, *case.references[:3], case.truth]]
    lines += [[case.degraded, *restore(restorer, embedder, case)[:3], blank] for restorer in restorers.values()]
    imwrite(target / 'portrait.jpg', sheet(lines, ['input', 'reference 1', 'reference 2', 'reference 3', 'truth']))
    print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
