"""InfoNCE against a queue of keys, the loss of MoCo (He et al. 2020, Eq. 1; Chen et al. 2020, MoCo v2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from semaug.ssl_methods.gathering import Gathering
from semaug.ssl_methods.losses.inputs import full, require_pairs, require_temperature, unit


def moco_loss(
    queries: Tensor, keys: Tensor, queue: Tensor, temperature: float = 0.2, *, gathering: Gathering = "none"
) -> Tensor:
    """Mean over the local rows of -log(exp(q.k / T) / (exp(q.k / T) + sum over the queue of exp(q.n / T))).

    ``queries`` and ``keys`` are (N, P), row i of both from one image, and are L2-normalised here; ``queue`` (K, P)
    holds unit vectors, the same on every rank, and must not hold these keys yet. Gradients reach the queries alone.
    Rows are independent, so nothing is gathered. Computed in float32 (float64 for float64 input). Returns a scalar.
    Raises ``InvalidOption`` for shapes that differ or a temperature that is not positive.

    >>> z = torch.eye(3, 8)
    >>> loss = moco_loss(z, z, -z, temperature=1.0)
    >>> bool(torch.isclose(loss, (1 + (2 + torch.tensor(-1.0).exp()) / torch.tensor(1.0).exp()).log()))
    True
    """
    require_pairs(queries, keys)
    require_temperature(temperature)
    with torch.autocast(queries.device.type, enabled=False):
        q, k = unit(queries), unit(keys.detach())
        positive = (q * k).sum(dim=1, keepdim=True)
        logits = torch.cat([positive, q @ full(queue.detach()).to(q.dtype).T], dim=1) / temperature
        return functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))
