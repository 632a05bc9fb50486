"""AdCo's adversarial contrast (Hu, Wang, Hu and Qi 2021, Eqs. 3 and 5): an encoder against a bank of learnt negatives.

The encoder minimises ``adco_loss`` and the bank maximises the same loss at a temperature of its own; ``bank_gradient``
is the gradient of the negated loss by the bank in closed form, which costs one product of matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from semaug.ssl_methods.gathering import Gathering, gather_keys, mean_over_ranks, world
from semaug.ssl_methods.losses.inputs import full, require_pairs, require_temperature, unit


def adco_loss(
    queries: Tensor, keys: Tensor, bank: Tensor, temperature: float = 0.12, *, gathering: Gathering = "keys"
) -> Tensor:
    """Mean over the local rows of the InfoNCE of query i and key i among all keys of the batch and the whole bank.

    ``queries`` and ``keys`` are (N, P), row i of both from one image; ``bank`` is (K, P), the same on every rank. All
    are L2-normalised here. Gradients reach the queries, and the bank where it asks for one. With ``gathering="keys"``
    the other keys are every rank's (equal N on all). Computed in float32 (float64 for float64 input). Returns a
    scalar. Raises ``InvalidOption`` for shapes that differ or a temperature that is not positive.

    >>> z = torch.ones(4, 8)
    >>> bool(torch.isclose(adco_loss(z, z, torch.ones(6, 8)), torch.tensor(10.0).log()))
    True
    """
    require_pairs(queries, keys)
    require_temperature(temperature)
    with torch.autocast(queries.device.type, enabled=False):
        logits, own = _logits(unit(queries), unit(keys.detach()), unit(bank), gathering)
        return functional.cross_entropy(logits / temperature, own)


@torch.no_grad()
def bank_gradient(
    queries: Tensor, keys: Tensor, bank: Tensor, temperature: float = 0.02, *, gathering: Gathering = "keys"
) -> Tensor:
    """The gradient (K, P) by ``bank`` of minus ``adco_loss`` over the whole batch, in closed form.

    With w the bank's unit vectors, l = q.w and p the softmax of the loss at ``temperature``, row m is
    ``-(mean_i p_im q_i - (mean_i p_im l_im) w_m) / (|bank_m| T)``. Descending along it ascends the loss. With
    ``gathering="keys"`` it is the mean over all ranks, equal on each. Float32, or float64 for float64 input.
    """
    with torch.autocast(queries.device.type, enabled=False):
        q, w, lengths = unit(queries), unit(bank), full(bank).norm(dim=1, keepdim=True)
        logits, _ = _logits(q, unit(keys), w, gathering)
        against_bank = logits[:, -len(bank) :]
        share = torch.softmax(logits / temperature, dim=1)[:, -len(bank) :]
        pull = share.T @ q / len(q)
        along = (share * against_bank).mean(dim=0)[:, None]
        gradient = (along * w - pull) / (lengths.clamp_min(1e-12) * temperature)
        return mean_over_ranks(gradient) if gathering == "keys" else gradient


def _logits(q: Tensor, k: Tensor, w: Tensor, gathering: Gathering) -> tuple[Tensor, Tensor]:
    """Cosines (N, keys + K) and the column of each row's own key."""
    rank = world()[0] if gathering == "keys" else 0
    keys = gather_keys(k) if gathering == "keys" else k
    own = torch.arange(len(q), device=q.device) + rank * len(q)
    return q @ torch.cat([keys.to(q.dtype), w.to(q.dtype)]).T, own
