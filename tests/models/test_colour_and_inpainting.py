"""Colourization and inpainting: published option files train unchanged but for paths and sizes, and so do ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small import CODEFORMER, DISCRIMINATOR, SIZES, make_faces, save_vqgan

from basicsr.cli import train
from basicsr.models import build_model
from basicsr.models.schema import check_options
from basicsr.utils.checkpoint import read_checkpoint, save_atomic
from basicsr.utils.options import load_options

ROOT = Path(__file__).resolve().parents[2]
TRAIN_SET = """
datasets:
  train: {name: FFHQ, type: FFHQBlindDataset, dataroot_gt: datasets/ffhq/ffhq_512, filename_tmpl: '{}',
    io_backend: {type: disk}, in_size: 512, gt_size: 512, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5],
    use_hflip: true, latent_gt_path: ./latent_gt_code1024.pth, num_worker_per_gpu: 2, batch_size_per_gpu: FACES,
    dataset_enlarge_ratio: 100, prefetch_mode: ~, SPECIAL}
"""
COMMON = """
path: {pretrain_network_g: ~, param_key_g: params_ema, strict_load_g: true, pretrain_network_d: ~,
  strict_load_d: true, resume_state: ~}
val: {val_freq: !!float 5e10, save_img: true,
  metrics: {psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false}}}
logger: {print_freq: 100, save_checkpoint_freq: !!float 1e4, use_tb_logger: true,
  wandb: {project: ~, resume_id: ~}}
dist_params: {backend: nccl, port: 29420}
find_unused_parameters: true
"""
NETWORK = """
network_g: {type: CodeFormer, dim_embd: 512, n_head: 8, n_layers: 9, codebook_size: 1024,
  connect_list: [SIDES], fix_modules: ['quantize', 'generator'], vqgan_path: vqgan.pth}
"""
KEYS = {
    'CodeFormer_colorization': """
name: CodeFormer_colorization
model_type: CodeFormerIdxModel
num_gpu: 8
manual_seed: 0
"""
    + TRAIN_SET.replace('FACES', '4').replace(
        'SPECIAL',
        """use_corrupt: true, blur_kernel_size: 41, use_motion_kernel: false,
    motion_kernel_prob: 0.001, kernel_list: ['iso', 'aniso'], kernel_prob: [0.5, 0.5], blur_sigma: [1, 15],
    downsample_range: [4, 30], noise_range: [0, 20], jpeg_range: [30, 80], color_jitter_prob: 0.3,
    color_jitter_shift: 20, color_jitter_pt_prob: 0.3, gray_prob: 0.01""",
    )
    + NETWORK.replace('SIDES', "'32', '64', '128', '256'")
    + COMMON
    + """
train: {use_hq_feat_loss: true, feat_loss_weight: 1.0, cross_entropy_loss: true, entropy_loss_weight: 0.5,
  fidelity_weight: 0, optim_g: {type: Adam, lr: !!float 1e-4, weight_decay: 0, betas: [0.9, 0.99]},
  scheduler: {type: MultiStepLR, milestones: [400000, 450000], gamma: 0.5}, total_iter: 500000, warmup_iter: -1,
  ema_decay: 0.995, use_adaptive_weight: true, net_g_start_iter: 0, net_d_iters: 1, net_d_start_iter: 0,
  manual_seed: 0}
""",
    'CodeFormer_inpainting': """
name: CodeFormer_inpainting
model_type: CodeFormerModel
num_gpu: 4
manual_seed: 0
"""
    + TRAIN_SET.replace('FACES', '3').replace('SPECIAL', 'use_corrupt: false, gen_inpaint_mask: true')
    + NETWORK.replace('SIDES', "'32', '64', '128'")
    + COMMON
    + """
network_d: {type: VQGANDiscriminator, nc: 3, ndf: 64, n_layers: 4, model_path: ~}
train: {use_hq_feat_loss: true, feat_loss_weight: 1.0, cross_entropy_loss: true, entropy_loss_weight: 0.5,
  scale_adaptive_gan_weight: 0.1, fidelity_weight: 1.0,
  optim_g: {type: Adam, lr: !!float 7e-5, weight_decay: 0, betas: [0.9, 0.99]},
  optim_d: {type: Adam, lr: !!float 7e-5, weight_decay: 0, betas: [0.9, 0.99]},
  scheduler: {type: MultiStepLR, milestones: [250000, 300000], gamma: 0.5}, total_iter: 300000, warmup_iter: -1,
  ema_decay: 0.997, pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean},
  perceptual_opt: {type: LPIPSLoss, loss_weight: 1.0, use_input_norm: true, range_norm: true},
  gan_opt: {type: GANLoss, gan_type: hinge, loss_weight: !!float 1.0}, use_adaptive_weight: true,
  net_g_start_iter: 0, net_d_iters: 1, net_d_start_iter: 296001, manual_seed: 0}
""",
}
"""The keys and figures of the published files; their texts are not in this repository."""


def reduced(opt: dict[str, Any], root: Path) -> dict[str, Any]:
    """Options at 64 pixels, on two iterations, with the data and the VQGAN below `root`."""
    save_vqgan(root / 'vqgan.pth')
    network = {**CODEFORMER, 'fix_modules': opt['network_g']['fix_modules'], 'vqgan_path': str(root / 'vqgan.pth')}
    sizes = {
        'in_size': 64,
        'gt_size': 64,
        'dataroot_gt': str(make_faces(root / 'faces')),
        'num_worker_per_gpu': 0,
        'batch_size_per_gpu': 2,
    }
    section = opt['datasets']['train'] | sizes
    if section.get('latent_gt_path'):
        section['latent_gt_path'] = str(save_latents(root / 'latents.pth'))
    if 'network_vqgan' in opt:
        opt['network_vqgan'] = {'type': 'VQAutoEncoder', **SIZES, 'model_path': str(root / 'vqgan.pth')}
    if 'network_d' in opt:
        opt['network_d'] = DISCRIMINATOR
    steps = {'total_iter': 2, 'perceptual_opt': None, 'net_d_start_iter': 1}  # LPIPS needs weights of VGG
    return {**opt, 'datasets': {'train': section}, 'network_g': network, 'train': opt['train'] | steps}


def save_latents(path: Path) -> Path:
    """Random codes of the six faces."""
    rng = np.random.default_rng(0)
    names = [f'{number:03d}' for number in range(6)]
    codes = {kind: {name: torch.from_numpy(rng.integers(0, 32, 256)) for name in names} for kind in ('orig', 'hflip')}
    save_atomic(codes, path)
    return path


@pytest.mark.parametrize('name', list(KEYS))
def test_published_keys_are_accepted_and_train(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'published.yml').write_text(KEYS[name])
    opt = load_options(tmp_path / 'published.yml')
    check_options(opt)
    monkeypatch.chdir(tmp_path)
    Path('small.yml').write_text(yaml.safe_dump(reduced(opt, tmp_path)))
    assert train.main(['-opt', 'small.yml', '--force_yml', 'num_gpu=0']) == 0
    saved = read_checkpoint(tmp_path / 'experiments' / name / 'models' / 'net_g_latest.pth')
    assert {'params', 'params_ema'} <= set(saved)
    before = read_checkpoint(tmp_path / 'vqgan.pth')['params_ema']
    after = saved['params']
    assert torch.equal(after['quantize.embedding.weight'], before['quantize.embedding.weight'])
    assert not torch.equal(after['encoder.blocks.0.weight'], before['encoder.blocks.0.weight'])


@pytest.mark.parametrize('name', list(KEYS))
def test_our_files_train_what_the_published_ones_train(name: str, tmp_path: Path) -> None:
    """Every figure is the published one, but for paths, loading and how often something is said."""
    (tmp_path / 'published.yml').write_text(KEYS[name])
    published, ours = load_options(tmp_path / 'published.yml'), load_options(ROOT / 'options' / f'{name}.yml')
    assert not ours['train'].get('identity_opt')
    free = ('latent_gt_path', 'prefetch_mode', 'vqgan_path', 'dataroot_gt', 'perceptual_opt')
    for section, other in (
        (published['datasets']['train'], ours['datasets']['train']),
        (published['network_g'], ours['network_g']),
        (published['train'], ours['train']),
    ):
        for key, value in section.items():
            # The seed stands at the top, and stage II has no discriminator that could start.
            if key not in free and (key in other or not key.startswith(('net_', 'manual_seed', 'use_adaptive'))):
                assert other[key] == value, key
    assert (published['model_type'], published['num_gpu']) == (ours['model_type'], ours['num_gpu'])


def test_inpainting_computes_image_and_code_losses_at_w_1(tmp_path: Path) -> None:
    opt = reduced(load_options(ROOT / 'options' / 'CodeFormer_inpainting.yml'), tmp_path)
    check_options(opt)
    model = build_model({**opt, 'manual_seed': 0})
    phase = model.curriculum.at(300000)
    assert (phase.severity, phase.weight(300000)) == ('small', 1.0) and phase.has_image_losses(1)
    assert model.target_codes.teacher is not None
