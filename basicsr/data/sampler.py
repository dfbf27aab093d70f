"""An endless order of items that can be resumed at any position, and the loader that follows it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sized
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from basicsr.data.common import DataError
from basicsr.utils.workers import start_worker

PREFETCH_MODES = (None, 'cpu', 'cuda')


class ResumableSampler(Sampler[int]):
    """Endless shuffled indices `v = epoch * length + i`, in which every epoch holds each i once.

    All replicas walk one common order: replica r of R takes positions r, r + R, r + 2R and so on.

    Args:
        length: pictures of the dataset.
        num_replicas: number of processes R.
        rank: this process, 0 to R - 1.
        seed: of the order.
        start: positions of this replica to leave out at the beginning (batches done times the batch size).

    Raises:
        ValueError: an argument outside its limits.
    """

    def __init__(self, length: int, num_replicas: int = 1, rank: int = 0, seed: int = 0, start: int = 0) -> None:
        if length < 1 or not 0 <= rank < num_replicas or start < 0:
            raise ValueError(f'no order for length {length}, rank {rank} of {num_replicas}, start {start}')
        self.length, self.num_replicas, self.rank, self.seed, self.start = length, num_replicas, rank, seed, start

    def __iter__(self) -> Iterator[int]:
        position = self.start * self.num_replicas + self.rank
        epoch, order = -1, np.empty(0, int)
        while True:
            if position // self.length != epoch:
                epoch = position // self.length
                order = np.random.default_rng([self.seed, epoch, self.length]).permutation(self.length)
            yield epoch * self.length + int(order[position % self.length])
            position += self.num_replicas


def build_dataloader(
    dataset: Dataset,
    opt: Mapping[str, Any],
    *,
    num_replicas: int = 1,
    rank: int = 0,
    seed: int = 0,
    start: int = 0,
    train: bool = True,
) -> DataLoader:
    """Return the loader of one process.

    Args:
        dataset: one of this package's.
        opt: `num_worker_per_gpu` (default 0), `batch_size_per_gpu` (default 1), `num_prefetch_queue` (batches ahead for
            each worker), `pin_memory` (default true; only where CUDA is). `prefetch_mode` is checked and needs nothing
            more: the workers prefetch in every mode.
        num_replicas: number of processes.
        rank: this process.
        seed: of the order.
        start: items of this process to leave out at the beginning (training).
        train: endless and shuffled, or else each item once in order, shared out among the processes.

    Raises:
        DataError: an option outside its limits.
    """
    workers, batch = int(opt.get('num_worker_per_gpu') or 0), int(opt.get('batch_size_per_gpu') or 1)
    if opt.get('prefetch_mode') not in PREFETCH_MODES:
        raise DataError(f"prefetch_mode: '{opt['prefetch_mode']}' is unknown; use null, cpu or cuda")
    if workers < 0 or batch < 1:
        raise DataError(f'num_worker_per_gpu {workers} or batch_size_per_gpu {batch} is negative')
    length = len(cast(Sized, dataset))
    endless = ResumableSampler(length, num_replicas, rank, seed, start)
    return DataLoader(
        dataset,
        batch_size=batch,
        sampler=endless if train else range(rank, length, num_replicas),
        num_workers=workers,
        worker_init_fn=partial(start_worker, main=os.getpid()),
        persistent_workers=workers > 0,
        prefetch_factor=(opt.get('num_prefetch_queue') or 2) if workers else None,
        pin_memory=bool(opt.get('pin_memory', True)) and torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # else the loader would draw from the global generator
    )
