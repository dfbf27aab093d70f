"""Faces of invented people, damaged copies, and other photographs of each; made of one photograph a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.data.common import DataError
from basicsr.data.degradation import to_bytes, to_unit
from basicsr.data.embeddings import reference_variants
from basicsr.data.ffhq_blind_dataset import FFHQBlindDataset
from basicsr.data.ffhq_blind_joint_dataset import FFHQBlindJointDataset
from basicsr.data.identity_augment import ANOTHER_PHOTOGRAPH, SOMEBODY_ELSE
from basicsr.utils.registry import DATASET_REGISTRY

TABLES = frozenset({'latent_gt_path', 'component_path'})  # they are of the faces as they lie there
CHANCE = 2  # tells the generator of people from the one of damage


@DATASET_REGISTRY.register('InventedPeopleDataset')
class SyntheticIdentityDataset(FFHQBlindDataset):
    """As `FFHQBlindDataset`, of people who do not exist, each with other photographs as references (stage II).

    For training with references where people have one photograph each, or are of few kinds: see `IdentityAugment`. The
    training embeds the references itself, with the recognizer that `train:identity_reference` names.

    Args:
        opt: as there, without tables of the faces; `references` (of a face, default 1), `mismatch_prob` (share of faces
            whose damaged copy shows somebody else than the target and the references do, in the same pose; default 0).
            They teach that a reference counts.

    Raises:
        DataError: wrong options, or no pictures.
    """

    OPTION_KEYS = (FFHQBlindDataset.OPTION_KEYS | {'references', 'mismatch_prob'}) - TABLES

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self.count = int(opt.get('references', 1))
        if self.count < 1:
            raise DataError(f'references: {self.count}; a face needs 1 or more')
        self.mismatch_prob = float(opt.get('mismatch_prob') or 0)
        if not 0 <= self.mismatch_prob <= 1:
            raise DataError(f'mismatch_prob: a share from 0 to 1, not {self.mismatch_prob}')

    def _faces(self, image: np.ndarray, rng: np.random.Generator, v: int) -> dict[str, Tensor]:
        """As `FFHQBlindDataset`, with 'reference' (references,3,gt_size,gt_size), normalised."""
        chance, face = np.random.default_rng([self.seed, v, CHANCE]), to_unit(image)
        person = SOMEBODY_ELSE(face, chance)
        seen = SOMEBODY_ELSE(face, chance) if chance.random() < self.mismatch_prob else person
        references = torch.stack([self._photograph(person, chance) for _ in range(self.count)])
        return {**self._inputs(seen, rng), 'gt': self.normalise(to_bytes(person)), 'reference': references}

    def _photograph(self, person: np.ndarray, chance: np.random.Generator) -> Tensor:
        """Another one of the person, perhaps mirrored and lightly degraded."""
        image = to_bytes(ANOTHER_PHOTOGRAPH(person, chance))
        if chance.random() < 0.5:
            image = cv2.flip(image, 1)
        return self.normalise(reference_variants(image, 2, chance)[int(chance.integers(2))])


@DATASET_REGISTRY.register('InventedPeopleJointDataset')
class SyntheticIdentityJointDataset(SyntheticIdentityDataset, FFHQBlindJointDataset):
    """As `SyntheticIdentityDataset`, at the two severities of `FFHQBlindJointDataset` (stage III)."""

    OPTION_KEYS = SyntheticIdentityDataset.OPTION_KEYS | FFHQBlindJointDataset.OPTION_KEYS - TABLES
