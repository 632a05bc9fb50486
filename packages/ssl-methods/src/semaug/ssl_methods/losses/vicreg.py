"""VICReg's loss (Bardes et al. 2022, Eqs. 1 to 6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from semaug.ssl_methods.gathering import Gathering, sum_over_ranks, world
from semaug.ssl_methods.losses.inputs import full, require_pairs, require_rows

EPSILON = 1e-4
"""Added to each variance before its root is taken, as the paper has it."""


def vicreg_loss(
    z1: Tensor,
    z2: Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    *,
    gathering: Gathering = "statistics",
) -> Tensor:
    """The weighted sum of the three terms of ``vicreg_terms``, a scalar.

    >>> same = torch.ones(4, 8)  # the hinge is at 1 - sqrt(1e-4), nothing differs, nothing varies together
    >>> round(vicreg_loss(same, same).item(), 4)
    24.75
    """
    similar, varied, uncorrelated = vicreg_terms(z1, z2, gathering=gathering)
    return invariance * similar + variance * varied + covariance * uncorrelated


def vicreg_terms(z1: Tensor, z2: Tensor, *, gathering: Gathering = "statistics") -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance of projections (N, P) of two views, unweighted, three scalars.

    Invariance: mean squared difference over rows and columns. Variance: mean over columns of max(0, 1 - std), half of
    each view's. Covariance: squares off the diagonal of each view's covariance matrix, summed and divided by P, both
    views added. Variances and covariances divide by rows - 1, and with ``gathering="statistics"`` all three are those
    of all ranks' rows (equal N on all). Computed in float32 (float64 for float64 input), also under autocast, where a
    wide covariance would overflow. Raises ``InvalidOption`` for shapes that differ or fewer than 2 rows in all.
    """
    require_pairs(z1, z2)
    ranks = world()[1] if gathering == "statistics" else 1
    require_rows(len(z1) * ranks, "a variance")
    with torch.autocast(z1.device.type, enabled=False):
        z1, z2 = full(z1), full(z2)
        first, second = _covariances(z1, z2, ranks)
        similar = _total(functional.mse_loss(z1, z2), ranks) / ranks
        return similar, (_hinge(first) + _hinge(second)) / 2, _off_diagonal(first) + _off_diagonal(second)


def _covariances(z1: Tensor, z2: Tensor, ranks: int) -> Tensor:
    """(2, P, P)."""
    views = torch.stack([z1, z2])
    rows = len(z1) * ranks
    centred = views - (_total(views.sum(dim=1), ranks) / rows)[:, None]
    return _total(centred.mT @ centred, ranks) / (rows - 1)


def _hinge(covariance: Tensor) -> Tensor:
    return functional.relu(1 - (covariance.diagonal() + EPSILON).sqrt()).mean()


def _off_diagonal(covariance: Tensor) -> Tensor:
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / len(covariance)


def _total(local: Tensor, ranks: int) -> Tensor:
    return sum_over_ranks(local) if ranks > 1 else local
