"""Judge recognizers side by side: people told apart, and what references gain.

    python -m experiments.recognition.judge people --faces PEOPLE RECOGNIZER…
    python -m experiments.recognition.judge references --faces PEOPLE --judge ANOTHER RECOGNIZER…

PEOPLE is a folder of aligned faces for each person. Each step prints a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from basicsr.cli.recognizer_calibrate import cosines_to_people
from basicsr.data.common import list_pictures
from basicsr.data.degradation import LARGE, SMALL, DegradationRanges, degrade, to_bytes, to_unit
from basicsr.inference import FaceRestorer
from basicsr.inference.code_search import CodeSearch
from basicsr.metrics.pictures import Folder
from basicsr.recognition.choose import embed_faces
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.image import imread
from experiments.references import own_references, people_of

SIDE = 128  # at which faces are damaged
THRESHOLDS = (0.2, 0.25, 0.3, 0.4, 0.5, 0.55, 0.6)
FALSE_MATCHES = (1e-2, 1e-3)
W = 0.5
Damage = Callable[[np.ndarray, int], np.ndarray]


def shown(path: Path) -> np.ndarray:
    """Read a face at the side at which all are damaged, RGB uint8 (128,128,3)."""
    return cv2.resize(imread(path), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def damaged(ranges: DegradationRanges, face: np.ndarray, number: int) -> np.ndarray:
    """Damage a face; its number draws the strength."""
    return to_bytes(degrade(to_unit(face), ranges.scaled(SIDE), np.random.default_rng([0, number])))


DAMAGES: dict[str, Damage] = {
    'clean': lambda face, number: face,
    'mild': partial(damaged, SMALL),
    'severe': partial(damaged, LARGE),
}


def row(cells: Sequence[object]) -> str:
    """Return a line of a Markdown table."""
    return '| ' + ' | '.join(f'{cell:.3f}' if isinstance(cell, float) else str(cell) for cell in cells) + ' |'


def roc_area(same: Tensor, different: Tensor) -> float:
    """Return the chance that a pair of one person is more similar than a pair of two."""
    order = torch.cat([same, different]).argsort().argsort().double() + 1
    return float((order[: len(same)].mean() - (len(same) + 1) / 2) / len(different))


def judge_people(faces: Path, recognizers: Sequence[str]) -> None:
    """Print how well a damaged face finds its person, by the mean of the person's other, clean photographs."""
    paths = list_pictures(faces, '--faces')
    names = sorted({path.parent.name for path in paths})
    person = torch.tensor([names.index(path.parent.name) for path in paths])
    pictures = [shown(path) for path in paths]
    rates = [f'found at 1 of {round(1 / rate)}' for rate in FALSE_MATCHES]
    levels = [f'found / false at {level}' for level in THRESHOLDS]
    print(row(['recognizer', 'damage', 'same', 'different', 'area', *rates, *levels]))
    for recognizer in recognizers:
        embedder = FaceEmbedder(recognizer)
        clean = embed_faces(embedder, pictures)
        for name, damage in DAMAGES.items():
            seen = embed_faces(embedder, [damage(face, i) for i, face in enumerate(pictures)])
            same, different = cosines_to_people(seen, clean, person)
            found: list[object] = [
                float((same > different.quantile(1 - rate)).double().mean()) for rate in FALSE_MATCHES
            ]
            pairs = [
                f'{float((same >= t).double().mean()):.3f} / {float((different >= t).double().mean()):.4f}'
                for t in THRESHOLDS
            ]
            means = [float(same.mean()), float(different.mean()), roc_area(same, different)]
            print(row([embedder.name, name, *means, *found, *pairs]), flush=True)


def judge_references(
    model: str, faces: Path, recognizers: Sequence[str], judge: str, a_person: int, steps: int
) -> None:
    """Print the IDS, by another recognizer, of severely damaged faces restored with and without a reference.

    Args:
        model: that restores; a name or a file.
        faces: of people.
        recognizers: that read the reference; all must give the embeddings that the model understands.
        judge: the other recognizer.
        a_person: photographs of each person that are restored, at even steps.
        steps: of the search for codes.
    """
    restorer, other = FaceRestorer(model, 'cpu'), FaceEmbedder(judge)
    cases = list(pairs_of(faces, a_person))
    truth = embed_faces(other, [imread(path) for path, _ in cases])
    inputs = [DAMAGES['severe'](shown(path), number) for number, (path, _) in enumerate(cases)]

    def ids(restored: Sequence[np.ndarray]) -> np.ndarray:
        return (embed_faces(other, restored) * truth).sum(1).numpy()

    blind = ids(restorer.restore(inputs, W))
    print(row(['recognizer', 'faces', 'blind', 'told', 'told and searched', 'gain told', 'gain searched']))
    for recognizer in recognizers:
        embedder = FaceEmbedder(recognizer)
        vectors = embed_faces(embedder, [imread(reference) for _, reference in cases])
        told = ids(restorer.restore(inputs, W, identity=vectors))
        searched = [
            restorer.restore(face, W, identity=vector[None], search=CodeSearch(embedder, vector[None], steps))[0]
            for face, vector in zip(tqdm(inputs, embedder.name), vectors, strict=True)
        ]
        means = [float(each.mean()) for each in (blind, told, ids(searched))]
        gains = [float((each - blind).mean()) for each in (told, ids(searched))]
        print(row([embedder.name, len(cases), *means, *gains]), flush=True)


def pairs_of(faces: Path, a_person: int) -> list[tuple[Path, Path]]:
    """Return photographs at even steps, each with the person's next one as its reference."""
    photos = Folder.scan(faces, '--faces')
    cases = []
    for names in people_of(photos).values():
        for place in np.linspace(0, len(names) - 1, min(a_person, len(names))).astype(int):
            cases += [(photos.files[names[place]], own) for own in own_references(photos, names[place], 1, 'next')]
    return cases


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description='Judge recognizers side by side.')
    parser.add_argument('step', choices=('people', 'references'))
    parser.add_argument('recognizers', nargs='+', help='names or files')
    parser.add_argument('--faces', type=Path, required=True, help='aligned faces; for people a folder of each')
    parser.add_argument('--model', default='small', help='references: that restores; a name or a file')
    parser.add_argument('--judge', help='references: the recognizer that measures')
    parser.add_argument('--a_person', type=int, default=4, help='references: photographs of each person')
    parser.add_argument('--steps', type=int, default=5, help='references: of the search')
    args = parser.parse_args(argv)
    if args.step == 'people':
        judge_people(args.faces, args.recognizers)
    else:
        judge_references(args.model, args.faces, args.recognizers, args.judge, args.a_person, args.steps)


if __name__ == '__main__':
    main()
