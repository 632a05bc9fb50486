"""Shuffled batch norm (He et al. 2020, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from semaug.ssl_methods.gathering import from_first_rank, gather_keys, world


@torch.no_grad()
def keys_of_all(network: Callable[[Tensor], Tensor], images: Tensor, *, shuffle: bool = True) -> Tensor:
    """``network(images)`` of all ranks in rank order, (world * n, d) from (n, ...), detached.

    With ``shuffle`` each rank computes a random share of everyone's images, so that batch statistics, which are a
    rank's own, cannot tell a query which key is its positive. In one process there is nothing to shuffle.
    """
    rank, ranks = world()
    if ranks == 1 or not shuffle:
        return gather_keys(network(images))
    everyone = gather_keys(images)
    order = from_first_rank(torch.randperm(len(everyone)).to(images.device))
    return gather_keys(network(everyone[order.chunk(ranks)[rank]]))[order.argsort()]


def own_rows(everyone: Tensor) -> Tensor:
    """This rank's share of rows in rank order."""
    rank, ranks = world()
    return everyone.chunk(ranks)[rank]
