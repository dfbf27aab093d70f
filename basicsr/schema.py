"""What may stand in an option file. Arguments of networks, losses and optimisers are read off their constructors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from basicsr import archs, data, losses, metrics, models
from basicsr.models.schedule import SCHEDULERS
from basicsr.utils.options import OptionError, check_keys, check_values
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
    nearest,
)

ROOMS = (archs, data, losses, metrics, models)
"""Imported so that their registries are filled."""

NUMBER = (int, float)
SECTION: Any = dict
TOP = {
    'name': str, 'model_type': str, 'num_gpu': (int, str), 'manual_seed': int, 'find_unused_parameters': bool,
    'scale': NUMBER, 'datasets': SECTION, 'network_g': SECTION, 'network_d': SECTION, 'network_vqgan': SECTION,
    'path': SECTION, 'train': SECTION, 'val': SECTION, 'logger': SECTION, 'dist_params': SECTION,
}  # fmt: skip
PATH = {
    'pretrain_network_g': str, 'param_key_g': str, 'strict_load_g': bool,
    'pretrain_network_d': str, 'param_key_d': str, 'strict_load_d': bool, 'resume_state': str,
}  # fmt: skip
TRAIN = {
    'optim_g': SECTION, 'optim_d': SECTION, 'scheduler': SECTION, 'total_iter': int, 'warmup_iter': int,
    'ema_decay': float, 'pixel_opt': SECTION, 'perceptual_opt': SECTION, 'gan_opt': SECTION,
    'codebook_opt': {'loss_weight': float}, 'use_hq_feat_loss': bool, 'feat_loss_weight': float,
    'cross_entropy_loss': bool, 'entropy_loss_weight': float, 'fidelity_weight': float,
    'use_adaptive_weight': bool, 'scale_adaptive_gan_weight': float, 'disc_weight': float, 'fix_generator': bool,
    'net_g_start_iter': int, 'net_d_iters': int, 'net_d_start_iter': int, 'manual_seed': int,
    'curriculum': list, 'codebook_warmup': {'iters': int, 'samples': int},
    'codebook_average': {'decay': float, 'restart_under': float}, 'precision': str, 'grad_clip': float,
    'accumulate': int, 'grad_checkpointing': bool,
}  # fmt: skip
VAL = {'val_freq': int, 'save_img': bool, 'metrics': SECTION, 'grid': int, 'adain': bool}
DATASET = {
    'dataroot_gt': str, 'dataroot_lq': str, 'latent_gt_path': str, 'component_path': str, 'in_size': int,
    'gt_size': int, 'use_hflip': bool, 'use_corrupt': bool, 'use_motion_kernel': bool, 'blur_kernel_size': int,
    'on_error': str, 'num_worker_per_gpu': int, 'batch_size_per_gpu': int, 'num_prefetch_queue': int,
    'pin_memory': bool, 'seed': int, 'io_backend': SECTION, 'scale': int, 'motion_kernel_prob': float,
    'color_jitter_prob': float, 'color_jitter_pt_prob': float, 'gray_prob': float, 'color_jitter_shift': float,
    **dict.fromkeys(('mean', 'std', 'kernel_list', 'kernel_prob', 'brightness', 'contrast', 'saturation', 'hue'), list),
    **{
        key + suffix: list
        for key in ('blur_sigma', 'downsample_range', 'noise_range', 'jpeg_range')
        for suffix in ('', '_large')
    },
}  # fmt: skip
"""Types of dataset keys; which keys a dataset has, it says itself."""
LOGGER = {
    'print_freq': int, 'save_checkpoint_freq': int, 'use_tb_logger': bool,
    'wandb': {'project': str, 'resume_id': (str, int)},
}  # fmt: skip
SECTIONS = {
    'path': PATH, 'train': TRAIN, 'val': VAL, 'logger': LOGGER, 'dist_params': {'backend': str, 'port': int},
}  # fmt: skip
REQUIRED = ('name', 'model_type', 'datasets', 'network_g', 'train')


def check_options(opt: Mapping[str, Any]) -> None:
    """Every key is known, every value of its type, and what a run cannot do without is there.

    Raises:
        OptionError: not so; the message names the key and the nearest valid one.
    """
    check_values('options', opt, TOP)
    for key in REQUIRED:
        if not opt.get(key):
            raise OptionError(f"options: '{key}' is missing")
    if opt['model_type'] not in MODEL_REGISTRY:
        raise OptionError(
            f"model_type: unknown '{opt['model_type']}'{nearest(opt['model_type'], MODEL_REGISTRY.names())}"
        )
    for name, kinds in SECTIONS.items():
        check_values(name, opt.get(name) or {}, kinds)
    for name in ('network_g', 'network_d', 'network_vqgan'):
        if opt.get(name):
            _check_entry(name, opt[name], ARCH_REGISTRY)
    for name, section in opt['datasets'].items():
        if section is None:
            continue
        _check_dataset(f'datasets:{name}', name, section)
    if ((opt.get('logger') or {}).get('wandb') or {}).get('project'):
        raise OptionError('logger:wandb:project: runs are logged to TensorBoard only; set it to null')
    train = opt['train']
    if not train.get('total_iter'):
        raise OptionError("train: 'total_iter' is missing")
    for name in ('pixel_opt', 'perceptual_opt', 'gan_opt'):
        if train.get(name):
            _check_entry(f'train:{name}', train[name], LOSS_REGISTRY)
    for name in ('optim_g', 'optim_d'):
        if train.get(name):
            _check_optimizer(f'train:{name}', train[name])
    scheduler = train.get('scheduler')
    if scheduler:
        kind = scheduler.get('type', '')
        if kind not in SCHEDULERS:
            raise OptionError(f"train:scheduler: unknown type '{kind}'{nearest(kind, SCHEDULERS)}")
        check_values('train:scheduler', scheduler, SCHEDULERS[kind])
        _check_scheduler(scheduler)
    for name, section in ((opt.get('val') or {}).get('metrics') or {}).items():
        _check_entry(f'val:metrics:{name}', section, METRIC_REGISTRY, given=('img', 'img2'))


def _check_entry(where: str, section: Mapping[str, Any], registry: Registry, given: tuple[str, ...] = ()) -> None:
    kind = str(section.get('type'))
    if kind not in registry:
        raise OptionError(f"{where}: unknown type '{kind}'{nearest(kind, registry.names())}")
    parameters = inspect.signature(registry.get(kind)).parameters
    check_keys(where, section, ['type', *(name for name in parameters if name not in given)])
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in section and name not in given:
            raise OptionError(f"{where}: '{name}' is missing")
    defaults = {name: parameter.default for name, parameter in parameters.items() if name in section}
    kinds = {name: type(value) for name, value in defaults.items() if isinstance(value, (bool, int, float, str))}
    check_values(where, {name: section[name] for name in kinds}, kinds)


def _check_dataset(where: str, name: str, section: Mapping[str, Any]) -> None:
    if name.split('_')[0] not in ('train', 'val', 'test'):
        raise OptionError(f"datasets: '{name}'; the sections are train, val and test")
    kind = str(section.get('type'))
    if kind not in DATASET_REGISTRY:
        raise OptionError(f"{where}: unknown type '{kind}'{nearest(kind, DATASET_REGISTRY.names())}")
    if name.startswith(('val', 'test')) and kind != 'PairedImageDataset':
        raise OptionError(f'{where}: validation compares pairs; use PairedImageDataset (scripts/make_val_pairs.py)')
    check_keys(where, section, vars(DATASET_REGISTRY.get(kind))['OPTION_KEYS'])
    check_values(where, {key: value for key, value in section.items() if key in DATASET}, DATASET)


def _check_scheduler(section: Mapping[str, Any]) -> None:
    needed = 'periods' if section['type'] == 'CosineAnnealingRestartLR' else 'milestones'
    if not section.get(needed):
        raise OptionError(f"train:scheduler: '{needed}' is missing")
    weights = section.get('restart_weights')
    if weights and len(weights) != len(section['periods']):
        raise OptionError('train:scheduler: restart_weights and periods must be of one length')


def _check_optimizer(where: str, section: Mapping[str, Any]) -> None:
    kind = section.get('type', '')
    known = [name for name, entry in vars(torch.optim).items() if inspect.isclass(entry)]
    if kind not in known:
        raise OptionError(f"{where}: unknown type '{kind}'{nearest(kind, known)}")
    parameters = inspect.signature(getattr(torch.optim, kind)).parameters
    check_keys(where, section, ['type', *(name for name in parameters if name != 'params')])
    lr = section.get('lr')
    if not isinstance(lr, NUMBER) or not 0 < lr < 1:
        raise OptionError(f'{where}: lr must be a number between 0 and 1, not {lr!r}')
