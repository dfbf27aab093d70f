"""Processes: joining them, starting them, and averaging gradients over them.

Gradients are averaged by one flat all-reduce after the backward passes of an iteration, as StyleGAN's training does,
instead of by DistributedDataParallel's hooks. So networks are never wrapped (no `.module`), a step may run any number
of forward and backward passes, and parameters that an iteration does not use need no option.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar('T')


def get_rank() -> int:
    """This process's rank over all machines, 0 without distribution."""
    return dist.get_rank() if dist.is_initialized() else 0


def get_world_size() -> int:
    """Number of processes over all machines, 1 without distribution."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_launched() -> bool:
    """Whether a launcher such as torchrun started this process."""
    return 'RANK' in os.environ and 'WORLD_SIZE' in os.environ


def join(cuda: bool, backend: str | None = None) -> None:
    """Join the launcher's processes: on GPUs by nccl (or `backend`), on CPUs by gloo."""
    if cuda:
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', 0)))
    # Rank 0 validates while the others wait, which may take long.
    dist.init_process_group((backend or 'nccl') if cuda else 'gloo', timeout=timedelta(hours=6))


def leave() -> None:
    """Leave the process group, if in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def launch(script: str | Path, arguments: Sequence[str], processes: int) -> int:
    """Run a script as `processes` processes on this machine through torchrun, and return its exit code."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    return subprocess.call([*command, str(script), *arguments])


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of rank 0."""
    if get_world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def total(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by their sums over the processes."""
    if get_world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def from_rank_0(value: T) -> T:
    """Rank 0's value, any picklable one, on every process."""
    if get_world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def broadcast_module(module: nn.Module) -> None:
    """Overwrite all parameters and buffers by those of rank 0."""
    broadcast([*(p.data for p in module.parameters()), *module.buffers()])


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes.

    Which parameters have a gradient must be the same everywhere: it follows from the iteration, not from the data.
    """
    if get_world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def barrier() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        dist.barrier()
