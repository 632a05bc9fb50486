"""Gathering across processes with gradients.

Each rank computes its loss from everyone's outputs, so the gradient of an output is the *sum* over the ranks of what
each owes it; DistributedDataParallel's mean over ranks then makes it the gradient of the mean loss.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as dist

Gathering = Literal["none", "candidates"]
"""How a loss sees other ranks: ``none`` (local only) or ``candidates`` (local anchors against everyone's outputs)."""


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, local: Tensor) -> Tensor:
        context.rows = local.shape[0]
        gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, local.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        start = dist.get_rank() * context.rows
        return total[start : start + context.rows]


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) outside of distributed training."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(local: Tensor) -> Tensor:
    """Rows of all ranks in rank order, (world * n, d) from (n, d), equal n on every rank; differentiable."""
    return _AllGather.apply(local) if world()[1] > 1 else local  # type: ignore[no-untyped-call]
