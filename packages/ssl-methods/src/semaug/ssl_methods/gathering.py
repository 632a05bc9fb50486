"""Gathering across processes, with and without gradients.

Each rank computes its loss from everyone's outputs, so the gradient of an output is the *sum* over the ranks of what
each owes it; DistributedDataParallel's mean over ranks then makes it the gradient of the mean loss. Loss and gradient
therefore equal those of one process with the whole batch. All of this is the identity outside of distributed training.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as dist

Gathering = Literal["none", "candidates", "keys", "statistics"]
"""How a loss sees other ranks.

``none``: local rows only; its mean over ranks is the loss of the whole batch.
``candidates``: local anchors against everyone's outputs, which receive gradients (``gather_rows``).
``keys``: local anchors against everyone's targets, which receive none (``gather_keys``).
``statistics``: sums over the whole batch, which carry gradients (``sum_over_ranks``); equal on all ranks.

A loss takes ``gathering=`` with its own kind as the default, and ``"none"`` computes it from this rank's rows alone;
one without the argument is local.
"""


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, local: Tensor) -> Tensor:
        context.rows = local.shape[0]
        return _gather(local)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        start = dist.get_rank() * context.rows
        return total[start : start + context.rows]


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, local: Tensor) -> Tensor:
        return _sum(local)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _sum(gradients[0])


def _gather(local: Tensor) -> Tensor:
    gathered = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local.contiguous())
    return torch.cat(gathered)


def _sum(local: Tensor) -> Tensor:
    total = local.contiguous().clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) outside of distributed training."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(local: Tensor) -> Tensor:
    """Rows of all ranks in rank order, (world * n, ...) from (n, ...), equal n on every rank; differentiable."""
    return _AllGather.apply(local) if world()[1] > 1 else local  # type: ignore[no-untyped-call]


@torch.no_grad()
def gather_keys(local: Tensor) -> Tensor:
    """As ``gather_rows``, detached: for keys, targets and whatever goes into a queue."""
    return _gather(local.detach()) if world()[1] > 1 else local.detach()


def sum_over_ranks(local: Tensor) -> Tensor:
    """The sum over ranks of a tensor of equal shape on each; differentiable."""
    return _AllSum.apply(local) if world()[1] > 1 else local  # type: ignore[no-untyped-call]


def mean_over_ranks(local: Tensor) -> Tensor:
    """The mean over ranks of a tensor of equal shape on each; differentiable."""
    return sum_over_ranks(local) / world()[1]


@torch.no_grad()
def from_first_rank(value: Tensor) -> Tensor:
    """Rank 0's ``value`` on every rank: for numbers drawn once for all (ranks draw different ones)."""
    if world()[1] > 1:
        value = value.contiguous()
        dist.broadcast(value, src=0)
    return value
