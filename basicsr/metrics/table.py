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

ADAFACE = 'cosine of AdaFace IR-50 embeddings; faces on the FFHQ template, warped to its own'
ADAFACE_IR50 = 'adaface_ir50_ms1mv2/model.pt'
FLOW = 'flow (Farnebäck) of the true frames <clip>/<frame>.png'

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
    'kid_gt': Metric(
        'KID to the ground truth',
        'lower',
        (-INFINITY, INFINITY),
        'set',
        'unbiased MMD^2 of Inception features (as FID) under (xy/2048 + 1)^3; of more than 1000 pictures the mean of '
        '100 draws of 1000; against the ground truth',
        'gt',
        "pytorch-fid's Inception weights",
    ),
    'precision_gt': Metric(
        'precision to the ground truth',
        'higher',
        UNIT,
        'set',
        'share of restored Inception features (as FID, not the VGG16 of the paper) within the third-neighbour radius '
        'of a true one',
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
    'qalign': _quality('Q-Align', 'higher', (1, 5), 'quality'),
    'pi': _quality('PI', 'lower', (-INFINITY, INFINITY), 'perceptual index of NIQE and NRQM'),
    'dists': _quality('DISTS', 'lower', POSITIVE, 'DISTS', 'gt'),
    'ntire2025': Metric(
        'NTIRE 2025 score',
        'higher',
        (0, 6),
        'set',
        'CLIP-IQA + MANIQA + MUSIQ/100 + max(0, (10 - NIQE)/10) + Q-Align/5 + max(0, (100 - FID)/100) of the means, '
        'each by its own row; the challenge takes the NIQE of pyiqa, and refuses faces with adaface_lq below 0.3 '
        '(WIDER, WebPhoto), 0.5 (CelebA) or 0.6 (LFW, CelebChild)',
        needs='what its six metrics need',
    ),
    'ids': _identity('IDS', 'pair', f'restored and ground truth: {ALIGNED}', 'gt'),
    'ids_lq': _identity('IDS to the input', 'pair', f'restored and low-quality input: {ALIGNED}', 'lq'),
    'ids_ref': _identity('IDS to the references', 'pair', f'restored and each reference, mean: {ALIGNED}', 'ref'),
    'sigma_ids': _identity(
        'sigma-IDS',
        'set',
        'standard deviation (divisor N) of the IDS of the frames <clip>/<frame>.png of a clip, mean over clips; '
        f'{ALIGNED}',
        'gt',
        limits=UNIT,
    ),
    'adaface': Metric(
        'AdaFace', 'higher', (-1, 1), 'pair', f'restored and ground truth: {ADAFACE}', 'gt', ADAFACE_IR50
    ),
    'adaface_lq': Metric(
        'AdaFace to the input',
        'higher',
        (-1, 1),
        'pair',
        f'restored and low-quality input: {ADAFACE}; the challenge aligns by MTCNN',
        'lq',
        ADAFACE_IR50,
    ),
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
    'lmd_affine': Metric(
        'affine landmark distance (pixels)',
        'lower',
        POSITIVE,
        'pair',
        'lmd after the affine map of least squares from restored to true landmarks: place, size and tilt do not count',
        'gt',
        'alignment_WFLW_4HG.pth',
    ),
    'warping_error': Metric(
        'warping error',
        'lower',
        POSITIVE,
        'set',
        f'mean squared difference (levels 0 to 1) of a frame and the one before, warped by {FLOW}; places without '
        'agreement of both flows do not count; mean over the frames of a clip, then over clips',
        'gt',
    ),
    'tof': Metric(
        'tOF (pixels)',
        'lower',
        POSITIVE,
        'set',
        f"mean length of the difference of the restored clip's flow and the {FLOW}, TecoGAN's settings; mean over the "
        'frames of a clip, then over clips',
        'gt',
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
