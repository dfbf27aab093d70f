"""Train any stage: `python basicsr/train.py -opt options/CodeFormer_stage2.yml --launcher pytorch`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

import basicsr
from basicsr.archs import VQAutoEncoder
from basicsr.cli.arguments import ArgumentParser
from basicsr.data import DataError, PairedImageDataset, build_dataloader, build_dataset, check_pairs
from basicsr.models import BaseModel, NonFiniteLossError, build_model
from basicsr.models.checkpoints import newest_usable, set_aside_later
from basicsr.models.loop import Run, SaveError, saving
from basicsr.models.schema import check_options
from basicsr.utils import dist, slurm
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.files import InUseError, lock, remove_abandoned, user_path, write_text
from basicsr.utils.folders import find_packaged
from basicsr.utils.logger import get_root_logger, write_environment
from basicsr.utils.memory import keep_freed_memory
from basicsr.utils.options import OptionError, drop_nulls, dump_options, load_options, merge
from basicsr.utils.stopping import StoppedError

ERRORS = (
    OptionError, DataError, CheckpointError, NonFiniteLossError, SaveError, InUseError, dist.PeerLostError, OSError,
)  # fmt: skip
"""Errors that end a run with one line."""
EXIT_CODES = 'Exit codes: 0 done, 1 an error, 2 a wrong command line, 130 Ctrl-C and 143 SIGTERM (saved, then left).'

logger = logging.getLogger('basicsr')


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description='Train a stage of CodeFormer from an option file.', epilog=EXIT_CODES)
    parser.add_argument('-opt', type=user_path, required=True, help='option file (YAML)')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm'],
        default='none',
        help='pytorch: one process for each GPU; under torchrun it joins those, else it starts its own. slurm: joins '
        'those that srun started',
    )
    parser.add_argument('--auto_resume', action='store_true', help='take up the run where its last state is')
    parser.add_argument('--debug', action='store_true', help='validate, save and print after few iterations')
    parser.add_argument(
        '--force_yml', nargs='+', default=[], metavar='KEY=VALUE', help='changes: train:ema_decay=0.999 num_gpu=0'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run_options(path: str | Path, changes: Sequence[str] = (), debug: bool = False) -> dict[str, Any]:
    """Return the checked options of a run. Null means the default, but in the datasets, where it means "not at all"."""
    opt = with_packaged(load_options(find_packaged(path), changes))
    check_options(opt)
    opt = {**drop_nulls(opt), 'datasets': {name: section for name, section in opt['datasets'].items() if section}}
    # Some published files have the seed below train.
    opt['manual_seed'] = int(opt.get('manual_seed', opt['train'].get('manual_seed', 0)))
    if debug:
        quick = {
            'name': f'debug_{opt["name"]}',
            'val': {'val_freq': 8},
            'logger': {'print_freq': 1, 'save_checkpoint_freq': 8},
        }
        opt = merge(opt, quick)
    return opt


def with_packaged(opt: Any) -> Any:
    """Replace `weights/…` that the working folder lacks by downloaded or embedded weights of that name."""
    if isinstance(opt, Mapping):
        return {key: with_packaged(value) for key, value in opt.items()}
    if isinstance(opt, list):
        return [with_packaged(value) for value in opt]
    return str(find_packaged(opt)) if isinstance(opt, str) and opt.startswith('weights/') else opt


def uses_cuda(opt: Mapping[str, Any]) -> bool:
    """Return True if a run computes on GPUs: where there are any, unless `num_gpu` is 0."""
    return torch.cuda.is_available() and opt.get('num_gpu') != 0


def find_resume_state(
    opt: Mapping[str, Any], folder: Path, auto: bool, resume: Callable[[Path], int]
) -> tuple[Path | None, list[str]]:
    """Return the state to go on from, and what is wrong with newer ones.

    With `auto` it is the run's last one that `resume` can take up. Where there is none, and without `auto`, it is
    `path:resume_state`.

    Raises:
        CheckpointError: the run has states, but none is whole.
    """
    if auto:
        path, problems = newest_usable(folder, resume)
        if path:
            return path, problems
    stated = (opt.get('path') or {}).get('resume_state')
    return (Path(stated) if stated else None), []


def prepare_folder(opt: Mapping[str, Any], folder: Path, start: int) -> None:
    """Make the run's folder and write what it was started with; an earlier run of that name is set aside.

    A run resumed at iteration `start` leaves the first records alone and adds `options_<start>.yml` and so on.
    """
    if start:
        set_aside_later(folder, start)
    else:
        for old in (folder, Path('tb_logger') / opt['name']):
            if old.exists():
                old.rename(_unused(old.with_name(f'{old.name}_archived_{time.strftime("%Y%m%d_%H%M%S")}')))
    for name in ('models', 'training_states', 'visualization'):
        (folder / name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder / name):
            pass  # it can be written to
    remove_abandoned(folder)  # by a process that was killed while it wrote
    mark = f'_{start}' if start else ''
    write_text(folder / f'options{mark}.yml', dump_options(opt))
    write_environment(folder / f'environment{mark}.json')


def _unused(path: Path) -> Path:
    """`path`, with a number where there is one of that name."""
    names = (path, *(path.with_name(f'{path.name}_{number}') for number in range(2, 1000)))
    return next(name for name in names if not name.exists())


def make_loaders(opt: Mapping[str, Any], done: int) -> tuple[DataLoader, dict[str, DataLoader]]:
    """Return the training loader, its first `done` items left out, and the validation loaders by name."""
    sections = opt['datasets']
    if 'train' not in sections:
        raise OptionError("datasets: 'train' is missing")
    section = dict(sections['train'])
    if section.get('seed') is None:
        section['seed'] = opt['manual_seed']
    train = build_dataloader(
        build_dataset(section),
        section,
        num_replicas=dist.get_world_size(),
        rank=dist.get_rank(),
        seed=section['seed'],
        start=done,
    )
    validation = {
        name: build_dataloader(build_dataset(section), section, train=False)
        for name, section in sections.items()
        if name.startswith('val') and dist.get_rank() == 0
    }
    return train, validation


def train(opt: Mapping[str, Any], auto_resume: bool = False) -> BaseModel:
    """One run in this process (one of several, where a launcher joined them).

    Args:
        opt: checked options.
        auto_resume: go on from the run's last whole state, if it has one.

    Returns:
        The model as it is at the end.

    Raises:
        OptionError, DataError, CheckpointError, NonFiniteLossError, SaveError: as their messages say.
        StoppedError: told to stop; what was done is saved.
        PeerLostError: another process of the run failed.
    """
    folder = Path('experiments') / opt['name']
    held: AbstractContextManager[object] = nullcontext()
    if dist.get_rank() == 0:
        with saving('the folder', folder):
            held = lock(folder.with_name(f'.{folder.name}.lock'), f"the run '{opt['name']}'")
    with held:
        return _train(opt, folder, auto_resume)


def _train(opt: Mapping[str, Any], folder: Path, auto_resume: bool) -> BaseModel:
    section = opt['datasets'].get('train') or {}
    per_iteration = int(section.get('batch_size_per_gpu') or 1) * int(opt['train'].get('accumulate') or 1)
    problems: list[str] = []
    if not uses_cuda(opt):
        keep_freed_memory()
    try:
        model = build_model(opt, 'cuda' if uses_cuda(opt) else 'cpu')
        if dist.get_rank() == 0:
            state, problems = find_resume_state(opt, folder, auto_resume, model.resume_training)
        else:
            state = None
        state = dist.broadcast_object(state)
        start = model.resume_training(state) if state else 0
        loaders = make_loaders(opt, start * per_iteration)
        side = cast(VQAutoEncoder, model.networks['net_g']).img_size
        for name, loader in loaders[1].items():
            check_pairs(name, cast(PairedImageDataset, loader.dataset), side)
    except (ValueError, KeyError) as error:  # what constructors say of their arguments
        raise OptionError(error.args[0] if isinstance(error, KeyError) else str(error)) from error
    if dist.get_rank() == 0:
        with saving('the folder', folder):
            prepare_folder(opt, folder, start)
            get_root_logger(folder / f'train_{opt["name"]}.log')
    for problem in problems:
        logger.warning('%s. The checkpoint before it is taken, %s', problem, state)
    if state:
        logger.info('resumed from %s', state)
    dist.barrier()
    Run(opt, model, loaders, start, folder)()
    return model


def launch_or_join(launcher: str, opt: Mapping[str, Any], arguments: Sequence[str]) -> int | None:
    """Join the processes of a launcher, if there is one; or start them, wait for them, and return their exit code."""
    if launcher == 'none':
        return None
    section = opt.get('dist_params') or {}
    if launcher == 'slurm':
        slurm.set_environment(section.get('port'))
    elif not dist.is_launched():
        processes = torch.cuda.device_count() if uses_cuda(opt) else 1
        return (
            dist.launch(Path(basicsr.__file__).with_name('train.py'), arguments, processes) if processes > 1 else None
        )
    dist.join(uses_cuda(opt), section.get('backend'), float(section.get('dead_after') or 20))
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, see EXIT_CODES."""
    args = parse_arguments(argv)
    get_root_logger()
    failure = 'it failed unexpectedly; see what it wrote'
    try:
        opt = run_options(args.opt, args.force_yml, args.debug)
        code = launch_or_join(args.launcher, opt, argv if argv is not None else sys.argv[1:])
        if code is None:
            get_root_logger(level=logging.INFO if dist.get_rank() == 0 else logging.WARNING)
            train(opt, args.auto_resume)
        failure = ''
    except StoppedError as stopped:
        logger.warning('%s', stopped)
        code, failure = 128 + stopped.number, ''
    except ERRORS as error:
        logger.error('%s', error)
        code, failure = 1, str(error)
    except KeyboardInterrupt:
        logger.warning('stopped before the first iteration; there was nothing to save')
        code, failure = 130, 'it was stopped by Ctrl-C before the first iteration'
    finally:
        dist.leave(failure)
    return code or 0
