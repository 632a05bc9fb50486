"""The order of the batches, as a pure function of the step, and the loader that starts at any of them."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import InvalidOption

Address = tuple[int, int]
"""(epoch, index): which item, and for which epoch its views are drawn."""


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """Which items each step reads: every epoch a new permutation of ``items`` cut into whole batches.

    ``rank`` of ``world`` takes its share of every batch, so ``batch_size`` is the number of images a step over all.
    ``accumulate`` cuts each share into as many equal parts, which are forwarded one after the other.

    >>> order = BatchOrder(items=5, batch_size=2, seed=0)
    >>> order.per_epoch, order.epoch(3), len(order.batch(3))
    (2, 1, 2)
    """

    items: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.items < 2:
            raise InvalidOption(f"the data set has {self.items} items and a batch needs at least 2; give more images")
        if self.batch_size > self.items:
            raise InvalidOption(
                f"a batch of {self.batch_size} is larger than the {self.items} items of the data set; "
                f"lower --batch-size to at most {self.items}"
            )
        if self.batch_size < 2 or self.batch_size % self.world:
            raise InvalidOption(
                f"a batch of {self.batch_size} cannot be shared by {self.world} processes; "
                "give at least 2 images and a multiple of the processes"
            )
        if self.accumulate < 1 or self.batch_size % (self.world * self.accumulate):
            raise InvalidOption(
                f"a batch of {self.batch_size} over {self.world} processes cannot be accumulated from "
                f"{self.accumulate} equal parts; give --batch-size a multiple of {self.world * max(1, self.accumulate)}"
            )

    @property
    def per_epoch(self) -> int:
        """Whole batches in an epoch; what is left over differs from epoch to epoch."""
        return self.items // self.batch_size

    def epoch(self, step: int) -> int:
        """The epoch of ``step`` (both from 0)."""
        return step // self.per_epoch

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """All items in the order of ``epoch``: int64 (items,), eight bytes an item."""
        return generator(self.seed, "batch order", epoch).permutation(self.items)

    def batch(self, step: int) -> list[Address]:
        """This rank's items of one step."""
        return self._share(self.permutation(self.epoch(step)), step)

    def _share(self, permutation: NDArray[np.int64], step: int) -> list[Address]:
        start = step % self.per_epoch * self.batch_size
        own = self.batch_size // self.world
        start += self.rank * own
        return [(self.epoch(step), i) for i in permutation[start : start + own].tolist()]

    def batches(self, start: int, stop: int) -> Iterator[list[Address]]:
        """The batches of steps ``start`` to ``stop - 1``, part by part where a step accumulates."""
        known, permutation = -1, np.zeros(0, np.int64)
        for step in range(start, stop):
            if self.epoch(step) != known:
                known = self.epoch(step)
                permutation = self.permutation(known)
            share = self._share(permutation, step)
            part = len(share) // self.accumulate
            yield from (share[at : at + part] for at in range(0, len(share), part))


class RunSampler(Sampler[list[Address]]):
    """All batches of a run from ``start`` on; its length is that of the whole run, as Lightning counts it."""

    def __init__(self, order: BatchOrder, start: int, stop: int) -> None:
        self.order, self.start, self.stop = order, start, stop

    def __iter__(self) -> Iterator[list[Address]]:
        return self.order.batches(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop * self.order.accumulate


class AddressedPairs(Dataset):
    """A pair source read by (epoch, index), so that one worker may go on to the next epoch before another."""

    def __init__(self, pairs: Any) -> None:
        self.pairs = pairs
        self.epoch = -1

    def __getitems__(self, addresses: list[Address]) -> Any:
        """The items of one batch, which is all of one epoch."""
        epoch = addresses[0][0]
        if epoch != self.epoch:
            self.pairs.set_epoch(epoch)
            self.epoch = epoch
        indices = [i for _, i in addresses]
        together = getattr(self.pairs, "__getitems__", None)
        return together(indices) if together else [self.pairs[i] for i in indices]

    def __getitem__(self, address: Address) -> Any:
        return self.__getitems__([address])[0]

    def detach(self) -> None:
        """Take an own copy of the source: its epoch may live in memory that all workers share."""
        self.pairs = pickle.loads(pickle.dumps(self.pairs))


def _start_worker(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    assert isinstance(info.dataset, AddressedPairs)
    info.dataset.detach()
    torch.set_num_threads(1)


def _start_method() -> str:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload([__name__])  # torch is imported once, not by every worker
    return "forkserver"


def run_loader(pairs: Any, sampler: RunSampler, *, workers: int, pin_memory: bool) -> DataLoader:
    """A loader over one whole run: its workers start once and live as long as the run.

    ``pairs`` may bring a ``collate`` of its own. Workers are not forked, because a fork of a process whose OpenMP
    threads have run is killed at the first parallel region.
    """
    return DataLoader(
        AddressedPairs(pairs),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=getattr(pairs, "collate", None),
        pin_memory=pin_memory,
        multiprocessing_context=_start_method() if workers else None,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator().manual_seed(0),  # the loader must not draw from the run's generator
    )
