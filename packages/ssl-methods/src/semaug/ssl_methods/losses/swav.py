"""SwAV's loss (Caron et al. 2020): codes by Sinkhorn-Knopp, predicted from the other views of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.gathering import Gathering, gather_keys, sum_over_ranks
from semaug.ssl_methods.losses.inputs import full, require_temperature
from semaug.ssl_methods.losses.swapped import require_views, swapped_cross_entropy


def swav_loss(
    scores: Sequence[Tensor],
    temperature: float = 0.1,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    earlier: Sequence[Tensor] | None = None,
    gathering: Gathering = "statistics",
) -> Tensor:
    """Mean cross-entropy (Eq. 1, 2) of every view's softmax(scores / T) to the codes of each global view but itself.

    ``scores`` (N, K), one a view and the two global views first, are products of unit projections with unit
    prototypes. The codes are ``sinkhorn`` over all ranks' rows, and take no gradient; ``earlier`` are scores (M, K) of
    earlier projections for each global view, which share in the assignment and are then dropped (every rank gives a
    share of its own). Computed in float32 (float64 for float64 input) also under autocast. Returns a scalar.
    Raises ``InvalidOption`` for a temperature or epsilon that is not positive, or for shapes that differ.

    >>> alike = torch.zeros(4, 8)
    >>> bool(torch.isclose(swav_loss([alike, alike]), torch.tensor(8.0).log()))
    True
    """
    require_views(scores[:2], scores)
    require_temperature(temperature)
    with torch.autocast(scores[0].device.type, enabled=False):
        views = [full(s) for s in scores]
        codes = [
            sinkhorn(_joined(v, earlier, i), epsilon, iterations, gathering=gathering)[: len(v)]
            for i, v in enumerate(views[:2])
        ]
        return swapped_cross_entropy(codes, [v / temperature for v in views])


def _joined(scores: Tensor, earlier: Sequence[Tensor] | None, view: int) -> Tensor:
    return scores if earlier is None else torch.cat([scores, earlier[view].to(scores.dtype)])


@torch.no_grad()
def sinkhorn(
    scores: Tensor, epsilon: float = 0.05, iterations: int = 3, *, gathering: Gathering = "statistics"
) -> Tensor:
    """Codes (N, K): exp(scores / epsilon), scaled in turn so that prototypes share all rows alike and rows sum to 1.

    ``scores`` (N, K); with ``gathering="statistics"`` the rows of all ranks count (N may differ among these). The first
    iteration is done by log-sum-exps, with the largest score taken off, so that nothing overflows and no row vanishes.
    Raises ``InvalidOption`` for an epsilon that is not positive or no iterations (appendix A.1).

    >>> sinkhorn(torch.eye(3)).sum(1).tolist()
    [1.0, 1.0, 1.0]
    """
    if not (epsilon > 0 and iterations >= 1):
        raise InvalidOption(f"epsilon {epsilon} and {iterations} iterations; the paper uses 0.05 and 3")
    together = gathering == "statistics"
    scores = full(scores.detach()) / epsilon
    plan = (scores - _log_shares(scores, together)).softmax(dim=1)
    of_prototype, of_row = torch.ones_like(plan[0]), torch.ones_like(plan[:, 0])
    for _ in range(iterations - 1):  # scaling a prototype by any constant leaves the rows that follow as they are
        of_prototype = 1 / _sum(plan.T @ of_row, together).clamp_min(torch.finfo(plan.dtype).tiny)
        of_row = 1 / (plan @ of_prototype)
    return plan * of_prototype * of_row[:, None]


def _log_shares(scores: Tensor, together: bool) -> Tensor:
    """Of each prototype the log of the sum of exp(score) over all ranks' rows."""
    largest = scores.amax(dim=0)
    if together:
        largest = gather_keys(largest[None]).amax(dim=0)
    return _sum(torch.exp(scores - largest).sum(dim=0), together).log() + largest


def _sum(local: Tensor, together: bool) -> Tensor:
    return sum_over_ranks(local) if together else local
