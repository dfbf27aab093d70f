"""The endless order: epochs, replicas, resuming."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch.utils.data import Dataset

from basicsr.data import DataError, ResumableSampler, build_dataloader


class Numbers(Dataset):
    """Item v is v; what was read is noted."""

    def __init__(self, length: int) -> None:
        self.length, self.read = length, []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, v: int) -> int:
        self.read.append(v)
        return v


def take(sampler: ResumableSampler, count: int) -> list[int]:
    return list(islice(sampler, count))


@pytest.mark.parametrize('length', [1, 7, 10])
def test_each_epoch_is_a_permutation(length: int) -> None:
    drawn = take(ResumableSampler(length, seed=3), 4 * length)
    orders = []
    for epoch in range(4):
        part = drawn[epoch * length : (epoch + 1) * length]
        assert sorted(part) == list(range(epoch * length, (epoch + 1) * length))
        orders.append(tuple(v % length for v in part))
    assert length < 7 or len(set(orders)) == 4


def test_seed_fixes_the_order() -> None:
    assert take(ResumableSampler(50, seed=1), 60) == take(ResumableSampler(50, seed=1), 60)
    assert take(ResumableSampler(50, seed=1), 60) != take(ResumableSampler(50, seed=2), 60)


@pytest.mark.parametrize('replicas', [2, 3])
def test_replicas_interleave_to_the_order_of_one(replicas: int) -> None:
    alone = take(ResumableSampler(10, seed=5), 12 * replicas)
    shares = [take(ResumableSampler(10, replicas, rank, seed=5), 12) for rank in range(replicas)]
    assert [v for step in zip(*shares, strict=True) for v in step] == alone


@pytest.mark.parametrize('start', [0, 1, 9, 10, 37])
def test_start_equals_leaving_out(start: int) -> None:
    for rank in range(2):
        whole = take(ResumableSampler(9, 2, rank, seed=7), start + 20)
        assert take(ResumableSampler(9, 2, rank, seed=7, start=start), 20) == whole[start:]


@pytest.mark.parametrize('wrong', [{'length': 0}, {'rank': 2}, {'rank': -1}, {'start': -1}])
def test_wrong_arguments(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match='no order'):
        ResumableSampler(**{'length': 4, 'num_replicas': 2, **wrong})


def test_training_loader_resumes_and_reads_nothing_it_leaves_out() -> None:
    opt = {'batch_size_per_gpu': 4, 'prefetch_mode': None}
    straight = [batch.tolist() for batch in islice(build_dataloader(Numbers(10), opt, seed=2), 6)]
    data = Numbers(10)
    resumed = [batch.tolist() for batch in islice(build_dataloader(data, opt, seed=2, start=12), 3)]
    assert resumed == straight[3:]
    assert data.read == [v for batch in resumed for v in batch]


def test_loader_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    next(iter(build_dataloader(Numbers(10), {})))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('replicas', [1, 2, 3])
def test_validation_visits_each_item_once_in_order(replicas: int) -> None:
    shares = [
        [int(v) for v in build_dataloader(Numbers(7), {}, num_replicas=replicas, rank=rank, train=False)]
        for rank in range(replicas)
    ]
    assert all(share == sorted(share) for share in shares)
    assert sorted(v for share in shares for v in share) == list(range(7))


@pytest.mark.parametrize('mode', [None, 'cpu', 'cuda'])
def test_published_prefetch_modes(mode: str | None) -> None:
    loader = build_dataloader(Numbers(4), {'prefetch_mode': mode, 'num_prefetch_queue': 3, 'num_worker_per_gpu': 1})
    assert loader.prefetch_factor == 3 and loader.persistent_workers


@pytest.mark.parametrize('wrong', [{'prefetch_mode': 'gpu'}, {'batch_size_per_gpu': -1}, {'num_worker_per_gpu': -1}])
def test_wrong_loader_options_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        build_dataloader(Numbers(4), wrong)
