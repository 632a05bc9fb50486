"""BYOL's loss (Grill et al. 2020, Eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from semaug.ssl_methods.gathering import Gathering
from semaug.ssl_methods.losses.inputs import require_pairs, unit


def byol_loss(p1: Tensor, p2: Tensor, t1: Tensor, t2: Tensor, *, gathering: Gathering = "none") -> Tensor:
    """Mean over the local rows of |p1 - t2|^2 + |p2 - t1|^2 of unit vectors, which is 4 - 2 cos - 2 cos: 0 to 8.

    ``p1`` and ``p2`` are predictions (N, P) of the online network for two views, ``t1`` and ``t2`` the target
    network's projections (N, P) of the same views; no gradient reaches these. Both directions are summed, as the paper
    does. Rows are independent, so nothing is gathered. Computed in float32 (float64 for float64 input). Returns a
    scalar. Raises ``InvalidOption`` for shapes that differ.

    >>> same = torch.ones(4, 8)
    >>> byol_loss(same, same, same, -same).round().item()
    4.0
    """
    require_pairs(p1, t2)
    require_pairs(p2, t1)
    with torch.autocast(p1.device.type, enabled=False):
        return _distance(p1, t2) + _distance(p2, t1)


def _distance(prediction: Tensor, target: Tensor) -> Tensor:
    return (2 - 2 * (unit(prediction) * unit(target.detach())).sum(dim=1)).mean()
