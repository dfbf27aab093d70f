"""Memory of a training iteration: counted without computing it, or with --measure the process's own on the CPU.

    python -m experiments.benchmarks.memory -opt options/CodeFormer_stage2.yml --force_yml train:grad_checkpointing=true
    python -m experiments.benchmarks.memory -opt options/CodeFormer_stage2.yml --measure --batch_size 1

Counted is the second step, on tensors that have shapes and no values: the storage alive at its peak, of weights,
teachers, gradients, Adam's moments, activations. What the library, the framework's cache and convolution workspaces
take besides is not in it; on a GPU that is another 1 to 2 GB. Measured is the most that the process held up to the end
of one step, which is computed, with all of that and without the moments, which are made at its end.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from basicsr.models import build_model
from basicsr.models.schema import check_options
from basicsr.utils.memory import peak_memory
from basicsr.utils.options import drop_nulls, load_options


class LiveStorage(TorchDispatchMode):
    """Count the bytes of all storages that operations make, while they are alive.

    Attributes:
        peak: the most at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.known: dict[int, weakref.ref] = {}

    def count(self, tensor: Tensor) -> None:
        """Take a tensor's storage into account, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()

        def freed(_: weakref.ref) -> None:
            self.live -= size
            del self.known[key]

        self.known[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result


@contextmanager
def without_values() -> Any:
    """Tensors have no values in here: what a step logs is 1, what it asks is true."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),  # a teacher's frame begins on the meta device
        mock.patch.object(Tensor, 'item', lambda tensor: 1.0),
        mock.patch.object(Tensor, '__bool__', lambda tensor: True),
        mock.patch.object(torch, 'allclose', lambda *tensors, **options: True),
        mock.patch.object(torch, 'bincount', lambda codes, minlength=0: torch.ones(minlength, dtype=torch.int64)),
        mock.patch.object(nn.Module, 'to', lambda module, *arguments, **options: module),  # all is on the CPU
    ):
        yield


def batch_of(opt: Mapping[str, Any], faces: int) -> dict[str, Any]:
    """Return a batch as the dataset gives it, without values."""
    section = opt['datasets']['train']
    side = section['gt_size']
    batch: dict[str, Any] = {key: torch.zeros(faces, 3, side, side) for key in ('in', 'in_large_de', 'gt')}
    batch['gt_path'] = ['none'] * faces
    return batch


def gigabytes(opt: Mapping[str, Any], faces: int) -> tuple[float, float]:
    """Return the peak of an iteration, and what stays between two of them, GB (1e9 bytes)."""
    counter = LiveStorage()
    with without_values(), counter:
        model = build_model(opt, 'cpu')
        for iteration in (1, 2):  # the second has Adam's moments from the start
            counter.peak = 0
            model.optimize_parameters([batch_of(opt, faces)], iteration)
        for optimizer in model.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        return counter.peak / 1e9, counter.live / 1e9


def measured(opt: Mapping[str, Any], faces: int) -> float:
    """Return the most that this process holds until it has computed an iteration of random faces, GB (1e9 bytes)."""
    model = build_model(opt, 'cpu')
    batch = {
        key: value.uniform_(-1, 1) if isinstance(value, Tensor) else value
        for key, value in batch_of(opt, faces).items()
    }
    model.optimize_parameters([batch], 1)
    return peak_memory() / 1e9


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description='Count the memory of a training iteration.')
    parser.add_argument('-opt', required=True, help='option file')
    parser.add_argument('--force_yml', nargs='+', default=[], metavar='KEY=VALUE')
    parser.add_argument('--batch_size', type=int, help="faces (default: the option file's)")
    parser.add_argument('--measure', action='store_true', help='compute an iteration (minutes at 512 pixels)')
    args = parser.parse_args(argv)
    opt = load_options(args.opt, args.force_yml)
    check_options(opt)
    opt = {**drop_nulls(opt), 'datasets': {'train': opt['datasets']['train']}}
    faces = args.batch_size or opt['datasets']['train']['batch_size_per_gpu']
    if args.measure:
        print(f'{faces} faces: {measured(opt, faces):.2f} GB held by the process')
        return 0
    with mock.patch('basicsr.models.base_model.computes_bf16', lambda device: True):  # of the GPU it is for
        peak, kept = gigabytes(opt, faces)
    print(f'{faces} faces: {peak:.2f} GB at the peak, {kept:.2f} GB between iterations')
    return 0


if __name__ == '__main__':
    sys.exit(main())
