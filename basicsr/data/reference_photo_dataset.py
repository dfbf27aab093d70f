"""Clean faces, damaged copies, and other photographs of the same person as pictures."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basicsr.data.common import DataError, resize_square
from basicsr.data.ffhq_blind_dataset import FFHQBlindDataset, Item
from basicsr.data.people import people_of
from basicsr.data.storage import ChosenFiles, Files, digests, read_file
from basicsr.utils.registry import DATASET_REGISTRY

SMALLEST = 64
CHANCE = 3  # tells the generator of an item's photographs from the others

logger = logging.getLogger(__name__)


@DATASET_REGISTRY.register()
class ReferencePhotoDataset(FFHQBlindDataset):
    """As `FFHQBlindDataset`, of people with more than one photograph, and with the others as pictures (RIDFR).

    A reference is never the file itself, nor a copy of it; a face has different ones as far as there are. Each is
    reduced at random to a side between 64 and the full size, and enlarged again (section 4.1 of the paper). All follows
    from seed and index.

    Args:
        opt: as there; `identities` (a list of file and person, see `people_of`; default: the pictures lie in
            `dataroot_gt/<person>/`), `references` (of a face, default 2; a mask tells those that there are).

    Raises:
        DataError: wrong options, or nobody with two photographs.
    """

    OPTION_KEYS = FFHQBlindDataset.OPTION_KEYS | {'identities', 'references'}

    def _open(self, opt: Mapping[str, Any]) -> Files:
        """Return the pictures whose people have another one."""
        self.count = int(opt.get('references', 2))
        if self.count < 1:
            raise DataError(f'references: {self.count}; a face needs 1 or more')
        files = super()._open(opt)
        people = people_of(files.paths, self.root, opt.get('identities'))
        contents = digests(files)
        photos: dict[str, dict[bytes, int]] = defaultdict(dict)
        for index, (person, content) in enumerate(zip(people, contents, strict=True)):
            if person is not None:
                photos[person].setdefault(content, index)
        self.all_files = files
        served = [index for index, person in enumerate(people) if person is not None and len(photos[person]) > 1]
        if not served:
            raise DataError(f'{self.root}: nobody has two different photographs; add some')
        if len(served) < len(people):
            logger.info('%d pictures left out, whose people have no other', len(people) - len(served))
        self.others = [
            [other for content, other in photos[str(people[index])].items() if content != contents[index]]
            for index in served
        ]
        return ChosenFiles(files, served)

    def _load(self, index: int, flip: bool) -> tuple[np.ndarray, Item]:
        image, extra = super()._load(index, flip)
        return image, {**extra, 'shown': index}

    def __getitem__(self, v: int) -> Item:
        """As `FFHQBlindDataset`, with 'reference' (R,3,gt_size,gt_size), 'identity_mask' (R,) bool and 'ref_path'."""
        item = super().__getitem__(v)
        rng = np.random.default_rng([self.seed, v, CHANCE])
        chosen = rng.permutation(self.others[item.pop('shown')])[: self.count].tolist()
        photos = torch.zeros(self.count, 3, self.gt_size, self.gt_size)
        for place, index in enumerate(chosen):
            photos[place] = self._photograph(index, rng)
        mask = torch.arange(self.count) < len(chosen)
        paths = ';'.join(str(self.all_files.paths[index]) for index in chosen)
        return {**item, 'reference': photos, 'identity_mask': mask, 'ref_path': paths}

    def _photograph(self, index: int, rng: np.random.Generator) -> Tensor:
        """Return a photograph, reduced to a random side and enlarged again, normalised."""
        full = self.gt_size
        image = read_file(self.all_files, index, full / 4)
        side = int(rng.integers(min(SMALLEST, full), full, endpoint=True))
        return self.normalise(resize_square(resize_square(image, side), full))
