"""The Fréchet distance of two sets of pictures, of the mean and covariance of a network's features, in float64."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from basicsr.utils.checkpoint import read_table
from basicsr.utils.files import replacing


@dataclass
class FeatureStatistics:
    """Mean and covariance of feature vectors that come one after another.

    Attributes:
        dim: numbers in a vector.
        count: vectors so far; None where a file does not say.
    """

    dim: int
    count: int | None = 0
    _mean: np.ndarray = field(init=False, repr=False)
    _scatter: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._mean = np.zeros(self.dim)
        self._scatter = np.zeros((self.dim, self.dim))

    def add(self, vector: np.ndarray) -> None:
        """Take one vector (dim,) in (Welford, 1962: no cancellation, whatever the mean)."""
        vector = np.asarray(vector, np.float64)
        self.count = (self.count or 0) + 1
        before = vector - self._mean
        self._mean += before / self.count
        self._scatter += np.outer(before, vector - self._mean)

    @property
    def mean(self) -> np.ndarray:
        """(dim,)."""
        return self._mean

    @property
    def covariance(self) -> np.ndarray:
        """(dim,dim), with the divisor count - 1.

        Raises:
            ValueError: of fewer than two vectors.
        """
        if self.count is None:
            return self._scatter
        if self.count < 2:
            raise ValueError(f'a covariance needs two pictures at least, not {self.count}')
        return self._scatter / (self.count - 1)

    def save(self, path: str | os.PathLike, network: str) -> None:
        """Write `mu` and `sigma`, as pytorch-fid names them, with the count and the network's name (.npz)."""
        with replacing(path) as partial, partial.open('wb') as file:
            np.savez(file, mu=self.mean, sigma=self.covariance, count=self.count or 0, network=network)

    @classmethod
    def load(cls, path: str | os.PathLike, dim: int, network: str) -> FeatureStatistics:
        """Statistics of a file of `save`, of pytorch-fid (`mu`, `sigma`) or of BasicSR (.pth with `mean`, `cov`).

        Args:
            path: .npz or .pth.
            dim: numbers that the network gives.
            network: its name; a file that states another one is refused.

        Raises:
            ValueError: not such a file, or of another network; the message names the file.
        """
        try:
            content, names = _read(Path(path))
            mean, covariance = (np.asarray(content[key], np.float64) for key in names)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path}: not the statistics of features, an .npz with 'mu' and 'sigma' or a .pth with 'mean' and "
                f"'cov' ({error})"
            ) from error
        if mean.shape != (dim,) or covariance.shape != (dim, dim):
            raise ValueError(f'{path}: mu {mean.shape} and sigma {covariance.shape} are not those of {dim} features')
        made_with = str(content.get('network', network))
        if made_with != network:
            raise ValueError(f'{path}: made with {made_with}, not with {network}; remove the file to make it anew')
        statistics = cls(dim, None)
        statistics._mean, statistics._scatter = mean, covariance
        return statistics


def _read(path: Path) -> tuple[Mapping[str, Any], tuple[str, str]]:
    """Return the content of a file of statistics, and what it calls mean and covariance."""
    if path.suffix == '.pth':
        return read_table(path), ('mean', 'cov')
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}, ('mu', 'sigma')


def _root(matrix: np.ndarray) -> np.ndarray:
    """Return the square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians (Dowson and Landau, 1982).

    The trace of the root is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric: that goes well where the
    covariances are singular, too, as they are with fewer pictures than features.

    Raises:
        ValueError: a set of fewer than two pictures.
    """
    root = _root(first.covariance)
    overlap = np.sqrt(np.linalg.eigvalsh(root @ second.covariance @ root).clip(0)).sum()
    difference = first.mean - second.mean
    return float(difference @ difference + np.trace(first.covariance) + np.trace(second.covariance) - 2 * overlap)
