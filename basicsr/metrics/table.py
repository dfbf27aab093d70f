"""The table of metrics: what each is computed from, which way is better, and by which protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim
from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.registry import nearest

INFINITY = float('inf')


class EvaluationError(IDCodeFormerError, ValueError):
    """An evaluation that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        name: for people.
        better: 'higher' or 'lower'.
        limits: least and greatest value.
        inputs: `pair` of a restored picture and another one, a `single` restored picture, or the whole `set`.
        protocol: how it is computed.
        against: the other side of a pair or set: `gt`, `lq`, `ref`, or '' for none.
        needs: weights or packages that do not come with the project, '' for none.
        function: the function of METRIC_REGISTRY that computes it, where that takes nothing but the pictures.
    """

    name: str
    better: str
    limits: tuple[float, float]
    inputs: str
    protocol: str
    against: str = ''
    needs: str = ''
    function: Callable[..., float] | None = None


def _quality(name: str, better: str, limits: tuple[float, float], protocol: str, against: str = '') -> Metric:
    return Metric(
        name,
        better,
        limits,
        'pair' if against else 'single',
        f'{protocol}, by the package pyiqa with its default settings; it downloads its weights',
        against,
        'the package pyiqa (pip install "id-codeformer[metrics]")',
    )


def _identity(
    name: str, inputs: str, protocol: str, against: str = '', limits: tuple[float, float] = (-1, 1)
) -> Metric:
    better = 'higher' if limits[0] < 0 else 'lower'
    return Metric(name, better, limits, inputs, protocol, against, 'a face recognizer (--recognizer)')


POSITIVE = (0.0, INFINITY)
UNIT = (0.0, 1.0)
RGB = 'RGB of 8 bits, no border cut off'
LUMA = 'luma of BT.601 (16 to 235, not rounded), no border cut off'
INCEPTION = 'Gaussians of Inception features (pool3, pictures resized to 299 bilinear, as pytorch-fid does)'
ALIGNED = "cosine of the recognizer's embeddings; faces on the FFHQ template, warped to the recognizer's own"

METRICS: dict[str, Metric] = {
    'psnr': Metric('PSNR (dB)', 'higher', POSITIVE, 'pair', f'{RGB}; peak 255', 'gt', function=calculate_psnr),
    'psnr_y': Metric('PSNR-Y (dB)', 'higher', POSITIVE, 'pair', f'{LUMA}; peak 255', 'gt'),
    'ssim': Metric(
        'SSIM',
        'higher',
        (-1, 1),
        'pair',
        f'{RGB}; Gaussian window of 11, mean of the channels',
        'gt',
        '',
        calculate_ssim,
    ),
    'ssim_y': Metric('SSIM-Y', 'higher', (-1, 1), 'pair', f'{LUMA}; Gaussian window of 11', 'gt'),
    'lpips_alex': Metric(
        'LPIPS (Alex)', 'lower', POSITIVE, 'pair', 'LPIPS 0.1 on AlexNet, full size', 'gt', "torchvision's AlexNet"
    ),
    'lpips_vgg': Metric(
        'LPIPS (VGG)', 'lower', POSITIVE, 'pair', 'LPIPS 0.1 on VGG16, full size', 'gt', "torchvision's VGG16"
    ),
    'feature': Metric(
        'feature distance',
        'lower',
        POSITIVE,
        'pair',
        'mean absolute difference of VGG16 features, summed over relu1_2 to relu5_3, full size; not LPIPS',
        'gt',
        'VGG16 weights in torchvision names',
    ),
    'fid': Metric(
        'FID',
        'lower',
        POSITIVE,
        'set',
        f'{INCEPTION}; against given statistics, by default those of FFHQ',
        needs="pytorch-fid's Inception weights, statistics of the reference set",
    ),
    'fid_gt': Metric(
        'FID to the ground truth',
        'lower',
        POSITIVE,
        'set',
        f'{INCEPTION}; against the ground truth',
        'gt',
        "pytorch-fid's Inception weights",
    ),
    'niqe': Metric(
        'NIQE',
        'lower',
        POSITIVE,
        'single',
        'blocks of 96 on the rounded luma, all of them used; statistics of niqe_pris_params.npz',
        needs='niqe_pris_params.npz',
    ),
    'niqe_192': Metric(
        'NIQE (192 pixels)',
        'lower',
        POSITIVE,
        'single',
        'NIQE of the picture resized to 192x192, cubic, for faces too small for it; compares with no other NIQE',
        needs='niqe_pris_params.npz',
    ),
    'musiq': _quality('MUSIQ', 'higher', (0, 100), 'KonIQ-10k weights'),
    'maniqa': _quality('MANIQA', 'higher', UNIT, 'KonIQ-10k weights'),
    'clipiqa': _quality('CLIP-IQA', 'higher', UNIT, 'CLIP-IQA'),
    'hyperiqa': _quality('HyperIQA', 'higher', UNIT, 'KonIQ-10k weights'),
    'pi': _quality('PI', 'lower', (-INFINITY, INFINITY), 'perceptual index of NIQE and NRQM'),
    'dists': _quality('DISTS', 'lower', POSITIVE, 'DISTS', 'gt'),
    'ids': _identity('IDS', 'pair', f'restored and ground truth: {ALIGNED}', 'gt'),
    'ids_lq': _identity('IDS to the input', 'pair', f'restored and low-quality input: {ALIGNED}', 'lq'),
    'ids_ref': _identity('IDS to the references', 'pair', f'restored and each reference, mean: {ALIGNED}', 'ref'),
    'deg': Metric(
        'Deg. (degrees)',
        'lower',
        (1, 180),
        'pair',
        'angle of ArcFace ResNet-18 embeddings of the whole grey face at 128 pixels; pairs under 1 degree are dropped',
        'gt',
        'arcface_resnet18.pth',
    ),
    'identity_variance': _identity(
        'identity variance',
        'set',
        'variance of unit embeddings of the restorations of one input (<input>__<reference>.png, or a folder for each '
        'input), summed over the numbers, divisor N; mean over the inputs',
        limits=UNIT,
    ),
    'lmd': Metric(
        'landmark distance (pixels)',
        'lower',
        POSITIVE,
        'pair',
        "mean distance of 98 landmarks by facexlib's AWING, in pixels of the picture",
        'gt',
        'alignment_WFLW_4HG.pth',
    ),
}


def row_of(function: Callable[..., float]) -> Metric:
    """Return the row that a registered function computes.

    Raises:
        KeyError: it has none.
    """
    for metric in METRICS.values():
        if metric.function is function:
            return metric
    raise KeyError(f'{function.__name__} has no row in the table of metrics')


def check_metrics(names: Sequence[str]) -> list[str]:
    """Return the names, each once.

    Raises:
        EvaluationError: one is not in the table; the message names the nearest.
    """
    if not names:
        raise EvaluationError(f'name the metrics: --metrics, of {", ".join(METRICS)}, or a --protocol')
    for name in names:
        if name not in METRICS:
            raise EvaluationError(f"unknown metric '{name}'{nearest(name, METRICS)}")
    return list(dict.fromkeys(names))
