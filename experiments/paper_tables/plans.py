"""Measurements beside each published table: on which sets, and by which weights of this project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from basicsr.utils.folders import weights_folder

INPUT, OFFICIAL = 'Degraded input', 'CodeFormer/codeformer.pth'
LFW, SYNTHETIC = 'lfw_test', 'lfw_synthetic'
CELEBA, CELEBREF = 'celeba_test_harsh', 'celebref_hq_test'
A, B, C, D, ALIGNED = (
    'baseline_CodeFormer_stage3',
    'CodeFormer_stage3',
    'ID_CodeFormer_C_stage3',
    'ID_CodeFormer_D_stage3',
    'ID_CodeFormer_D_align_stage3',
)
MANY = 8  # references of a picture, for the identity variance


@dataclass(frozen=True)
class Ours:
    """A row that this project restores.

    Attributes:
        weights: `OFFICIAL`, or the run that trains them (its option file's name); '' for the inputs as they are.
        references: see `Recipe`; so is `side`.
    """

    weights: str = ''
    references: int = 0
    side: int | None = None

    @property
    def place(self) -> Path:
        """Path of the weights."""
        if self.weights == OFFICIAL:
            return weights_folder() / OFFICIAL
        models = Path('experiments', self.weights, 'models')
        best = models / 'net_g_best.pth'  # of a training with validation
        return best if best.is_file() else models / 'net_g_latest.pth'

    @property
    def remedy(self) -> str:
        """Remedy for missing weights."""
        fetch = 'python scripts/download_pretrained_models.py CodeFormer'
        return f'run {fetch}' if self.weights == OFFICIAL else f'train {self.weights} (docs/identity.md)'


@dataclass(frozen=True)
class Plan:
    """Measurements beside a published table.

    Attributes:
        protocols: of options/eval.
        ours: rows by method; other published methods have to be given.
        extra: metrics beside those of the published columns.
    """

    protocols: tuple[str, ...]
    ours: dict[str, Ours]
    extra: tuple[str, ...] = ()


CODEFORMER = {INPUT: Ours(), 'CodeFormer': Ours(OFFICIAL)}
PLANS = {
    'id_codeformer_1': Plan(
        (CELEBA,),
        {
            INPUT: Ours(),
            'CodeFormer (baseline)': Ours(A),  # trained again, as theirs is said to be
            'CodeFormer (official weights)': Ours(OFFICIAL),
            'ID-CodeFormer': Ours(B),
        },
        ('ssim', 'fid', 'niqe'),
    ),
    'id_codeformer_lfw': Plan(
        (LFW,), {INPUT: Ours(), 'CodeFormer': Ours(OFFICIAL), 'ID-CodeFormer': Ours(B)}, ('niqe', 'musiq', 'ids_lq')
    ),
    'ablation': Plan(
        (CELEBREF,),
        {
            'A (Baseline)': Ours(A),
            'B': Ours(B),
            'C': Ours(C, 1),
            'D (Full Model)': Ours(D, 1),
            'D with alignment learning': Ours(ALIGNED, 1),
        },
        ('psnr', 'ssim', 'ids_ref'),
    ),
    'ridfr_1': Plan(
        (CELEBREF,),
        {INPUT: Ours(), 'CodeFormer': Ours(OFFICIAL), 'ID-CodeFormer': Ours(D, 1, 0)},
        ('psnr', 'ssim', 'ids_ref'),
    ),
    'ridfr_2': Plan(
        (CELEBREF,),
        {
            'ID-CodeFormer, references of 64 pixels': Ours(D, 1, 64),
            'ID-CodeFormer, references of 128 pixels': Ours(D, 1, 128),
            'ID-CodeFormer, references of mixed size': Ours(D, 1, 0),
        },
    ),
    'ridfr_3': Plan((CELEBREF,), {INPUT: Ours(), 'ID-CodeFormer': Ours(D, 1, 0)}),
    'ridfr_4': Plan(
        (CELEBREF,),
        {'ID-CodeFormer D': Ours(D, MANY, 0), 'ID-CodeFormer D with alignment learning': Ours(ALIGNED, MANY, 0)},
        ('ids',),
    ),
    'codeformer': Plan(
        (CELEBA, LFW, 'webphoto_test', 'wider_test'),
        CODEFORMER,
        ('musiq', 'ids_lq'),
    ),
    'codeformer_lfw': Plan((LFW,), CODEFORMER, ('niqe', 'ids_lq')),
    'codeformer_wider': Plan(('wider_test',), CODEFORMER, ('niqe', 'ids_lq')),
    'pmrf': Plan(('celeba_test_mild',), CODEFORMER, ('ids',)),
    'osdface_wider': Plan(('wider_test',), CODEFORMER, ('ids_lq',)),
    'osdface_lfw': Plan((LFW,), CODEFORMER, ('ids_lq',)),
    'osdface_webphoto': Plan(('webphoto_test',), CODEFORMER, ('ids_lq',)),
}
