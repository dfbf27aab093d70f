"""Builds the metrics that are asked for from their weights, or says why one cannot be computed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs.inception_arch import FIDInception
from basicsr.losses.lpips_loss import LPIPS
from basicsr.losses.perceptual_loss import PerceptualLoss
from basicsr.metrics import METRICS, calculate_psnr, calculate_ssim
from basicsr.metrics.clips import flow_difference, warping_error
from basicsr.metrics.identity import affine_landmark_distance, landmark_distance
from basicsr.metrics.landmarks import Landmarks
from basicsr.metrics.niqe import NIQE
from basicsr.metrics.pictures import Case
from basicsr.metrics.scorers import (
    FID,
    ChallengeScore,
    Embeddings,
    Features,
    FeatureSets,
    IdentityDeviation,
    IdentityVariance,
    NotRunError,
    Plain,
    Scorer,
    Steadiness,
    on_device,
)
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.files import find_recognizer
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.folders import weights_folder

FEATURES = ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3', 'relu5_3')
# Where weights are looked for below the weights folder unless --weights says otherwise.
PLACES = {
    'feature': 'vgg/vgg16-397923af.pth',
    'fid': 'metrics/pt_inception-2015-12-05-6726825d.pth',
    'fid_gt': 'metrics/pt_inception-2015-12-05-6726825d.pth',
    'kid_gt': 'metrics/pt_inception-2015-12-05-6726825d.pth',
    'precision_gt': 'metrics/pt_inception-2015-12-05-6726825d.pth',
    'niqe': 'metrics/niqe_pris_params.npz',
    'niqe_192': 'metrics/niqe_pris_params.npz',
    'lmd': 'facelib/alignment_WFLW_4HG.pth',
    'lmd_affine': 'facelib/alignment_WFLW_4HG.pth',
    'lpips_alex': 'vgg/alexnet-owt-7be5be79.pth',  # else torchvision's own
    'lpips_vgg': 'vgg/vgg16-397923af.pth',
}
FFHQ_STATISTICS = 'metrics/fid_ffhq_512.npz'
"""Of the reference set that papers of this field take, made by scripts/fid_statistics.py."""
WITH_WEIGHTS = frozenset({*PLACES, 'deg', 'adaface', 'adaface_lq'})
PYIQA = ('musiq', 'maniqa', 'clipiqa', 'hyperiqa', 'qalign', 'pi', 'dists')
CHALLENGE = ('clipiqa', 'maniqa', 'musiq', 'qalign', 'niqe', 'fid')


@dataclass
class Settings:
    """Settings of metrics.

    Attributes:
        device: of the networks.
        recognizer: weights of the face recognizer of `ids`, `ids_lq`, `ids_ref` and `identity_variance`.
        weights: files by metric, see `PLACES`.
        fid_statistics: file with the statistics of the reference set of `fid`; by default `FFHQ_STATISTICS`.
        fid_network: in place of the Inception network.
    """

    device: torch.device = field(default_factory=lambda: torch.device('cpu'))
    recognizer: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    fid_statistics: Path | None = None
    fid_network: Features | None = None

    def place(self, metric: str) -> Path:
        """Return the file of a metric's weights.

        Raises:
            NotRunError: it is not there.
        """
        path = Path(self.weights.get(metric) or weights_folder() / PLACES[metric])
        if not path.is_file():
            raise NotRunError(
                f'{path} is not there; give --weights {metric}=FILE (weights/README.md says where it comes from)'
            )
        return path

    def statistics(self) -> Path:
        """Return the file with the statistics of the reference set of `fid`.

        Raises:
            NotRunError: it is not there.
        """
        path = self.fid_statistics or weights_folder() / FFHQ_STATISTICS
        if not path.is_file():
            raise NotRunError(
                f'{path} is not there: statistics of the reference set, FFHQ by default. Make them (python '
                'scripts/fid_statistics.py -i datasets/ffhq/ffhq_512), or give --fid_statistics FILE; the metric '
                'fid_gt compares with the ground truth'
            )
        return path


@dataclass
class _OfImages:
    """A function of the restored picture, and of its other side if it has one; it can be sent to a worker process."""

    function: Callable[..., float]
    against: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, case: Case) -> float:
        roles = ('restored', self.against) if self.against else ('restored',)
        return self.function(*(case.images[role] for role in roles), **self.arguments)


def feature_distance(weights: Path | str) -> PerceptualLoss:
    """Return the distance of VGG16's features, by its weights; see the metric `feature` of the table."""
    return PerceptualLoss(dict.fromkeys(FEATURES, 1.0), 'vgg16', range_norm=True, weights=weights)


def build_scorers(metrics: list[str], settings: Settings, given: set[str]) -> tuple[list[Scorer], dict[str, str]]:
    """Build the scorers of the metrics; give reasons for those that cannot be computed.

    Args:
        metrics: names of the table.
        settings: weights and device.
        given: the folders that there are, of `gt`, `lq` and `ref`.
    """
    scorers, not_run = [], {}
    builder = _Builder(settings)
    for metric in metrics:
        side = METRICS[metric].against
        if side and side not in given:
            not_run[metric] = f'needs --{side}'
            continue
        try:
            scorers.append(builder.build(metric))
        except (NotRunError, CheckpointError, ModuleNotFoundError, ValueError) as error:
            not_run[metric] = str(error)
    return scorers, not_run


class _Builder:
    """Builds scorers; those of one recognizer share its embeddings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.embeddings: tuple[Embeddings, str, tuple[Path, ...]] | None = None

    def build(self, metric: str) -> Scorer:
        """Return the scorer of a metric of the table.

        Raises:
            NotRunError, CheckpointError, ModuleNotFoundError, ValueError: weights or a package are missing.
        """
        makers: dict[str, Callable[[str], Scorer]] = {
            **dict.fromkeys(('psnr_y', 'ssim_y'), self._luma),
            **dict.fromkeys(('lpips_alex', 'lpips_vgg'), self._lpips),
            **dict.fromkeys(('ids', 'ids_lq', 'ids_ref', 'identity_variance', 'sigma_ids'), self._identity),
            **dict.fromkeys(PYIQA, self._pyiqa),
            'feature': self._feature,
            **dict.fromkeys(('fid', 'fid_gt'), self._fid),
            **dict.fromkeys(('kid_gt', 'precision_gt'), self._feature_sets),
            **dict.fromkeys(('adaface', 'adaface_lq'), self._adaface),
            **dict.fromkeys(('lmd', 'lmd_affine'), self._lmd),
            **dict.fromkeys(('warping_error', 'tof'), self._steadiness),
            'ntire2025': lambda _: ChallengeScore({name: self.build(name) for name in CHALLENGE}),
            **dict.fromkeys(('niqe', 'niqe_192'), self._niqe),
            'deg': self._deg,
        }
        return makers.get(metric, self._function)(metric)

    def _function(self, metric: str) -> Scorer:
        row = METRICS[metric]
        if row.function is None:
            raise NotRunError('nothing computes it: its row of the table has no function, and it no method here')
        return Plain(metric, _OfImages(row.function, row.against))

    def _luma(self, metric: str) -> Scorer:
        function = calculate_psnr if metric == 'psnr_y' else calculate_ssim
        return Plain(metric, _OfImages(function, 'gt', {'test_y_channel': True}))

    def _niqe(self, metric: str) -> Scorer:
        path = self.settings.place(metric)
        side = None if metric == 'niqe' else 192
        return Plain(metric, _OfImages(NIQE(path, side), ''), files=(path,))

    def _lpips(self, metric: str) -> Scorer:
        place = weights_folder() / PLACES[metric]
        given = self.settings.weights.get(metric) or (str(place) if place.is_file() else None)
        network = LPIPS(metric.removeprefix('lpips_'), given or 'torchvision').to(self.settings.device)
        detail, files = (Path(given).name, (Path(given),)) if given else ("torchvision's weights", ())
        return Scorer(metric, lambda case: float(network(*self._pair(case))), detail, files)

    def _feature(self, metric: str) -> Scorer:
        path = self.settings.place(metric)
        distance = feature_distance(path).to(self.settings.device)
        return Scorer(metric, lambda case: float(distance(*self._pair(case))[0]), path.name, (path,))

    def _fid(self, metric: str) -> Scorer:
        settings = self.settings
        statistics = settings.statistics() if metric == 'fid' else None
        if settings.fid_network is not None:
            return FID(metric, settings.fid_network, settings.device, (), statistics)
        path = settings.place(metric)
        return FID(metric, FIDInception(path).to(settings.device), settings.device, (path,), statistics)

    def _feature_sets(self, metric: str) -> Scorer:
        settings = self.settings
        if settings.fid_network is not None:
            return FeatureSets(metric, settings.fid_network, settings.device, ())
        path = settings.place(metric)
        return FeatureSets(metric, FIDInception(path).to(settings.device), settings.device, (path,))

    def _steadiness(self, metric: str) -> Scorer:
        return Steadiness(metric, warping_error if metric == 'warping_error' else flow_difference)

    def _adaface(self, metric: str) -> Scorer:
        weights = self.settings.weights.get(metric, 'adaface_ir50')
        embeddings, detail, files = self._embeddings(weights, 'adaface_ir50')
        role = 'gt' if metric == 'adaface' else 'lq'
        return Scorer(metric, partial(embeddings.cosine, role=role), detail, files)

    def _identity(self, metric: str) -> Scorer:
        if self.embeddings is None:
            if self.settings.recognizer is None:
                raise NotRunError('needs --recognizer WEIGHTS, a recognizer other than that of the training loss')
            self.embeddings = self._embeddings(self.settings.recognizer)
        embeddings, detail, files = self.embeddings
        if metric == 'identity_variance':
            return IdentityVariance(embeddings, detail, files)
        if metric == 'sigma_ids':
            return IdentityDeviation(embeddings, detail, files)
        compute = {
            'ids': partial(embeddings.cosine, role='gt'),
            'ids_lq': partial(embeddings.cosine, role='lq'),
            'ids_ref': embeddings.to_references,
        }
        return Scorer(metric, compute[metric], detail, files)

    def _deg(self, metric: str) -> Scorer:
        weights = self.settings.weights.get(metric, 'arcface_resnet18_grey')
        embeddings, detail, files = self._embeddings(weights, 'arcface_resnet18_grey')
        return Scorer(metric, embeddings.angle, detail, files)

    def _lmd(self, metric: str) -> Scorer:
        path = self.settings.place(metric)
        find = Landmarks(path, self.settings.device)
        distance = landmark_distance if metric == 'lmd' else affine_landmark_distance

        def compute(case: Case) -> float:
            return distance(find(case.images['restored']), find(case.images['gt']))

        return Scorer(metric, compute, files=(path,))

    def _pyiqa(self, metric: str) -> Scorer:
        if find_spec('pyiqa') is None:
            raise NotRunError('needs the package pyiqa: pip install "id-codeformer[metrics]"')
        pyiqa = import_module('pyiqa')
        try:
            network: nn.Module = pyiqa.create_metric(metric, device=self.settings.device)
        except (OSError, RuntimeError, ImportError) as error:
            raise NotRunError(f'pyiqa could not build it, or fetch its weights: {error}') from error
        roles = ('restored', 'gt') if METRICS[metric].against else ('restored',)

        def compute(case: Case) -> float:
            return float(network(*((on_device(self.settings.device, case.images[role]) + 1) / 2 for role in roles)))

        return Scorer(metric, compute, f'pyiqa {pyiqa.__version__}')

    def _embeddings(self, weights: str, arch: str | None = None) -> tuple[Embeddings, str, tuple[Path, ...]]:
        path = find_recognizer(weights)
        embedder = FaceEmbedder(path, arch=arch).to(self.settings.device)
        entry = embedder.recognizer
        crop = f'crop {entry.size[0]}x{entry.size[1]}'
        detail = f'{embedder.name}, {entry.network} trained on {entry.training_set}, {crop}'
        return Embeddings(embedder, self.settings.device), detail, (path,)

    def _pair(self, case: Case) -> tuple[Tensor, Tensor]:
        device = self.settings.device
        return on_device(device, case.images['restored']), on_device(device, case.images['gt'])
