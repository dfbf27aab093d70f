"""Reading and degrading pictures. `build_dataset` finds a dataset by its public name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from basicsr.data.common import LOADER_KEYS, DataError
from basicsr.data.ffhq_blind_dataset import FFHQBlindDataset, FFHQBlindJointDataset
from basicsr.data.paired_image_dataset import PairedImageDataset, check_pairs
from basicsr.data.paired_reference_dataset import PairedPhotoDataset, PairedReferenceDataset
from basicsr.data.reference_blind_dataset import ReferenceBlindDataset, ReferenceBlindJointDataset
from basicsr.data.reference_photo_dataset import ReferencePhotoDataset
from basicsr.data.sampler import ResumableSampler, build_dataloader
from basicsr.data.synthetic_identity_dataset import SyntheticIdentityDataset, SyntheticIdentityJointDataset
from basicsr.utils.registry import DATASET_REGISTRY

__all__ = [
    'LOADER_KEYS',
    'DataError',
    'FFHQBlindDataset',
    'FFHQBlindJointDataset',
    'PairedImageDataset',
    'PairedPhotoDataset',
    'PairedReferenceDataset',
    'ReferenceBlindDataset',
    'ReferenceBlindJointDataset',
    'ReferencePhotoDataset',
    'ResumableSampler',
    'SyntheticIdentityDataset',
    'SyntheticIdentityJointDataset',
    'build_dataloader',
    'build_dataset',
    'check_pairs',
]


def build_dataset(opt: Mapping[str, Any]) -> Dataset:
    """Return the dataset that `opt['type']` names.

    Raises:
        DataError: no 'type'.
        KeyError: an unknown one; the message names the nearest.
    """
    if not opt.get('type'):
        raise DataError(f"a dataset section needs 'type', one of {DATASET_REGISTRY.names()}")
    return DATASET_REGISTRY.get(opt['type'])(opt)
