"""MoCo v3's symmetric contrast without a queue (Chen, Xie and He 2021, Algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from semaug.ssl_methods.gathering import Gathering, gather_keys, world
from semaug.ssl_methods.losses.inputs import require_pairs, require_temperature, unit


def moco_v3_loss(
    q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, temperature: float = 0.2, *, gathering: Gathering = "keys"
) -> Tensor:
    """2 T times the sum of two InfoNCE means: queries of either view against all keys of the other.

    ``q1`` and ``q2`` are predictions (N, P) of two views, ``k1`` and ``k2`` the momentum network's projections of the
    same; all are L2-normalised here, and gradients reach the queries alone. With ``gathering="keys"`` the candidates
    are every rank's keys (equal N on all). Computed in float32 (float64 for float64 input). Returns a scalar. Raises
    ``InvalidOption`` for shapes that differ or a temperature that is not positive.

    >>> same = torch.ones(4, 8)
    >>> bool(torch.isclose(moco_v3_loss(same, same, same, same, 0.25), torch.tensor(4.0).log()))
    True
    """
    require_pairs(q1, k2)
    require_pairs(q2, k1)
    require_temperature(temperature)
    with torch.autocast(q1.device.type, enabled=False):
        return _contrast(q1, k2, temperature, gathering) + _contrast(q2, k1, temperature, gathering)


def _contrast(queries: Tensor, keys: Tensor, temperature: float, gathering: Gathering) -> Tensor:
    q, k = unit(queries), unit(keys.detach())
    rank = world()[0] if gathering == "keys" else 0
    candidates = gather_keys(k) if gathering == "keys" else k
    own = torch.arange(len(q), device=q.device) + rank * len(q)
    return 2 * temperature * functional.cross_entropy(q @ candidates.T / temperature, own)
