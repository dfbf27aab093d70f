"""Pairs of low quality and ground truth, with other photographs of the same people as pictures."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from basicsr.data.common import DataError, option, relative_key, resize_square
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.people import people_of
from basicsr.data.storage import ChosenFiles, digests, open_files, read_file
from basicsr.utils.registry import DATASET_REGISTRY

logger = logging.getLogger(__name__)


@DATASET_REGISTRY.register()
class PairedPhotoDataset(PairedImageDataset):
    """As `PairedImageDataset`, with other photographs of the person as pictures (validation of RIDFR).

    References are the first `references` photographs of the person, in the order of their paths, resized to the side of
    the ground truth; but those of its path below the folder without extension, and copies of it. Somebody without any
    is restored blind.

    Args:
        opt: as there; `dataroot_ref` (photographs, the folder that the pairs were made from for example), `identities`
            (a list of file and person, see `people_of`), `references` (of a face, default 1).

    Raises:
        DataError: wrong options.
    """

    OPTION_KEYS = PairedImageDataset.OPTION_KEYS | {'dataroot_ref', 'identities', 'references'}

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        root, truth_root = (Path(option(opt, key)) for key in ('dataroot_ref', 'dataroot_gt'))
        self.count = int(opt.get('references', 1))
        if self.count < 1:
            raise DataError(f'references: {self.count}; a face needs 1 or more')
        self.photos = open_files(opt, 'dataroot_ref')
        names = [relative_key(path, root) for path in self.photos.paths]
        contents = digests(self.photos)
        by_person: dict[str, list[int]] = defaultdict(list)
        for index, person in enumerate(people_of(self.photos.paths, root, opt.get('identities'))):
            if person is not None:
                by_person[person].append(index)
        truths = ChosenFiles(self.files[1], [truth for _, truth in self.places])
        people = people_of(truths.paths, truth_root, opt.get('identities'))
        self.chosen: list[list[int]] = []
        for path, person, content in zip(truths.paths, people, digests(truths), strict=True):
            own = relative_key(path, truth_root)
            photos = by_person.get(person or '', [])
            others = [index for index in photos if names[index] != own and contents[index] != content]
            self.chosen.append(others[: self.count])
        alone = sum(not chosen for chosen in self.chosen)
        if alone:
            logger.warning('%d of %d pairs have no reference and are restored blind', alone, len(self.chosen))

    def __getitem__(self, v: int) -> dict[str, Any]:
        """As `PairedImageDataset`, with 'reference' (R,3,S,S), 'identity_mask' (R,) bool and 'ref_path'."""
        item, chosen = super().__getitem__(v), self.chosen[v % len(self)]
        side = item['gt'].shape[-1]
        photos = torch.zeros(self.count, 3, side, side)
        for place, index in enumerate(chosen):
            photos[place] = self.normalise(resize_square(read_file(self.photos, index), side))
        mask = torch.arange(self.count) < len(chosen)
        paths = ';'.join(str(self.photos.paths[index]) for index in chosen)
        return {**item, 'reference': photos, 'identity_mask': mask, 'ref_path': paths}
