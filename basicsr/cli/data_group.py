"""Grouping of aligned faces by person, by a recognizer's embeddings, for sets without labels.

    id-codeformer data embed -i datasets/faces -o datasets/faces.safetensors --weights arcface_ir_se50
    id-codeformer data group -i datasets/faces --embeddings datasets/faces.safetensors \
        -o datasets/faces.csv --threshold 0.5

Faces whose cosine is at least the threshold are one person, and so are all that are linked in this way. Written are
the list (`file`, `person`; `datasets:train:identities`), beside it a report (`.json`) and the pairs nearest to the
threshold (`_pairs.png`): left those that are just above it and should show one person each, right those just below it
that were kept apart and should show two. Wrong pairs on the left ask for a higher threshold, on the right for a lower.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.cli.arguments import ArgumentParser
from basicsr.data.common import DataError
from basicsr.data.embeddings import Embeddings
from basicsr.data.storage import FolderFiles
from basicsr.utils.errors import extra
from basicsr.utils.files import replacing, write_text
from basicsr.utils.image import TILE, imread, imwrite, sheet

with extra('references'):
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

BLOCK = 2048  # faces compared with all others at a time
COPY = 0.999  # cosine above which two pictures are taken for copies, which make dull examples
EXAMPLES = 6


class Pairs(NamedTuple):
    """Pairs of faces, each once.

    Attributes:
        first: numbers of faces.
        second: larger numbers of faces.
        cosine: of their embeddings.
    """

    first: Tensor
    second: Tensor
    cosine: Tensor

    def best(self, count: int | None, largest: bool) -> Pairs:
        """Return the pairs of largest or smallest cosine, in that order; None takes all."""
        order = self.cosine.argsort(descending=largest)[:count]
        return Pairs(*(values[order] for values in self))


def find_pairs(vectors: Tensor, wanted: Callable[[Tensor, slice], Tensor], most: int | None = None) -> Pairs:
    """Pairs of faces, by unit vectors (N,D), or the `most` alike of them.

    Args:
        vectors: of the faces.
        wanted: of the cosines (n,N) of some faces, a slice of all, to all others: which pairs are wanted (n,N), bool.
        most: how many.
    """
    found = []
    for start in range(0, len(vectors), BLOCK):
        part = slice(start, min(start + BLOCK, len(vectors)))
        cosine = vectors[part] @ vectors.T
        later = torch.arange(len(vectors)) > torch.arange(part.start, part.stop)[:, None]
        rows, columns = (later & wanted(cosine, part)).nonzero(as_tuple=True)
        found.append(Pairs(rows + start, columns, cosine[rows, columns]).best(most, largest=True))
    return Pairs(*(torch.cat(values) for values in zip(*found, strict=True))).best(most, largest=True)


def group(count: int, pairs: Pairs) -> np.ndarray:
    """Return the person of each of `count` faces (count,), numbered by the first face; pairs link people."""
    links = coo_array((np.ones(len(pairs.first), bool), (pairs.first.numpy(), pairs.second.numpy())), (count, count))
    return connected_components(links, directed=False)[1]


def example_sheet(paths: Sequence[Path], pairs: Pairs) -> list[np.ndarray]:
    """Two faces side by side with their cosine, for each pair."""
    tiles = []
    for first, second, cosine in zip(*(values.tolist() for values in pairs), strict=True):
        faces = [cv2.resize(imread(paths[index]), (TILE // 2, TILE // 2)) for index in (first, second)]
        tile = np.full((TILE, TILE, 3), 255, np.uint8)
        tile[TILE // 4 : TILE // 4 + TILE // 2] = np.hstack(faces)
        cv2.putText(tile, f'{cosine:.3f}', (6, TILE - 14), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
        tiles.append(tile)
    return tiles


def summarise(people: np.ndarray, above: Pairs, threshold: float, recognizer: str) -> dict[str, Any]:
    """Build the report."""
    sizes = np.bincount(people)
    linked = int(sum(size * (size - 1) // 2 for size in sizes.tolist()))
    return {
        'recognizer': recognizer,
        'threshold': threshold,
        'faces': len(people),
        'people': len(sizes),
        'people_with_several_faces': int((sizes > 1).sum()),
        'largest_group': int(sizes.max()),
        'people_by_number_of_faces': {str(size): count for size, count in sorted(Counter(sizes.tolist()).items())},
        'pairs_of_one_person': linked,
        'of_them_below_the_threshold': linked - len(above.first),
    }


def embedded(root: Path, file: Path) -> tuple[list[Path], Tensor, str]:
    """Return the pictures, their unit vectors (N,D), of the picture and its mirror image, and the recognizer's name.

    Raises:
        DataError: no pictures, no embeddings, or not of all of them.
    """
    files, table = FolderFiles(root, '--input'), Embeddings.read(file)
    rows = table.rows(files, root)
    missing = [path for path, row in zip(files.paths, rows, strict=True) if row is None]
    if missing:
        raise DataError(table.lack_of(missing[0], len(missing), len(rows), root))
    vectors = table.vectors[torch.tensor(rows), :, 0].float().sum(1)
    return files.paths, F.normalize(vectors, dim=1), table.recognizer


def write_list(path: Path, root: Path, pictures: Sequence[Path], people: np.ndarray) -> None:
    """Write the CSV that `datasets:train:identities` takes."""
    with replacing(path) as partial, partial.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['file', 'person'])
        for picture, person in zip(pictures, people.tolist(), strict=True):
            writer.writerow([picture.relative_to(root).as_posix(), f'p{person:06d}'])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Group aligned faces by person.')
    parser.add_argument('-i', '--input', type=Path, required=True, help='folder of aligned faces, sub-folders included')
    parser.add_argument('--embeddings', type=Path, required=True, help='of them, made with id-codeformer data embed')
    parser.add_argument('-o', '--output', type=Path, required=True, help='list to write (.csv)')
    parser.add_argument('--threshold', type=float, default=0.5, help='cosine from which two faces are one person (0.5)')
    args = parser.parse_args(argv)
    if args.output.suffix != '.csv' or not -1 < args.threshold < 1:
        parser.error('--output must end in .csv, and --threshold lie between -1 and 1')
    try:
        paths, vectors, recognizer = embedded(args.input, args.embeddings)
    except DataError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    above = find_pairs(vectors, lambda cosine, part: cosine >= args.threshold)
    people = group(len(paths), above)
    numbers = torch.from_numpy(people)
    apart = find_pairs(vectors, lambda cosine, part: numbers[part, None] != numbers, EXAMPLES)
    write_list(args.output, args.input, paths, people)
    report = summarise(people, above, args.threshold, recognizer)
    write_text(args.output.with_suffix('.json'), json.dumps(report, indent=2) + '\n')
    distinct = Pairs(*(values[above.cosine < COPY] for values in above)).best(EXAMPLES, largest=False)
    columns = [example_sheet(paths, pairs) for pairs in (distinct, apart)]
    blank = np.full((TILE, TILE, 3), 255, np.uint8)
    rows = [[*(column[row] if row < len(column) else blank for column in columns)] for row in range(EXAMPLES)]
    imwrite(args.output.with_name(f'{args.output.stem}_pairs.png'), sheet(rows, ['one person?', 'two people?']))
    for key, value in report.items():
        print(f'{key:28} {value}')
    return 0
