"""Clean faces, damaged copies, and what other photographs of the same person tell."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from basicsr.data.common import DataError
from basicsr.data.embeddings import Embeddings, open_embeddings
from basicsr.data.ffhq_blind_dataset import FFHQBlindDataset, FFHQBlindJointDataset, Item
from basicsr.data.people import people_of
from basicsr.data.references import References
from basicsr.data.storage import ChosenFiles, Files
from basicsr.utils.registry import DATASET_REGISTRY

logger = logging.getLogger(__name__)
REFERENCE_KEYS = frozenset({'identities', 'embeddings', 'recognizer', 'references', 'self_reference'})
CHANCE = 1  # tells the generator of an item's references from the one of its damage


@DATASET_REGISTRY.register()
class ReferenceBlindDataset(FFHQBlindDataset):
    """As `FFHQBlindDataset`, of people with more than one photograph, and with embeddings of the others (stage II).

    A reference is never the file itself, nor a copy of it. Which references an item has, their variant and whether they
    are mirrored follow from seed and index like all else.

    Args:
        opt: as there; `identities` (a list of file and person, see `people_of`; default: the pictures lie in
            `dataroot_gt/<person>/`), `embeddings` (a file of id-codeformer data embed; required), `recognizer` (its
            name or weights file; given, the embeddings must be of it), `references` (of a face, default 1; a mask tells
            those that there are), `self_reference` (default false: people with one photograph are left out; true: the
            photograph, mirrored and degraded, is its own reference). With `on_error: skip` photographs without
            embeddings are left out.

    Raises:
        DataError: wrong options, a photograph without embeddings, or nobody with two photographs.
    """

    OPTION_KEYS = FFHQBlindDataset.OPTION_KEYS | REFERENCE_KEYS

    def _open(self, opt: Mapping[str, Any]) -> Files:
        """Return the pictures that have references."""
        files = super()._open(opt)
        table = open_embeddings(opt)
        people = people_of(files.paths, self.root, opt.get('identities'))
        files, people, rows = self._embedded(files, people, table)
        count, own = int(opt.get('references', 1)), bool(opt.get('self_reference', False))
        everybody = References(files.paths, people, rows, table.vectors, count, own)
        served = [index for index in range(len(rows)) if everybody.can_serve(index)]
        if not served:
            raise DataError(f'{self.root}: nobody has two different photographs; add some, or set self_reference: true')
        if len(served) < len(rows):
            logger.info('%d pictures left out, whose people have no other', len(rows) - len(served))
        files = ChosenFiles(files, served)
        people, rows = [people[index] for index in served], [rows[index] for index in served]
        self.references = References(files.paths, people, rows, table.vectors, count, own)
        logger.info('%s: %d pictures of %d people', self.root, len(rows), len(set(people)))
        return files

    def _embedded(
        self, files: Files, people: list[str | None], table: Embeddings
    ) -> tuple[Files, list[str | None], list[int]]:
        """Return the pictures of known people, these people, and the rows of the pictures' embeddings."""
        rows = table.rows(files, self.root)
        missing = [index for index, row in enumerate(rows) if row is None and people[index] is not None]
        if missing:
            message = table.lack_of(files.paths[missing[0]], len(missing), len(rows), self.root)
            if self.on_error == 'raise':
                raise DataError(message)
            logger.warning('%s. They are left out', message)
        kept = [(index, row) for index, row in enumerate(rows) if row is not None and people[index] is not None]
        return ChosenFiles(files, [i for i, _ in kept]), [people[i] for i, _ in kept], [row for _, row in kept]

    def _load(self, index: int, flip: bool) -> tuple[np.ndarray, Item]:
        image, extra = super()._load(index, flip)
        return image, {**extra, 'shown': (index, flip)}

    def __getitem__(self, v: int) -> Item:
        """As `FFHQBlindDataset`, with 'identity', 'identity_mask' and 'ref_path' of `References`."""
        item = super().__getitem__(v)
        index, flip = item.pop('shown')
        return {**item, **self.references(index, flip, np.random.default_rng([self.seed, v, CHANCE]))}


@DATASET_REGISTRY.register()
class ReferenceBlindJointDataset(ReferenceBlindDataset, FFHQBlindJointDataset):
    """As `ReferenceBlindDataset`, at the two severities of `FFHQBlindJointDataset` (stage III)."""

    OPTION_KEYS = FFHQBlindJointDataset.OPTION_KEYS | REFERENCE_KEYS
