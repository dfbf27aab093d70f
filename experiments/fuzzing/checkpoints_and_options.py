"""Valid checkpoints and option files of every kind, and their use as the commands make it."""

from __future__ import annotations

import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml

from basicsr.archs import build_network
from basicsr.archs.factory import load_network
from basicsr.cli.train import run_options
from basicsr.models.checkpoints import read_saved
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.options import OptionError

TINY: dict[str, Any] = {
    'type': 'CodeFormer', 'img_size': 16, 'nf': 32, 'ch_mult': [1, 1], 'res_blocks': 1, 'attn_resolutions': [8],
    'codebook_size': 4, 'emb_dim': 8, 'dim_embd': 8, 'n_head': 2, 'n_layers': 1, 'connect_list': ['16'],
}  # fmt: skip
JUDGE = {'type': 'VQGANDiscriminator', 'nc': 3, 'ndf': 4, 'n_layers': 1}
JUNK: tuple[Callable[[], Any], ...] = (
    lambda: 'junk', lambda: None, lambda: -1, lambda: 10**30, lambda: 0.5, lambda: [], lambda: {}, lambda: [[]] * 3,
    lambda: {'type': []}, lambda: True, lambda: float('nan'), lambda: '../../x', lambda: 'a' * 10_000,
    lambda: torch.zeros(0), lambda: torch.zeros(2, 2), lambda: torch.ones(1).expand(1000, 1000),
    lambda: torch.empty(10**6, device='meta'), lambda: torch.eye(2).to_sparse(),
)  # fmt: skip


def _replaced(value: Any, rng: random.Random, junk: Any) -> Any:
    """Return a copy of nested dicts and lists with `junk` in place of one part, sometimes under another key."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or rng.random() < 0.2:
        return junk
    chosen, copy = rng.choice(keys), value.copy()
    copy[chosen] = _replaced(value[chosen], rng, junk)
    if isinstance(copy, dict) and rng.random() < 0.1:
        copy[rng.choice((7, '', 'x' * 300, f'module.{chosen}'))] = copy.pop(chosen)
    return copy


def checkpoint_seeds(folder: Path) -> list[Path]:
    """Tiny networks in every format and training states, many with junk inside."""
    judge = build_network(JUDGE)
    state = {key: value.half() for key, value in judge.state_dict().items()}
    optimizer = torch.optim.Adam(judge.parameters())
    torch.stack([parameter.sum() for parameter in judge.parameters()]).sum().backward()
    optimizer.step()
    resume = {'iter': 1, 'optimizers': {'optim_d': optimizer.state_dict()}, 'scaler': {}, 'extra': {'warming': False}}
    weights = {'params_ema': state, 'network': JUDGE}
    torch.save(weights, folder / 'zip.pth')
    torch.save(weights, folder / 'legacy.pth', _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, folder / 'judge.safetensors', {'network': '{"n_head": 2}'})
    safetensors.torch.save_file(build_network(TINY).half().state_dict(), folder / 'restorer.safetensors')
    rng = random.Random(0)
    torch.serialization.set_crc32_options(False)  # so that damage inside is not found by the sums
    try:
        torch.save(weights, folder / 'plain.pth')
        for number in range(60):
            torch.save(_replaced(weights, rng, rng.choice(JUNK)()), folder / f'junk{number}.pth')
            torch.save(_replaced(resume, rng, rng.choice(JUNK)()), folder / f'junk{number}.state')
    finally:
        torch.serialization.set_crc32_options(True)
    return sorted(folder.iterdir())


def load(file: Path, folder: Path) -> str:
    """Load a network as inference does, or read a training state as resuming does."""
    before = _peak()
    try:
        if file.suffix == '.state':
            read_saved(file, [])
        else:
            load_network(file)
    except CheckpointError as error:
        if '\n' in str(error) or file.name not in str(error) or 'weights_only' in str(error):
            return f'an error that does not say enough in one line: {error!r}'
    grown = _peak() - before
    return f'{grown} bytes taken for a file of {file.stat().st_size}' if grown > 200_000_000 else ''


def _peak() -> int:
    """Return the most memory that this process has had so far, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == 'darwin' else most * 1024


def option_seeds(folder: Path) -> list[Path]:
    """Return the option files of a stage I and a stage III training, whole and with junk inside."""
    optimizer = {'type': 'Adam', 'lr': 1e-4, 'betas': [0.9, 0.99]}
    first: dict[str, Any] = {
        'name': 'tiny', 'model_type': 'VQGANModel', 'manual_seed': 0,
        'datasets': {
            'train': {'type': 'FFHQBlindDataset', 'dataroot_gt': 'faces', 'gt_size': 16, 'use_corrupt': False},
            'val': {'type': 'PairedImageDataset', 'dataroot_lq': 'faces', 'dataroot_gt': 'faces'},
        },
        'network_g': {key: TINY[key] for key in TINY if key in (
            'img_size', 'nf', 'ch_mult', 'res_blocks', 'attn_resolutions', 'codebook_size', 'emb_dim'
        )} | {'type': 'VQAutoEncoder'},
        'network_d': {'type': 'VQGANDiscriminator', 'ndf': 8, 'n_layers': 1},
        'train': {
            'total_iter': 7, 'optim_g': optimizer, 'optim_d': optimizer, 'ema_decay': 0.9,
            'scheduler': {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss'}, 'gan_opt': {'type': 'GANLoss', 'gan_type': 'hinge'},
        },
        'val': {'val_freq': 3, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'keep_last': 2}, 'path': {'pretrain_network_g': None},
    }  # fmt: skip
    third = {**first, 'model_type': 'CodeFormerJointModel', 'network_g': TINY}
    third['datasets'] = {'train': {**first['datasets']['train'], 'type': 'FFHQBlindJointDataset', 'in_size': 16}}
    third['train'] = {
        **first['train'],
        'curriculum': [{'until': 3, 'severity': 'small', 'w': 1.0}, {'severity': 'large'}],
    }
    paths, rng = [], random.Random(0)
    plain = [make for make in JUNK if not isinstance(make(), torch.Tensor)]
    for name, opt in (('first', first), ('third', third)):
        for number in range(60):
            path = folder / f'{name}{number}.yml'
            changed = _replaced(opt, rng, rng.choice(plain)()) if number else opt
            path.write_text(yaml.safe_dump(changed, default_flow_style=None), encoding='utf-8')
            paths.append(path)
    return paths


def read_options(file: Path, folder: Path) -> str:
    """Read and check an option file as training does."""
    try:
        run_options(file)
    except OptionError as error:
        if '\n' in str(error) or len(str(error)) > 1500:
            return f'an error of more than a line: {str(error)[:200]!r}'
    return ''
