"""NT-Xent, the loss of SimCLR (Chen et al. 2020, Eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from semaug.ssl_methods.gathering import Gathering, gather_rows, world
from semaug.ssl_methods.losses.inputs import require_pairs, require_temperature, unit


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.2, *, gathering: Gathering = "candidates") -> Tensor:
    """Mean over the 2N local anchors of -log(exp(s_pos / T) / sum over all but the anchor itself of exp(s / T)).

    ``z1`` and ``z2`` are projections (N, P) of two views, row i of both from one image; they are L2-normalised here.
    With ``gathering="candidates"`` the sum runs over every rank's projections (equal N on all). Computed by a
    log-sum-exp in float32 (float64 for float64 input) also under autocast. Returns a scalar.
    Raises ``InvalidOption`` for a temperature that is not positive or for shapes that differ.

    >>> same = torch.ones(4, 8)
    >>> bool(torch.isclose(nt_xent(same, same), torch.tensor(7.0).log()))
    True
    """
    require_pairs(z1, z2)
    require_temperature(temperature)
    with torch.autocast(z1.device.type, enabled=False):
        return _nt_xent(unit(z1), unit(z2), temperature, gathering)


def _nt_xent(z1: Tensor, z2: Tensor, temperature: float, gathering: Gathering) -> Tensor:
    rank = world()[0] if gathering == "candidates" else 0
    all1, all2 = (gather_rows(z1), gather_rows(z2)) if gathering == "candidates" else (z1, z2)
    n, total = len(z1), len(all1)
    logits = torch.cat([z1, z2]) @ torch.cat([all1, all2]).T / temperature
    own = torch.arange(n, device=z1.device) + rank * n
    itself = torch.cat([own, own + total])
    positive = torch.cat([own + total, own])
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return functional.cross_entropy(logits, positive)
