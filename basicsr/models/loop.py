"""The iterations of a run: data, steps, reports, checkpoints, validation, and leaving so that nothing is lost."""

from __future__ import annotations

import errno
import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from basicsr.data import DataError
from basicsr.models import BaseModel
from basicsr.models.checkpoints import Best, rotate, state_file
from basicsr.models.validation import validate
from basicsr.utils import dist
from basicsr.utils.board import Board
from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.stopping import StoppedError, StopSignals

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FAILED = 1
"""Value of a process that cannot go on; others give the signal that stops them, always above it."""
WINDOW = 200  # iterations over which the perplexity is averaged, and that pass between two warnings
LEAST_SHARE = 0.02  # of the codebook, the default bound of the perplexity

logger = logging.getLogger('basicsr')


class SaveError(IDCodeFormerError, RuntimeError):
    """Results cannot be written; the message names the folder and the remedy."""


class Reporter:
    """Progress bar, log lines and TensorBoard of rank 0; does nothing elsewhere."""

    def __init__(self, opt: Mapping[str, Any], start: int, total: int) -> None:
        section = opt.get('logger') or {}
        self.print_freq = int(section.get('print_freq') or 100)
        self.active = dist.get_rank() == 0
        self.bar = tqdm(total=total, initial=start, unit='it', disable=not self.active, dynamic_ncols=True)
        self.board = None
        if self.active and section.get('use_tb_logger', True):
            self.board = Board(Path('tb_logger') / opt['name'], start)

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
        if self.board is not None:
            self.board.scalars('train', rates | model.log, iteration)

    def validation(self, name: str, means: Mapping[str, float], grid: Any, iteration: int) -> None:
        """Write a validation's numbers and pictures to TensorBoard."""
        if self.board is None:
            return
        self.board.scalars(f'val_{name}', means, iteration)
        if grid is not None:
            self.board.image(f'val_{name}', grid, iteration)

    def close(self) -> None:
        """End bar and board."""
        self.bar.close()
        if self.board is not None:
            self.board.close()


@contextmanager
def saving(what: str, folder: Path, kept: str = '') -> Iterator[None]:
    """Turn errors of writing into a SaveError that says where, why and what to do."""
    try:
        yield
    except OSError as error:
        remedy = 'check the folder and its permissions'
        if error.errno in FULL:
            remedy = 'free space there, or keep fewer checkpoints (logger:keep_last)'
        named = f', {error.filename}' if error.filename else ''
        raise SaveError(f'{folder}: {what} cannot be written ({error.strerror}{named}); {remedy}{kept}') from error


def data_problem(error: Exception) -> Exception:
    """Return the error that stopped the data as one line, without the trace of a worker process."""
    text = str(error)
    torn = isinstance(error, (ConnectionResetError, ConnectionRefusedError, EOFError))
    if torn and not text.startswith('Caught '):  # which a worker says that lives
        text = f'DataLoader worker died while it handed over a batch ({text or type(error).__name__}).'
    if (torn or isinstance(error, RuntimeError)) and text.startswith('DataLoader worker'):
        return DataError(
            f'{" ".join(text.split())} The system ends a worker most often for want of memory: lower '
            'datasets:train:num_worker_per_gpu or num_prefetch_queue, or give more memory (shared memory: /dev/shm)'
        )
    if isinstance(error, DataError) and text.startswith('Caught '):
        return DataError(re.sub(r'^[\w.]+: ', '', text.strip().rsplit('\n', 1)[-1]))
    return error


class Run:
    """A run from iteration `start` + 1 to `train:total_iter`.

    Args:
        opt: checked options.
        model: at `start`.
        loaders: the training loader and the validation loaders by name.
        start: iterations done.
        folder: the run's.
    """

    def __init__(
        self,
        opt: Mapping[str, Any],
        model: BaseModel,
        loaders: tuple[DataLoader, dict[str, DataLoader]],
        start: int,
        folder: Path,
    ) -> None:
        train, kept = opt['train'], opt.get('logger') or {}
        self.model, self.start, self.folder = model, start, folder
        self.train_loader, self.val_loaders = loaders
        self.total, self.accumulate = int(train['total_iter']), int(train.get('accumulate') or 1)
        self.save_freq = int(kept.get('save_checkpoint_freq') or 5000)
        self.val_freq = int((opt.get('val') or {}).get('val_freq') or 0)
        self.keep_last, self.keep_every = kept.get('keep_last'), kept.get('keep_every')
        if self.keep_every and not self.keep_last:
            self.keep_last = 2
        self.saved = start
        self.best = Best(opt, folder)
        self.judged = min(start, self.best.judged) if self.best.active else start
        self.collapse = CollapseWatch(model.codebook_size, train.get('min_perplexity'))
        self.stop = StopSignals()
        self.reporter = Reporter(opt, start, self.total)

    def __call__(self) -> None:
        """All iterations.

        Raises:
            StoppedError: told to stop; the state is saved.
            DataError, and whatever else the data raise: the state is saved.
            SaveError, NonFiniteLossError: the last checkpoint is kept.
            PeerLostError: another process failed; the last checkpoint is kept.
        """
        try:
            with self.stop:
                self._iterate()
        finally:
            self.reporter.close()

    def _iterate(self) -> None:
        batches = iter(self.train_loader)
        self.stop.hold_worker_errors()
        if self.start and self._is_due(self.start, self.val_freq):
            self.judge(self.start)  # unless that was done before the run was interrupted
        for iteration in range(self.start + 1, self.total + 1):
            parts = self.fetch(batches, iteration - 1)
            self.model.optimize_parameters(parts, iteration)
            self.reporter.iteration(self.model, iteration)
            self.collapse.see(self.model.log.get('perplexity'), iteration)
            if self._is_due(iteration, self.save_freq):
                self.save(iteration)
            if self._is_due(iteration, self.val_freq):
                self.judge(iteration)
        if dist.get_rank() == 0:
            with self._writing('latest'):
                self.model.save(self.total, self.folder, 'latest')
        dist.barrier()

    def _is_due(self, iteration: int, every: int) -> bool:
        return bool(every) and (iteration % every == 0 or iteration == self.total)

    def fetch(self, batches: Iterator[Mapping[str, Any]], done: int) -> list[Mapping[str, Any]]:
        """Return the batches of the next iteration, unless the run is to stop here; `done` iterations are.

        Raises:
            As `halt_if_asked`.
        """
        parts, failure = [], None
        try:
            parts = [next(batches) for _ in range(self.accumulate)]
        except Exception as error:  # raised in `halt_if_asked`, when all processes know and the state is saved
            failure = error
        self.halt_if_asked(done, self.stop.worker_error or failure)  # what a dead worker leads to says less
        return parts

    def halt_if_asked(self, done: int, failure: Exception | None) -> None:
        """Agree with the other processes whether to go on; if one of them cannot or must not, save and leave.

        Raises:
            StoppedError: by a signal that any of them received.
            PeerLostError: one of the others failed.
            The failure, if this one did.
        """
        word = dist.all_reduce_max(self.stop.received or (FAILED if failure else 0))
        if not word:
            return
        if done:
            self.save(done)
        dist.barrier()
        kept = f'iteration {done} is saved, --auto_resume goes on from it' if done else 'nothing was done yet'
        if word != FAILED:
            raise StoppedError(word, f'stopped by signal {word}: {kept}')
        logger.warning('the run cannot go on: %s', kept)
        if failure is None:
            raise dist.follow()
        raise data_problem(failure) from failure

    def save(self, iteration: int) -> None:
        """Write a checkpoint, then remove those that are not kept. Rank 0 does, once an iteration.

        Raises:
            SaveError: it cannot be written; earlier ones are untouched.
            NonFiniteLossError: the weights are not worth keeping.
        """
        if dist.get_rank() or iteration == self.saved:
            return
        with self._writing(f'the checkpoint of iteration {iteration}'):
            self.model.save(iteration, self.folder)
            self.saved = iteration
            if self.keep_last:
                rotate(self.folder, iteration, int(self.keep_last), self.keep_every and int(self.keep_every))

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        kept = f'; {state_file(self.folder, self.saved)} is whole, --auto_resume goes on from it' if self.saved else ''
        with dist.critical_section(), saving(what, self.folder, kept):
            yield

    def judge(self, iteration: int) -> None:
        """Validate, and keep the weights if they are the best so far. Rank 0 does; the others wait.

        Raises:
            As `halt_if_asked`.
        """
        failure = None
        if dist.get_rank() == 0 and iteration > self.judged:
            try:
                means = {}
                for name, loader in self.val_loaders.items():
                    batches = self._unless_stopped(loader)
                    means[name], grid = validate(self.model, batches, self.folder, name, {'iter': iteration})
                    self.reporter.validation(name, means[name], grid, iteration)
                if means:
                    with self._writing('the best weights'):
                        self.best.see(means, iteration, lambda path: self.model.save_network('net_g', path))
                self.judged = iteration
            except StoppedError as stopped:
                logger.warning('%s', stopped)
            except Exception as error:  # raised in `halt_if_asked`
                failure = error
        self.halt_if_asked(iteration, failure)

    def _unless_stopped(self, loader: DataLoader) -> Iterator[Mapping[str, Any]]:
        for batch in loader:
            if self.stop.received:
                raise StoppedError(self.stop.received, 'validation is given up; the resumed run begins with it')
            yield batch


class CollapseWatch:
    """Warns when the mean perplexity of the codes of the last iterations is under a bound.

    The perplexity of a batch is the exponential of its codes' entropy: n where n codes are used equally often.

    Args:
        codebook_size: number of codes.
        bound: least perplexity (`train:min_perplexity`), by default 2 % of the codebook; 0 never warns.
    """

    def __init__(self, codebook_size: int, bound: float | None = None) -> None:
        self.bound = LEAST_SHARE * codebook_size if bound is None else bound
        self.codebook_size = codebook_size
        self.values: deque[float] = deque(maxlen=WINDOW)

    def see(self, perplexity: float | None, iteration: int) -> None:
        """Take in an iteration's perplexity; None where the iteration looks up no codes."""
        if perplexity is None:
            return
        self.values.append(perplexity)
        mean = sum(self.values) / len(self.values)
        if len(self.values) < WINDOW or mean >= self.bound:
            return
        logger.warning(
            'iteration %d: the codes collapse: perplexity %.2f of %d codes over %d iterations, under '
            'train:min_perplexity %.2f. Stage I: train:codebook_warmup, a lower lr, or beta_on: commitment; stages II '
            'and III: a lower lr, longer warmup_iter, or an earlier checkpoint (early in stage II it may still rise)',
            *(iteration, mean, self.codebook_size, len(self.values), self.bound),
        )
        self.values.clear()
