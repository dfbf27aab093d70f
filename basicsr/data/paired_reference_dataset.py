"""Pairs of low quality and ground truth, with other photographs of the same people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basicsr.data.common import DataError, option
from basicsr.data.embeddings import open_embeddings
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.references import other_photographs, reference_items
from basicsr.data.storage import ChosenFiles, open_files
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class PairedReferenceDataset(PairedImageDataset):
    """As `PairedImageDataset`, with embeddings of other photographs of the person (validation with references).

    References are the first `references` photographs of the person, in the order of their paths, as they are; but those
    that the ground truth was made from, see `other_photographs`. Somebody without any is restored blind.

    Args:
        opt: as there; `dataroot_ref` (photographs, the folder that the pairs were made from for example), and
            `identities`, `embeddings` (of `dataroot_ref`), `recognizer` and `references` as in `ReferenceBlindDataset`.

    Raises:
        DataError: wrong options, or photographs without embeddings.
    """

    OPTION_KEYS = PairedImageDataset.OPTION_KEYS | {
        'dataroot_ref', 'identities', 'embeddings', 'recognizer', 'references',
    }  # fmt: skip

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        root, truth_root = (Path(option(opt, key)) for key in ('dataroot_ref', 'dataroot_gt'))
        self.count = int(opt.get('references', 1))
        if self.count < 1:
            raise DataError(f'references: {self.count}; a face needs 1 or more')
        table, files = open_embeddings(opt), open_files(opt, 'dataroot_ref')
        self.vectors, self.photos = table.vectors[:, 0, 0].float(), files.paths
        self.rows = table.rows(files, root)
        missing = [path for path, row in zip(files.paths, self.rows, strict=True) if row is None]
        if missing:
            raise DataError(table.lack_of(missing[0], len(missing), len(files.paths), root))
        truths = ChosenFiles(self.files[1], [truth for _, truth in self.places])
        contents = table.rows(truths, truth_root), self.rows
        others = other_photographs(truths, files, (truth_root, root), opt.get('identities'), contents)
        self.chosen = [found[: self.count] for found in others]

    def __getitem__(self, v: int) -> dict[str, Any]:
        """As `PairedImageDataset`, with the items of `reference_items`."""
        chosen = self.chosen[v % len(self)]
        vectors = [self.vectors[row] for row in (self.rows[index] for index in chosen) if row is not None]
        paths = [self.photos[index] for index in chosen]
        return super().__getitem__(v) | reference_items(vectors, paths, self.count, self.vectors.shape[1])
