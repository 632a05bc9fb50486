"""The loss of Barlow Twins (Zbontar et al. 2021, Eqs. 1 and 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from semaug.ssl_methods.gathering import Gathering, sum_over_ranks, world
from semaug.ssl_methods.losses.inputs import full, require_pairs, require_rows

EPSILON = 1e-5
"""Added to each variance, as batch norm does."""


def barlow_twins_loss(
    z1: Tensor, z2: Tensor, off_diagonal: float = 5e-3, scale: float = 0.1, *, gathering: Gathering = "statistics"
) -> Tensor:
    """``scale`` times [sum_i (1 - C_ii)^2 + ``off_diagonal`` sum_{i != j} C_ij^2], C the views' cross-correlation.

    ``z1`` and ``z2`` are projections (N, P) of two views, row i of both from one image. Every column is standardised by
    its mean and its biased variance, as batch norm without scale and shift does, and C = z1' z2 / N. With
    ``gathering="statistics"`` means, variances and C are those of all ranks (equal N on all). ``scale`` 0.1 is
    solo-learn's for small images; the paper's equation has 1. Computed in float32 (float64 for float64 input). Returns
    a scalar. Raises ``InvalidOption`` for shapes that differ or fewer than 2 rows in all.

    >>> same = torch.ones(4, 8)  # without variance nothing correlates: 8 terms of (1 - 0)^2
    >>> round(barlow_twins_loss(same, same).item(), 4)
    0.8
    """
    require_pairs(z1, z2)
    ranks = world()[1] if gathering == "statistics" else 1
    require_rows(len(z1) * ranks, "a correlation")
    with torch.autocast(z1.device.type, enabled=False):
        correlation = _correlation(full(z1), full(z2), ranks)
        to_one = (1 - correlation.diagonal()).square().sum()
        to_zero = correlation.square().sum() - correlation.diagonal().square().sum()
        return scale * (to_one + off_diagonal * to_zero)


def _correlation(z1: Tensor, z2: Tensor, ranks: int) -> Tensor:
    rows, width = len(z1) * ranks, z1.shape[1]
    both = torch.cat([z1, z2], dim=1)
    centred = both - _total(both.sum(dim=0), ranks) / rows
    variance = _total(centred.square().sum(dim=0), ranks) / rows
    standard = centred * torch.rsqrt(variance + EPSILON)
    return _total(standard[:, :width].T @ standard[:, width:], ranks) / rows


def _total(local: Tensor, ranks: int) -> Tensor:
    return sum_over_ranks(local) if ranks > 1 else local
