"""Train any stage: `python basicsr/train.py -opt options/CodeFormer_stage2.yml --launcher pytorch`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

if __name__ == '__main__':  # started as a file: the package is the folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from basicsr.data import DataError, build_dataloader, build_dataset
from basicsr.models import BaseModel, NonFiniteLossError, build_model
from basicsr.models.validation import validate
from basicsr.schema import check_options
from basicsr.utils import dist
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.files import write_text
from basicsr.utils.logger import get_root_logger, write_environment
from basicsr.utils.options import OptionError, drop_nulls, dump_options, load_options, merge

logger = logging.getLogger('basicsr')


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Train a stage of CodeFormer from an option file.')
    parser.add_argument('-opt', required=True, help='option file (YAML)')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch'],
        default='none',
        help='pytorch: one process for each GPU; under torchrun it joins those, else it starts its own',
    )
    parser.add_argument('--auto_resume', action='store_true', help='take up the run where its last state is')
    parser.add_argument('--debug', action='store_true', help='validate, save and print after few iterations')
    parser.add_argument(
        '--force_yml', nargs='+', default=[], metavar='KEY=VALUE', help='changes: train:ema_decay=0.999 num_gpu=0'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run_options(path: str | Path, changes: Sequence[str] = (), debug: bool = False) -> dict[str, Any]:
    """The checked options of a run. Null means the default, but in the datasets, where it means "not at all"."""
    opt = load_options(path, changes)
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


def uses_cuda(opt: Mapping[str, Any]) -> bool:
    """Whether a run computes on GPUs: where there are any, unless `num_gpu` is 0."""
    return torch.cuda.is_available() and opt.get('num_gpu') != 0


def find_resume_state(opt: Mapping[str, Any], folder: Path, auto: bool) -> Path | None:
    """The state to go on from: the run's last one with `auto`, else `path:resume_state`, else none."""
    if auto:
        states = [path for path in (folder / 'training_states').glob('*.state') if path.stem.isdigit()]
        if states:
            return max(states, key=lambda path: int(path.stem))
    stated = (opt.get('path') or {}).get('resume_state')
    return Path(stated) if stated else None


def prepare_folder(opt: Mapping[str, Any], folder: Path, start: int) -> None:
    """Make the run's folder and write what it was started with; an earlier run of that name is set aside.

    A run resumed at iteration `start` leaves the first records alone and adds `options_<start>.yml` and so on.
    """
    if folder.exists() and not start:
        stamp = time.strftime('%Y%m%d_%H%M%S')
        for old in (folder, Path('tb_logger') / opt['name']):
            if old.exists():
                old.rename(old.with_name(f'{old.name}_archived_{stamp}'))
    for name in ('models', 'training_states', 'visualization'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mark = f'_{start}' if start else ''
    write_text(folder / f'options{mark}.yml', dump_options(opt))
    write_environment(folder / f'environment{mark}.json')


def make_loaders(opt: Mapping[str, Any], done: int) -> tuple[DataLoader, dict[str, DataLoader]]:
    """The training loader, its first `done` items left out, and the validation loaders by name."""
    sections = opt['datasets']
    if 'train' not in sections:
        raise OptionError("datasets: 'train' is missing")
    section = {'seed': opt['manual_seed'], **sections['train']}
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


class Reporter:
    """Progress bar, log lines and TensorBoard of rank 0; does nothing elsewhere."""

    def __init__(self, opt: Mapping[str, Any], start: int, total: int) -> None:
        section = opt.get('logger') or {}
        self.print_freq = int(section.get('print_freq') or 100)
        self.active = dist.get_rank() == 0
        self.bar = tqdm(total=total, initial=start, unit='it', disable=not self.active, dynamic_ncols=True)
        self.board = None
        if self.active and section.get('use_tb_logger', True):
            self.board = SummaryWriter(str(Path('tb_logger') / opt['name']))

    def iteration(self, model: BaseModel, iteration: int) -> None:
        """Report one iteration."""
        self.bar.update()
        if not self.active or iteration % self.print_freq:
            return
        rates = {f'lr_{name[-1]}': model.learning_rate(name, iteration) for name in model.optimizers}
        text = ', '.join(f'{name} {value:.4g}' for name, value in (rates | model.log).items())
        self.bar.set_postfix_str(', '.join(f'{n} {v:.3g}' for n, v in model.log.items())[:80])
        pace = self.bar.format_dict
        logger.info('iteration %d (%.2f it/s): %s', iteration, pace['rate'] or 0, text)
        self.scalars('train', rates | model.log, iteration)

    def scalars(self, group: str, values: Mapping[str, float], iteration: int) -> None:
        """Numbers to TensorBoard."""
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f'{group}/{name}', value, iteration)

    def validation(self, name: str, means: Mapping[str, float], grid: Any, iteration: int) -> None:
        """A validation's numbers and pictures to TensorBoard."""
        self.scalars(f'val_{name}', means, iteration)
        if self.board is not None and grid is not None:
            self.board.add_image(f'val_{name}', grid, iteration, dataformats='HWC')

    def close(self) -> None:
        """End bar and board."""
        self.bar.close()
        if self.board is not None:
            self.board.close()


def train_loop(
    opt: Mapping[str, Any],
    model: BaseModel,
    loaders: tuple[DataLoader, dict[str, DataLoader]],
    start: int,
    folder: Path,
) -> None:
    """Iterations `start` + 1 to `train:total_iter`."""
    train_loader, val_loaders = loaders
    total, accumulate = int(opt['train']['total_iter']), int(opt['train'].get('accumulate') or 1)
    save_freq = int((opt.get('logger') or {}).get('save_checkpoint_freq') or 5000)
    val_freq = int((opt.get('val') or {}).get('val_freq') or 0)
    batches: Iterator[Mapping[str, Any]] = iter(train_loader)
    reporter = Reporter(opt, start, total)
    try:
        for iteration in range(start + 1, total + 1):
            model.optimize_parameters([next(batches) for _ in range(accumulate)], iteration)
            reporter.iteration(model, iteration)
            if dist.get_rank() == 0 and (iteration % save_freq == 0 or iteration == total):
                model.save(iteration, folder)
            if val_freq and (iteration % val_freq == 0 or iteration == total):
                for name, loader in val_loaders.items():
                    judged = validate(model, loader, folder, name, {'iter': iteration})
                    reporter.validation(name, *judged, iteration)
                dist.barrier()
        if dist.get_rank() == 0:
            model.save(total, folder, 'latest')
    finally:
        reporter.close()


def train(opt: Mapping[str, Any], auto_resume: bool = False) -> BaseModel:
    """One run in this process (one of several, where a launcher joined them).

    Args:
        opt: checked options.
        auto_resume: go on from the run's last state, if it has one.

    Returns:
        The model as it is at the end.

    Raises:
        OptionError, DataError, CheckpointError, NonFiniteLossError: as their messages say.
    """
    folder = Path('experiments') / opt['name']
    state = dist.from_rank_0(find_resume_state(opt, folder, auto_resume))
    section = opt['datasets'].get('train') or {}
    per_iteration = int(section.get('batch_size_per_gpu') or 1) * int(opt['train'].get('accumulate') or 1)
    try:
        model = build_model(opt, 'cuda' if uses_cuda(opt) else 'cpu')
        start = model.resume_training(state) if state else 0
        loaders = make_loaders(opt, start * per_iteration)
    except (ValueError, KeyError) as error:  # what constructors say of their arguments
        raise OptionError(error.args[0] if isinstance(error, KeyError) else str(error)) from error
    if dist.get_rank() == 0:
        prepare_folder(opt, folder, start)
        get_root_logger(folder / f'train_{opt["name"]}.log')
    if state:
        logger.info('resumed from %s', state)
    dist.barrier()
    train_loop(opt, model, loaders, start, folder)
    return model


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = parse_arguments(argv)
    get_root_logger()
    try:
        opt = run_options(args.opt, args.force_yml, args.debug)
        if args.launcher == 'pytorch' and not dist.is_launched():
            processes = torch.cuda.device_count() if uses_cuda(opt) else 1
            if processes > 1:
                return dist.launch(Path(__file__).resolve(), argv if argv is not None else sys.argv[1:], processes)
        elif args.launcher == 'pytorch':
            dist.join(uses_cuda(opt), (opt.get('dist_params') or {}).get('backend'))
        get_root_logger(level=logging.INFO if dist.get_rank() == 0 else logging.WARNING)
        train(opt, args.auto_resume)
    except (OptionError, DataError, CheckpointError, NonFiniteLossError, FileNotFoundError) as error:
        logger.error('%s', error)
        return 1
    finally:
        dist.leave()
    return 0


if __name__ == '__main__':
    sys.exit(main())
