"""Small networks (64 pixels) and option dicts, and pictures to train them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import skimage.transform
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.image import imwrite

SIZES: dict[str, Any] = {
    'img_size': 64,
    'nf': 32,
    'ch_mult': [1, 1, 2],
    'res_blocks': 1,
    'attn_resolutions': [16],
    'codebook_size': 32,
    'emb_dim': 32,
}
VQGAN = {'type': 'VQAutoEncoder', **SIZES}
CODEFORMER = {'type': 'CodeFormer', **SIZES, 'dim_embd': 32, 'n_head': 2, 'n_layers': 1, 'connect_list': ['32']}
DISCRIMINATOR = {'type': 'VQGANDiscriminator', 'ndf': 8, 'n_layers': 2}
METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
    'ssim': {'type': 'calculate_ssim', 'crop_border': 0},
}


def make_faces(folder: Path, count: int = 6, size: int = 64) -> Path:
    """`count` different crops around the astronaut's face."""
    face = skimage.data.astronaut()[0:256, 96:352]
    rng = np.random.default_rng(0)
    for number in range(count):
        y, x = rng.integers(0, 64, 2)
        crop = skimage.transform.resize(face[y : y + 192, x : x + 192], (size, size), anti_aliasing=True)
        imwrite(folder / f'{number:03d}.png', (crop * 255).round().astype(np.uint8))
    return folder


def save_vqgan(path: Path) -> Path:
    """Return a stage I checkpoint with drawn weights."""
    state = build_network(VQGAN).state_dict()
    save_atomic({'params': state, 'params_ema': state}, path)
    return path


def stage_options(stage: int, root: Path, **train: Any) -> dict[str, Any]:
    """Options of a short run of a stage on the faces in `root/faces`, with its VQGAN in `root/vqgan.pth`."""
    faces = str(make_faces(root / 'faces'))
    data = {
        'type': 'FFHQBlindDataset',
        'dataroot_gt': faces,
        'in_size': 64,
        'gt_size': 64,
        'mean': [0.5] * 3,
        'std': [0.5] * 3,
        'use_corrupt': stage > 1,
        'num_worker_per_gpu': 0,
        'batch_size_per_gpu': 2,
    }
    if stage == 3:
        data['type'] = 'FFHQBlindJointDataset'
    optimizer = {'type': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.99]}
    images = {
        'pixel_opt': {'type': 'L1Loss'},
        'gan_opt': {'type': 'GANLoss', 'gan_type': 'hinge'},
        'optim_d': optimizer,
    }
    opt: dict[str, Any] = {
        'name': f'stage{stage}',
        'model_type': {1: 'VQGANModel', 2: 'CodeFormerIdxModel', 3: 'CodeFormerJointModel'}[stage],
        'manual_seed': 5,
        'datasets': {
            'train': data,
            'val': {'type': 'PairedImageDataset', 'dataroot_lq': faces, 'dataroot_gt': faces, 'batch_size_per_gpu': 4},
        },
        'network_g': VQGAN if stage == 1 else CODEFORMER,
        'train': {'total_iter': 4, 'optim_g': optimizer, 'ema_decay': 0.9, **(images if stage != 2 else {})},
        'val': {'val_freq': 2, 'metrics': METRICS},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2},
    }
    if stage != 2:
        opt['network_d'] = DISCRIMINATOR
    if stage > 1:
        opt['network_vqgan'] = {**VQGAN, 'model_path': str(save_vqgan(root / 'vqgan.pth'))}
        opt['network_g'] = {**CODEFORMER, 'vqgan_path': str(root / 'vqgan.pth')}
        opt['train'] |= {'feat_loss_weight': 1.0, 'entropy_loss_weight': 0.5, 'fidelity_weight': stage - 2}
    if stage == 3:
        opt['train']['curriculum'] = [{'severity': 'small', 'w': 1.0}]
    opt['train'] |= train
    return opt


def face_crops(count: int, size: int, seed: int = 0) -> Tensor:
    """`count` crops around the astronaut's face, of different size and place, half of them mirrored.

    Returns:
        (count,3,size,size) in [-1, 1].
    """
    portrait = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 127.5 - 1
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        side = int(rng.integers(140, 200))
        y, x = int(rng.integers(0, 40)), int(rng.integers(120, 160))
        crop = portrait[None, :, y : y + side, x : x + side]
        crop = F.interpolate(crop, size=(size, size), mode='area')
        crops.append(crop.flip(3) if rng.random() < 0.5 else crop)
    return torch.cat(crops)


def batch_of(opt: dict[str, Any], count: int = 2) -> dict[str, Any]:
    """Return the first samples of the training data of `opt`, as the loader collates them."""
    dataset = build_dataset(opt['datasets']['train'])
    return default_collate([dataset[i] for i in range(count)])
