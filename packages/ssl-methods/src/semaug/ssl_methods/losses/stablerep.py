"""Multi-positive InfoNCE (Tian et al. 2023, StableRep, Eqs. 1 to 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.gathering import Gathering, gather_keys, gather_rows, sum_over_ranks, world
from semaug.ssl_methods.losses.inputs import require_temperature, unit


def stablerep_loss(
    z: Tensor, groups: Tensor, temperature: float = 0.1, *, gathering: Gathering = "candidates"
) -> Tensor:
    """Cross-entropy between a row's softmax over all other rows and the uniform distribution over its positives.

    ``z`` holds embeddings (N, P), L2-normalised here; ``groups`` (N,) whole numbers, equal for rows that are positives
    of one another: images made from one caption. Rows alone in their group count as candidates only. With one positive
    a row this is NT-Xent; with labels for groups it is the supervised contrastive loss (Khosla et al. 2020, L_out).
    With ``gathering="candidates"`` rows and groups of every rank take part (equal N on all). Computed in float32
    (float64 for float64 input). Returns a scalar. Raises ``InvalidOption`` for shapes or a temperature that do not fit.

    >>> z = torch.ones(6, 8)
    >>> bool(torch.isclose(stablerep_loss(z, torch.tensor([0, 0, 0, 1, 1, 2])), torch.tensor(5.0).log()))
    True
    """
    if z.ndim != 2 or groups.shape != z.shape[:1]:
        raise InvalidOption(f"embeddings {tuple(z.shape)} and groups {tuple(groups.shape)} must be (N, P) and (N,)")
    require_temperature(temperature)
    with torch.autocast(z.device.type, enabled=False):
        return _multi_positive(unit(z), groups, temperature, gathering)


def _multi_positive(z: Tensor, groups: Tensor, temperature: float, gathering: Gathering) -> Tensor:
    apart = gathering == "none"
    rank, ranks = (0, 1) if apart else world()
    rows, names = (z, groups) if apart else (gather_rows(z), gather_keys(groups))
    itself = torch.arange(len(z), device=z.device)[:, None] + rank * len(z)
    logs = torch.log_softmax((z @ rows.T / temperature).scatter(1, itself, float("-inf")), dim=1)
    positive = (groups[:, None] == names[None, :]).scatter(1, itself, False)
    count = positive.sum(dim=1)
    cost = -logs.masked_fill(~positive, 0.0).sum(dim=1) / count.clamp_min(1)
    counted = (count > 0).sum()
    everyone = counted if apart else sum_over_ranks(counted)
    return cost.sum() * ranks / everyone.clamp_min(1)
