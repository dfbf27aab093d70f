"""Pairs of low quality and ground truth, with other photographs of the same people."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from basicsr.data.common import DataError, option, resize_square
from basicsr.data.embeddings import open_embeddings
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.references import other_photographs, reference_items
from basicsr.data.storage import ChosenFiles, Files, digests, open_files, read_file
from basicsr.utils.registry import DATASET_REGISTRY


class PairedWithPeople(PairedImageDataset):
    """As `PairedImageDataset`, with other photographs of the person.

    References are the first `references` photographs of the person, in the order of their paths; but those that the
    ground truth was made from, see `other_photographs`. Somebody without any is restored blind.

    Args:
        opt: as there; `dataroot_ref` (photographs, the folder that the pairs were made from for example), `identities`
            (a list of file and person, see `people_of`), `references` (of a face, default 1).

    Raises:
        DataError: wrong options.
    """

    OPTION_KEYS = PairedImageDataset.OPTION_KEYS | {'dataroot_ref', 'identities', 'references'}

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self.ref_root, truth_root = (Path(option(opt, key)) for key in ('dataroot_ref', 'dataroot_gt'))
        self.count = int(opt.get('references', 1))
        if self.count < 1:
            raise DataError(f'references: {self.count}; a face needs 1 or more')
        self.photos = open_files(opt, 'dataroot_ref')
        truths = ChosenFiles(self.files[1], [truth for _, truth in self.places])
        contents = self._contents(opt, truths, truth_root)
        others = other_photographs(truths, self.photos, (truth_root, self.ref_root), opt.get('identities'), contents)
        self.chosen = [found[: self.count] for found in others]

    @abstractmethod
    def _contents(self, opt: Mapping[str, Any], truths: Files, truth_root: Path) -> tuple[Sequence, Sequence]:
        """Return the contents of ground truths and photographs, whatever is the same for copies of a file."""


@DATASET_REGISTRY.register()
class PairedReferenceDataset(PairedWithPeople):
    """As `PairedWithPeople`, with embeddings of the photographs as they are (validation with references).

    Args:
        opt: as there; `embeddings` (of `dataroot_ref`) and `recognizer` as in `ReferenceBlindDataset`.

    Raises:
        DataError: wrong options, or photographs without embeddings.
    """

    OPTION_KEYS = PairedWithPeople.OPTION_KEYS | {'embeddings', 'recognizer'}

    def _contents(self, opt: Mapping[str, Any], truths: Files, truth_root: Path) -> tuple[Sequence, Sequence]:
        table, paths = open_embeddings(opt), self.photos.paths
        self.vectors = table.vectors[:, 0, 0].float()
        self.rows = table.rows(self.photos, self.ref_root)
        missing = [path for path, row in zip(paths, self.rows, strict=True) if row is None]
        if missing:
            raise DataError(table.lack_of(missing[0], len(missing), len(paths), self.ref_root))
        return table.rows(truths, truth_root), self.rows

    def __getitem__(self, v: int) -> dict[str, Any]:
        """As `PairedImageDataset`, with the items of `reference_items`."""
        chosen = self.chosen[v % len(self)]
        vectors = [self.vectors[row] for row in (self.rows[index] for index in chosen) if row is not None]
        paths = [self.photos.paths[index] for index in chosen]
        return super().__getitem__(v) | reference_items(vectors, paths, self.count, self.vectors.shape[1])


@DATASET_REGISTRY.register()
class PairedPhotoDataset(PairedWithPeople):
    """As `PairedWithPeople`, with the photographs as pictures of the ground truth's side (validation of RIDFR)."""

    def _contents(self, opt: Mapping[str, Any], truths: Files, truth_root: Path) -> tuple[Sequence, Sequence]:
        return digests(truths), digests(self.photos)

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
