"""Faces of invented people, damaged copies, and other photographs of each; made of one photograph a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.data.common import DataError
from basicsr.data.degradation import to_bytes, to_unit
from basicsr.data.embeddings import reference_variants
from basicsr.data.ffhq_blind_dataset import FFHQBlindDataset, FFHQBlindJointDataset
from basicsr.utils.registry import DATASET_REGISTRY

GRID = 5
"""Points a side that are moved; between them the movement is smooth."""


@dataclass(frozen=True)
class IdentityAugment:
    """Strength of the change of a face.

    At most, with `warp` 0.026 and `proportions` 0.07, the result is as unlike the face to a recognizer as two
    photographs of one person are (cosine 0.64, theirs 0.6 to 0.7, strangers' 0; 0.78 as drawn), and still a face.

    Attributes:
        warp: deviation of the movement of a point, share of the side.
        proportions: width and height are scaled by up to this (0.07: by exp(-0.07) to exp(0.07)).
        gamma: exponent of the brightness, exp(-gamma) to exp(gamma).
        saturation: likewise, its factor.
        white_balance: deviation of the logarithm of each channel's factor.
    """

    warp: float = 0.026
    proportions: float = 0.07
    gamma: float = 0.4
    saturation: float = 0.4
    white_balance: float = 0.06

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Somebody else of the same pose: all strengths are reduced by one random share, 0 to 1.

        Args:
            image: float32 (S,S,3) RGB in [0, 1]; left as it is.
            rng: the only source of chance.

        Returns:
            float32 (S,S,3) in [0, 1].
        """
        share = rng.random()
        return self._toned(self._bent(image, share, rng), share, rng)

    def _bent(self, image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
        side = len(image)
        moves = rng.normal(0, share * self.warp * side, (GRID, GRID, 2)).astype(np.float32)
        moves = cv2.resize(moves, (side, side), interpolation=cv2.INTER_CUBIC)
        scales = np.exp(share * rng.uniform(-self.proportions, self.proportions, 2))
        middle = (side - 1) / 2
        places = np.moveaxis(np.mgrid[:side, :side][::-1], 0, 2) - middle
        x, y = np.moveaxis((places * scales + middle + moves).astype(np.float32), 2, 0)
        return cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)

    def _toned(self, image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
        image = np.clip(image, 0, 1) ** np.float32(np.exp(share * rng.uniform(-self.gamma, self.gamma)))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
        image = grey + (image - grey) * np.exp(share * rng.uniform(-self.saturation, self.saturation))
        balanced = image * np.exp(rng.normal(0, share * self.white_balance, 3))
        return np.clip(balanced, 0, 1).astype(np.float32)


SOMEBODY_ELSE = IdentityAugment()
ANOTHER_PHOTOGRAPH = IdentityAugment(warp=0.016, proportions=0.03, gamma=0.3, saturation=0.3)
"""Nearer to the person than that, as drawn: cosine 0.88."""


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
