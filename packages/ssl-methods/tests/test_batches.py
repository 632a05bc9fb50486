from __future__ import annotations

import pytest
import torch

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.batches import BatchOrder, RunSampler, run_loader
from semaug.ssl_methods.testing import StripedPairs


def test_an_epoch_reads_whole_batches_of_distinct_items():
    order = BatchOrder(items=11, batch_size=3, seed=0)
    epochs = [[i for s in range(e * 3, e * 3 + 3) for _, i in order.batch(s)] for e in range(3)]
    assert all(len(set(e)) == 9 for e in epochs)
    assert epochs[0] != epochs[1]
    assert {epoch for s in range(3, 6) for epoch, _ in order.batch(s)} == {1}
    left_out = [set(range(11)) - set(e) for e in epochs]
    assert left_out[0] != left_out[1]


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_starting_anywhere_gives_the_same_batches(start):
    order = BatchOrder(items=11, batch_size=3, seed=1)
    whole = list(order.batches(0, 9))
    assert list(order.batches(start, 9)) == whole[start:]
    assert [order.batch(s) for s in range(9)] == whole


def test_ranks_share_each_batch():
    alone = BatchOrder(items=20, batch_size=6, seed=2)
    ranks = [BatchOrder(items=20, batch_size=6, seed=2, rank=r, world=3) for r in range(3)]
    for step in range(7):
        assert [a for rank in ranks for a in rank.batch(step)] == alone.batch(step)


def test_too_large_a_batch_names_both_numbers():
    with pytest.raises(InvalidOption, match="batch of 32 is larger than the 20 items"):
        BatchOrder(items=20, batch_size=32, seed=0)
    with pytest.raises(InvalidOption, match="batch of 6 cannot be shared by 4 processes"):
        BatchOrder(items=20, batch_size=6, seed=0, world=4)


@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_those_of_the_steps_epoch(workers):
    # The source keeps its epoch in shared memory: two workers in different epochs must not disturb each other.
    pairs = StripedPairs(10, lag=0.05)
    order = BatchOrder(items=10, batch_size=4, seed=0)
    loader = run_loader(pairs, RunSampler(order, 1, 8), workers=workers, pin_memory=False)
    for step, (first, second, index) in enumerate(loader, start=1):
        assert [(order.epoch(step), i) for i in index.tolist()] == order.batch(step)
        for row, i in enumerate(index.tolist()):
            assert torch.equal(first[row], pairs.view(i, order.epoch(step), 0))
            assert torch.equal(second[row], pairs.view(i, order.epoch(step), 1))
    assert step == 7
