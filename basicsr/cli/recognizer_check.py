"""Check a face recognizer on aligned faces of known people: `id-codeformer recognizer check WEIGHTS -i FACES`.

FACES holds a folder for each person. A recognizer with the right crop, channel order and normalisation puts photographs
of one person near each other and those of two people at right angles; a shifted crop shows at once.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from basicsr.cli.arguments import ArgumentParser
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.registry import RECOGNIZERS
from basicsr.utils.files import user_path
from basicsr.utils.image import ImageReadError, imread, scan_images, to_tensor

SAME, DIFFERENT = 0.68, 0.06
"""Mean cosines that sharp, aligned photographs reach with a recognizer of the last years."""


def embed_people(embedder: FaceEmbedder, folder: Path) -> tuple[Tensor, Tensor]:
    """Return the embeddings (N,D) of the pictures in the folders of `folder`, and the number (N,) of each one's folder.

    Raises:
        ValueError: there is no pair of pictures of one person, or none of two.
    """
    paths = [path for path in scan_images(folder) if path.parent != folder]
    people = sorted({path.parent for path in paths})
    if len(people) < 2 or len(paths) == len(people):
        raise ValueError(
            f'{folder}: needs two folders of pictures or more, one for each person, with two or more in one of them'
        )
    with torch.no_grad():
        embeddings = [embedder(to_tensor(imread(path))[None])[0] for path in paths]
    return torch.stack(embeddings), torch.tensor([people.index(path.parent) for path in paths])


def cosines(embeddings: Tensor, people: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines of all pairs of pictures of one person, and of all pairs of two people; each pair once."""
    first, second = torch.triu_indices(len(people), len(people), offset=1)
    values, same = (embeddings[first] * embeddings[second]).sum(dim=1), people[first] == people[second]
    return values[same], values[~same]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 when the means are `SAME` or more and `DIFFERENT` or less."""
    parser = ArgumentParser(description='Check a face recognizer on aligned faces of known people.')
    parser.add_argument(
        'weights',
        type=user_path,
        help=f'a file, an InsightFace pack, or one of {", ".join(RECOGNIZERS)}',
    )
    parser.add_argument('-i', '--input', type=Path, required=True, help='a folder of aligned faces for each person')
    parser.add_argument('--flip', action='store_true', help='embed the mirrored faces as well')
    args = parser.parse_args(argv)
    try:
        embedder = FaceEmbedder(args.weights, args.flip)
        embeddings, people = embed_people(embedder, args.input)
    except (ValueError, FileNotFoundError, ImageReadError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    for key, value in asdict(embedder.recognizer).items():
        print(f'{key:13} {value}')
    same, different = cosines(embeddings, people)
    for title, values in (('one person', same), ('two people', different)):
        low, high = values.quantile(torch.tensor([0.05, 0.95])).tolist()
        print(f'{title}: mean cosine {values.mean():.3f}, 5 % {low:.3f}, 95 % {high:.3f}, {len(values)} pairs')
    fits = bool(same.mean() >= SAME and different.mean() <= DIFFERENT)
    print(f'{"fits" if fits else "DOES NOT FIT"}: expected at least {SAME} and at most {DIFFERENT}')
    return 0 if fits else 1
