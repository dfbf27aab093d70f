"""Processes: joining them, starting them, and averaging gradients over them.

Gradients are averaged by one flat all-reduce after the backward passes of an iteration, as StyleGAN's training does,
instead of by DistributedDataParallel's hooks. So networks are never wrapped (no `.module`), a step may run any number
of forward and backward passes, and parameters that an iteration does not use need no option.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.peers import Watch

T = TypeVar('T')

LONGEST = timedelta(hours=6)
"""Timeout of a collective: rank 0 validates while the others wait. Dead processes are found sooner,
by their missing signs of life."""
JOINING = timedelta(minutes=10)
"""Timeout of the start, until all processes have joined."""

_watch: Watch | None = None


class PeerLostError(IDCodeFormerError, RuntimeError):
    """The other processes of a run cannot be reached, or one of them failed."""


def get_rank() -> int:
    """Return this process's rank over all machines, 0 without distribution."""
    return dist.get_rank() if dist.is_initialized() else 0


def get_world_size() -> int:
    """Return the number of processes over all machines, 1 without distribution."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_launched() -> bool:
    """Return True if a launcher such as torchrun started this process."""
    return 'RANK' in os.environ and 'WORLD_SIZE' in os.environ


def join(cuda: bool, backend: str | None = None, dead_after: float = 20) -> None:
    """Join the launcher's processes: on GPUs by nccl (or `backend`), on CPUs by gloo.

    Args:
        cuda: compute on GPUs.
        backend: of GPUs.
        dead_after: seconds without a sign of life after which a process counts as dead, which ends the others.

    Raises:
        PeerLostError: they do not all come, or the address is in use.
    """
    global _watch
    if cuda:
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count())
    try:
        store, rank, size = next(rendezvous('env://', timeout=JOINING))
        kind = (backend or 'nccl') if cuda else 'gloo'
        group_store = PrefixStore('group', store)
        dist.init_process_group(kind, store=group_store, rank=rank, world_size=size, timeout=LONGEST)
        if size > 1:
            _watch = Watch(PrefixStore('watch', store), rank, size, dead_after)
    except (RuntimeError, ValueError) as error:
        where = f'{os.environ.get("MASTER_ADDR")}:{os.environ.get("MASTER_PORT")}'
        reason = str(error).split('\n', 1)[0]
        raise PeerLostError(
            f'the processes do not find each other at {where} ({reason}); is the port free, and did all of them start? '
            'MASTER_ADDR and MASTER_PORT choose another'
        ) from error


def leave(failure: str = '') -> None:
    """Leave the process group, if in one; `failure` is told the other processes as the reason why they end too."""
    global _watch
    if _watch is not None:
        _watch.leave(failure)
        _watch = None
    if dist.is_initialized() and not failure:  # after a failure this could wait for the others
        dist.destroy_process_group()


def launch(script: str | Path, arguments: Sequence[str], processes: int) -> int:
    """Run a script as `processes` processes on this machine through torchrun, and return its exit code.

    SIGTERM and SIGINT are passed on; the exit code is 128 plus their number then.
    """
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    child = subprocess.Popen([*command, str(script), *arguments], start_new_session=True)
    received = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        child.send_signal(number)

    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        code = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 + received[0] if received else code


@contextmanager
def _collective() -> Iterator[None]:
    """Turn errors of a collective into the end of this process, with the reason of the process that failed."""
    try:
        yield
    except RuntimeError as error:
        if _watch is not None:
            _watch.wait_for_reason()
        reason = str(error).split('\n', 1)[0]
        raise PeerLostError(f'the connection to the other processes is lost ({reason})') from error


def critical_section() -> AbstractContextManager[None]:
    """Return a context whose work (writing a file) is finished before another process's death ends this one."""
    return nullcontext() if _watch is None else _watch.critical_section()


def follow() -> PeerLostError:
    """Wait for the reason that another process is about to give for its end; returns the error if none comes."""
    if _watch is not None:
        _watch.wait_for_reason()
    return PeerLostError('another process ended and did not say why')


def all_reduce_max(value: int) -> int:
    """Return the largest of all processes' values."""
    if get_world_size() == 1:
        return value
    device = 'cuda' if dist.get_backend() == 'nccl' else 'cpu'
    tensor = torch.tensor(value, device=device)
    with _collective():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of rank 0."""
    if get_world_size() > 1:
        with _collective():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def total(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by their sums over the processes."""
    if get_world_size() > 1:
        with _collective():
            for tensor in tensors:
                dist.all_reduce(tensor)


def broadcast_object(value: T) -> T:
    """Rank 0's value, any picklable one, on every process."""
    if get_world_size() == 1:
        return value
    values = [value]
    with _collective():
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
    with _collective():
        dist.all_reduce(flat)
    flat /= get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def barrier() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        with _collective():
            dist.barrier()
