"""Metrics that are ready to be computed: of one picture after another, or of all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from basicsr.metrics import METRICS
from basicsr.metrics.fid import FeatureStatistics, frechet_distance
from basicsr.metrics.identity import clip_of, cosine, degrees, group_by_input, identity_variance
from basicsr.metrics.neighbours import kernel_distance, precision
from basicsr.metrics.pictures import Case
from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.image import to_tensor

Frames = tuple[np.ndarray, np.ndarray]
NO_CLIP = 'no clip of two frames; name frames <clip>/<frame>.png, in the order of their names'


class NotRunError(IDCodeFormerError):
    """A metric that cannot be computed here; the message says what it lacks."""


class Features(Protocol):
    """A network for the FID: pictures (N,3,H,W) in [-1, 1] to (N,dim)."""

    name: str
    dim: int

    def __call__(self, pictures: Tensor, /) -> Tensor:
        """Features of pictures."""
        ...


class Scorer:
    """A metric that is ready to be computed.

    Args:
        metric: its name in the table.
        compute: the score of a case; None where it has none.
        detail: what the protocol leaves open, such as the recognizer's name.
        files: the weights that it uses.
    """

    by_reading = False  # computed where pictures are read, without a network

    def __init__(
        self, metric: str, compute: Callable[[Case], float | None], detail: str = '', files: tuple[Path, ...] = ()
    ) -> None:
        self.metric, self.compute, self.files = metric, compute, files
        self.protocol = METRICS[metric].protocol + (f'; {detail}' if detail else '')

    def start(self, truths: int) -> None:
        """Before the first picture of a folder; `truths`: how many ground truths there are."""

    def result(self) -> dict[str, float]:
        """Return the value of a set, with how it came about; nothing for a metric of single pictures."""
        return {}


class Plain(Scorer):
    """A metric that is computed where the pictures are read."""

    by_reading = True


def on_device(device: torch.device, image: np.ndarray) -> Tensor:
    """One picture as (1,3,H,W) in [-1, 1]. Networks see one at a time, so that no value depends on its neighbours."""
    return to_tensor(image)[None].to(device)


class Embeddings:
    """Embeddings of pictures, each file computed once.

    Args:
        embedder: faces (N,3,H,W) in [-1, 1] to (N,D).
        device: it is on.
    """

    def __init__(self, embedder: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self.embedder, self.device = embedder, device
        self.known: dict[Path, np.ndarray] = {}

    def __call__(self, case: Case, role: str) -> np.ndarray:
        """(D,) of the picture of a role.

        Raises:
            ValueError: the recognizer cannot take the picture.
        """
        path = case.paths[role]
        if path not in self.known:
            self.known[path] = self.embedder(on_device(self.device, case.images[role]))[0].cpu().numpy()
        return self.known[path]

    def cosine(self, case: Case, role: str) -> float:
        """Of the restored picture and that of a role."""
        return cosine(self(case, 'restored'), self(case, role))

    def to_references(self, case: Case) -> float:
        """Return the mean cosine of the restored picture and its references."""
        return float(np.mean([self.cosine(case, role) for role in case.paths if role.startswith('ref')]))

    def angle(self, case: Case) -> float | None:
        """Of the restored picture and the ground truth, degrees."""
        return degrees(self(case, 'restored'), self(case, 'gt'))


class IdentityVariance(Scorer):
    """The mean over inputs of the variance of their restorations' embeddings."""

    def __init__(self, embeddings: Embeddings, detail: str, files: tuple[Path, ...]) -> None:
        super().__init__('identity_variance', self._keep, detail, files)
        self.embeddings = embeddings
        self.start()

    def start(self, truths: int = 0) -> None:
        """Forget the folder before."""
        self.vectors: dict[str, np.ndarray] = {}
        self.sources: dict[str, Path | None] = {}

    def _keep(self, case: Case) -> None:
        self.vectors[case.name] = self.embeddings(case, 'restored')
        self.sources[case.name] = case.paths.get('gt') or case.paths.get('lq')

    def result(self) -> dict[str, float]:
        """Return the mean, and the number of inputs. Restorations of several ground truths are not of one input.

        Raises:
            NotRunError: the names state no input that was restored twice.
        """
        groups = group_by_input(list(self.vectors)).values()
        groups = [names for names in groups if len({self.sources[name] for name in names}) == 1]
        if not groups:
            raise NotRunError(
                'no input was restored twice; name restorations <input>__<reference>.png or <input>/<reference>.png'
            )
        values = [identity_variance(np.stack([self.vectors[name] for name in names])) for names in groups]
        return {'mean': float(np.mean(values)), 'count': len(values)}


class IdentityDeviation(Scorer):
    """The mean over clips of the standard deviation of their frames' IDS."""

    def __init__(self, embeddings: Embeddings, detail: str, files: tuple[Path, ...]) -> None:
        super().__init__('sigma_ids', self._keep, detail, files)
        self.embeddings = embeddings
        self.start()

    def start(self, truths: int = 0) -> None:
        """Forget the folder before."""
        self.cosines: dict[str, list[float]] = defaultdict(list)

    def _keep(self, case: Case) -> None:
        self.cosines[clip_of(case.name)].append(self.embeddings.cosine(case, 'gt'))

    def result(self) -> dict[str, float]:
        """Return the mean, and the number of clips.

        Raises:
            NotRunError: no clip has two frames.
        """
        values = [float(np.std(frames)) for frames in self.cosines.values() if len(frames) > 1]
        if not values:
            raise NotRunError(NO_CLIP)
        return {'mean': float(np.mean(values)), 'count': len(values)}


class Steadiness(Scorer):
    """The mean over clips of a measure of consecutive frames, restored and true.

    Args:
        metric: its name in the table.
        measure: of two consecutive true frames, RGB uint8, and the restored ones; None where it has no value.
    """

    def __init__(self, metric: str, measure: Callable[[Frames, Frames], float | None]) -> None:
        super().__init__(metric, self._see)
        self.measure = measure
        self.start()

    def start(self, truths: int = 0) -> None:
        """Forget the folder before."""
        self.values: dict[str, list[float]] = defaultdict(list)
        self.before: Case | None = None

    def _see(self, case: Case) -> None:
        before, self.before = self.before, case
        if before is None or clip_of(before.name) != clip_of(case.name):
            return
        true, restored = ((before.images[role], case.images[role]) for role in ('gt', 'restored'))
        value = self.measure(true, restored)
        if value is not None:
            self.values[clip_of(case.name)].append(value)

    def result(self) -> dict[str, float]:
        """Return the mean, and the number of clips.

        Raises:
            NotRunError: no clip has two frames.
        """
        if not self.values:
            raise NotRunError(NO_CLIP)
        means = [float(np.mean(values)) for values in self.values.values()]
        return {'mean': float(np.mean(means)), 'count': len(means)}


class FeatureSets(Scorer):
    """A distance of the features of the restored pictures and of the ground truths, `kid_gt` or `precision_gt`."""

    def __init__(self, metric: str, network: Features, device: torch.device, files: tuple[Path, ...]) -> None:
        super().__init__(metric, self._see, network.name, files)
        self.network, self.device = network, device
        self.start()

    def start(self, truths: int = 0) -> None:
        """Forget the folder before."""
        self.restored: list[np.ndarray] = []
        self.truth: dict[Path, np.ndarray] = {}

    def _see(self, case: Case) -> None:
        self.restored.append(features_of(self.network, case.images['restored'], self.device))
        if case.paths['gt'] not in self.truth:
            self.truth[case.paths['gt']] = features_of(self.network, case.images['gt'], self.device)

    def result(self) -> dict[str, float]:
        """Return the value, and the number of restored pictures.

        Raises:
            NotRunError: of too few pictures.
        """
        function = {'kid_gt': kernel_distance, 'precision_gt': precision}[self.metric]
        try:
            value = function(np.stack(self.restored), np.stack(list(self.truth.values())))
        except ValueError as error:
            raise NotRunError(str(error)) from error
        return {'mean': value, 'count': len(self.restored)}


class ChallengeScore(Scorer):
    """The sum by which NTIRE 2025 ranks real-world face restoration (Chen et al., arXiv 2504.14600).

    CLIP-IQA + MANIQA + MUSIQ / 100 + max(0, (10 - NIQE) / 10) + Q-Align / 5 + max(0, (100 - FID) / 100).

    Args:
        parts: the six metrics, by their names in the table.
    """

    def __init__(self, parts: Mapping[str, Scorer]) -> None:
        files = tuple(dict.fromkeys(file for part in parts.values() for file in part.files))
        super().__init__('ntire2025', self._see, '', files)
        self.parts = parts
        self.start()

    def start(self, truths: int = 0) -> None:
        """Forget the folder before."""
        self.values: dict[str, list[float]] = defaultdict(list)
        for part in self.parts.values():
            part.start(truths)

    def _see(self, case: Case) -> None:
        for name, part in self.parts.items():
            value = part.compute(case)
            if value is not None:
                self.values[name].append(value)

    def result(self) -> dict[str, float]:
        """Return the sum, and the number of pictures.

        Raises:
            NotRunError: of fewer than two pictures.
        """
        means = {name: float(np.mean(values)) for name, values in self.values.items()}
        means['fid'] = self.parts['fid'].result()['mean']
        terms = [means['clipiqa'], means['maniqa'], means['musiq'] / 100, means['qalign'] / 5]
        terms += [max(0.0, (10 - means['niqe']) / 10), max(0.0, (100 - means['fid']) / 100)]
        return {'mean': sum(terms), 'count': len(self.values['niqe'])}


class FID(Scorer):
    """The Fréchet distance of the restored pictures to given statistics, or to the ground truth.

    Args:
        metric: `fid` or `fid_gt`.
        network: of the features.
        device: it is on.
        files: its weights.
        statistics: of the reference set, a file of `FeatureStatistics.load`; None for the ground truth.
    """

    def __init__(
        self,
        metric: str,
        network: Features,
        device: torch.device,
        files: tuple[Path, ...],
        statistics: Path | None = None,
    ) -> None:
        self.network, self.device, self.given = network, device, None
        reference = 'the ground truth'
        if statistics is not None:
            self.given = FeatureStatistics.load(statistics, network.dim, network.name)
            files, reference = (*files, statistics), statistics.name
        super().__init__(metric, self._see, f'{network.name}; reference set: {reference}', files)
        self.start()

    def start(self, truths: int = 0) -> None:
        """Forget the folder before."""
        self.restored = FeatureStatistics(self.network.dim)
        self.truth = FeatureStatistics(self.network.dim)
        self.seen: set[Path] = set()

    def _see(self, case: Case) -> None:
        self.restored.add(features_of(self.network, case.images['restored'], self.device))
        if self.given is None and case.paths['gt'] not in self.seen:
            self.seen.add(case.paths['gt'])
            self.truth.add(features_of(self.network, case.images['gt'], self.device))

    def result(self) -> dict[str, float]:
        """Return the distance, and the numbers of restored pictures and of features.

        Raises:
            NotRunError: of fewer than two pictures.
        """
        try:
            value = frechet_distance(self.restored, self.given or self.truth)
        except ValueError as error:
            raise NotRunError(str(error)) from error
        return {'mean': value, 'count': self.restored.count or 0, 'features': self.network.dim}


def features_of(network: Features, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Return the features (dim,) of a picture, RGB uint8 (H,W,3)."""
    return network(on_device(device, image))[0].double().cpu().numpy()
