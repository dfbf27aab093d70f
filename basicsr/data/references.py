"""References of each picture: other photographs of the person, and their embeddings."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basicsr.data.common import DataError, relative_key
from basicsr.data.people import people_of
from basicsr.data.storage import Files

logger = logging.getLogger(__name__)


def reference_items(vectors: Sequence[Tensor], paths: Sequence[Path], count: int, dim: int) -> dict[str, Any]:
    """Return the items of a dataset for one face's references.

    Args:
        vectors: their embeddings (dim,), `count` or fewer.
        paths: their files.
        count: R.
        dim: D.

    Returns:
        'identity' (R,D) float32, zero where there is none; 'identity_mask' (R,), bool; 'ref_path', joined by ';'.
    """
    identity = torch.zeros(count, dim)
    for place, vector in enumerate(vectors):
        identity[place] = vector
    mask = torch.arange(count) < len(vectors)
    return {'identity': identity, 'identity_mask': mask, 'ref_path': ';'.join(map(str, paths))}


def other_photographs(
    truths: Files, photos: Files, roots: tuple[Path, Path], identities: str | None, contents: tuple[Sequence, Sequence]
) -> list[list[int]]:
    """Return the photographs of each ground truth's person, but those that it was made from, in their order.

    Left out are the photograph of its path below the folder without extension, and copies of that or of its own
    content. The log says how many have none.

    Args:
        truths: ground truths.
        photos: photographs of people.
        roots: folders of both.
        identities: see `people_of`.
        contents: of both, whatever is the same for copies of a file.
    """
    (truth_root, root), (truth_contents, photo_contents) = roots, contents
    by_person: dict[str, list[int]] = defaultdict(list)
    for index, person in enumerate(people_of(photos.paths, root, identities)):
        if person is not None:
            by_person[person].append(index)
    by_name = {relative_key(path, root): photo_contents[index] for index, path in enumerate(photos.paths)}
    chosen = []
    people = people_of(truths.paths, truth_root, identities)
    for path, person, own in zip(truths.paths, people, truth_contents, strict=True):
        source = by_name.get(relative_key(path, truth_root))
        chosen.append([i for i in by_person.get(person or '', []) if photo_contents[i] not in (own, source)])
    alone = sum(not others for others in chosen)
    if alone:
        logger.warning('%d of %d pairs have no reference and are restored blind', alone, len(chosen))
    return chosen


class References:
    """References of pictures: other photographs of the same person.

    Args:
        paths: the pictures, P of them.
        people: who is on each; None for nobody that is known.
        rows: of each the row of its embeddings; one row is one content, whatever the files are called.
        vectors: embeddings (rows,2,K,D): as it is and mirrored, in K variants of which the first is not degraded.
        count: references of a picture, R.
        self_reference: somebody with one photograph has that itself, in its degraded variants, mirrored ones first.

    Raises:
        DataError: numbers that do not allow it.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        people: Sequence[str | None],
        rows: Sequence[int],
        vectors: Tensor,
        count: int = 1,
        self_reference: bool = False,
    ) -> None:
        if count < 1:
            raise DataError(f'references: {count}; a face needs 1 or more')
        if self_reference and vectors.shape[2] < 2:
            raise DataError('self_reference needs degraded variants; embed with --variants 2 or more')
        self.paths, self.people, self.rows, self.vectors = paths, people, rows, vectors
        self.count, self.self_reference = count, self_reference
        photos: dict[str, dict[int, int]] = defaultdict(dict)  # of a person, the first picture of each content
        for index, (person, row) in enumerate(zip(people, rows, strict=True)):
            if person is not None:
                photos[person].setdefault(row, index)
        self.photos = dict(photos)

    def can_serve(self, index: int) -> bool:
        """Return True if picture `index` has a reference."""
        person = self.people[index]
        return person is not None and (self.self_reference or len(self.photos[person]) > 1)

    def __call__(self, index: int, flip: bool, rng: np.random.Generator) -> dict[str, Any]:
        """Return references of picture `index` or (`flip`) of its mirror image, if any; see `reference_items`."""
        row = self.rows[index]
        others = [other for content, other in self.photos[str(self.people[index])].items() if content != row]
        variants = self.vectors.shape[2]
        if others:
            chosen = rng.permutation(others)[: self.count].tolist()
            looks = [(int(rng.integers(2)), int(rng.integers(variants))) for _ in chosen]
        else:
            degraded = (1 + rng.permutation(variants - 1)).tolist()
            looks = [(side, variant) for side in (1 - int(flip), int(flip)) for variant in degraded][: self.count]
            chosen = [index] * len(looks)
        vectors = [self.vectors[self.rows[photo]][look] for photo, look in zip(chosen, looks, strict=True)]
        return reference_items(vectors, [self.paths[photo] for photo in chosen], self.count, self.vectors.shape[3])
