"""SimSiam's loss (Chen and He 2021, Eqs. 1 to 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from semaug.ssl_methods.gathering import Gathering
from semaug.ssl_methods.losses.inputs import require_pairs, unit


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, *, gathering: Gathering = "none") -> Tensor:
    """Half the sum of -cos(p1, z2) and -cos(p2, z1), mean over the local rows: -1 to 1.

    ``p1`` and ``p2`` are predictions (N, P) for two views, ``z1`` and ``z2`` the projections (N, P) they are made of;
    no gradient reaches these here. Rows are independent, so nothing is gathered. Computed in float32 (float64 for
    float64 input). Returns a scalar. Raises ``InvalidOption`` for shapes that differ.

    >>> same = torch.ones(4, 8)
    >>> round(simsiam_loss(same, same, same, same).item(), 6)
    -1.0
    """
    require_pairs(p1, z2)
    require_pairs(p2, z1)
    with torch.autocast(p1.device.type, enabled=False):
        return -(_cosine(p1, z2) + _cosine(p2, z1)) / 2


def _cosine(prediction: Tensor, target: Tensor) -> Tensor:
    return (unit(prediction) * unit(target.detach())).sum(dim=1).mean()
