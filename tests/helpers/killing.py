"""Training runs in processes of their own, which are killed at chosen moments.

The processes are forked from a server that has imported everything, so that one takes a second and not ten.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
import yaml
from small import make_faces

from basicsr.cli import train
from basicsr.models import BaseModel

CONTEXT = multiprocessing.get_context('forkserver')


def tiny_options(root: Path, **sections) -> dict:
    """Stage I with a discriminator and a codebook warm-up at 32 pixels, validated and saved often."""
    faces = root / 'faces'
    if not faces.exists():
        make_faces(faces, 4, 32)
    optimizer = {'type': 'Adam', 'lr': 1e-3}
    sizes = {'img_size': 32, 'nf': 32, 'ch_mult': [1, 1], 'res_blocks': 1, 'attn_resolutions': [16]}
    opt = {
        'name': 'tiny',
        'model_type': 'VQGANModel',
        'manual_seed': 5,
        'datasets': {
            'train': {
                'type': 'FFHQBlindDataset', 'dataroot_gt': str(faces), 'gt_size': 32, 'use_corrupt': False,
                'batch_size_per_gpu': 2,
            },
            'val': {'type': 'PairedImageDataset', 'dataroot_lq': str(faces), 'dataroot_gt': str(faces)},
        },
        'network_g': {'type': 'VQAutoEncoder', **sizes, 'codebook_size': 16, 'emb_dim': 16},
        'network_d': {'type': 'VQGANDiscriminator', 'ndf': 8, 'n_layers': 1},
        'train': {
            'total_iter': 7, 'optim_g': optimizer, 'optim_d': optimizer, 'ema_decay': 0.9,
            'pixel_opt': {'type': 'L1Loss'}, 'gan_opt': {'type': 'GANLoss', 'gan_type': 'hinge'},
            'codebook_warmup': {'iters': 3, 'samples': 1024},
        },
        'val': {'val_freq': 3, 'grid': 1, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': False, 'keep_last': 2},
    }  # fmt: skip
    for name, changes in sections.items():
        opt[name] = {**opt.get(name, {}), **changes}
    return opt


def write_options(root: Path, opt: Mapping) -> str:
    """Return the options as a file."""
    path = root / f'{opt["name"]}.yml'
    path.write_text(yaml.safe_dump(dict(opt)))
    return str(path)


class Moments:
    """Counts what a run does to its folder, and its iterations; at moment `at` it calls `action` before that is done.

    A file that torch writes has a moment in its middle.
    """

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self.count, self.at, self.action = 0, at, action

    def next(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.action()

    def watch(self) -> None:
        """From here on, and to the end of this process."""
        save, step = torch.save, BaseModel.optimize_parameters

        def in_halves(content, file) -> None:
            save(content, file)
            whole = file.tell()
            file.truncate(whole // 2)
            file.seek(0)
            file.flush()
            self.next()
            file.seek(0)
            save(content, file)

        def counted(model, batches, iteration) -> None:
            self.next()
            step(model, batches, iteration)

        torch.save, BaseModel.optimize_parameters = in_halves, counted
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        if event not in ('open', 'os.rename', 'os.remove', 'os.mkdir'):
            return
        writes = event != 'open' or (isinstance(arguments[1], str) and arguments[1][0] in 'wax')
        if writes and 'experiments' in str(arguments[0]):
            self.next()


def die() -> None:
    """As the system's `kill -9` does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_iteration(number: int, action: Callable[[], None]) -> None:
    """Call `action` when an iteration is done, in this process."""
    step = BaseModel.optimize_parameters

    def followed(model, batches, iteration) -> None:
        step(model, batches, iteration)
        if iteration == number:
            action()

    BaseModel.optimize_parameters = followed


def _child(folder: Path, arguments: Sequence[str], prepare: Callable | None, extra: tuple, environment: dict) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    with Path('said.txt').open('a') as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    torch.set_num_threads(1)
    if prepare is not None:
        prepare(*extra)
    sys.exit(train.main(arguments))


def _start_server() -> None:
    """Start the server, which finds what it is to import by PYTHONPATH only."""
    CONTEXT.set_forkserver_preload(['killing'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', os.pathsep.join(sys.path))
        forkserver.ensure_running()


def start(
    folder: Path, arguments: Sequence[str], prepare: Callable | None = None, *extra, environment: Mapping | None = None
):
    """A process that calls `prepare(*extra)` and then the training command; what it says is added to `said.txt`."""
    folder.mkdir(exist_ok=True)
    _start_server()
    process = CONTEXT.Process(target=_child, args=(folder, arguments, prepare, extra, dict(environment or {})))
    process.start()
    return process


def run(folder: Path, arguments: Sequence[str], prepare: Callable | None = None, *extra) -> int:
    """`start` and wait; the exit code, negative for the signal that killed it."""
    process = start(folder, arguments, prepare, *extra)
    process.join()
    return process.exitcode
