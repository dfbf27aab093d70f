"""Pairs of low quality and ground truth, with other photographs of the same people as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from basicsr.data.common import DataError, option, resize_square
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.references import other_photographs
from basicsr.data.storage import ChosenFiles, digests, open_files, read_file
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class PairedPhotoDataset(PairedImageDataset):
    """As `PairedImageDataset`, with other photographs of the person as pictures (validation of RIDFR).

    References are the first `references` photographs of the person, in the order of their paths, resized to the side of
    the ground truth; but those that the ground truth was made from, see `other_photographs`. Somebody without any is
    restored blind.

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
        truths = ChosenFiles(self.files[1], [truth for _, truth in self.places])
        contents = digests(truths), digests(self.photos)
        others = other_photographs(truths, self.photos, (truth_root, root), opt.get('identities'), contents)
        self.chosen = [found[: self.count] for found in others]

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
