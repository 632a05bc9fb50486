"""Cross-entropy swapped between views: what SwAV (Eq. 1) and DINO (Eq. 3) share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semaug.artifacts.errors import InvalidOption


def require_views(targets: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Raise ``InvalidOption`` unless there are more views than targets' own, all of them (N, K) of one shape."""
    shapes = [tuple(t.shape) for t in (*targets, *outputs)]
    if not targets or len(outputs) < max(2, len(targets)):
        raise InvalidOption(
            f"{len(targets)} target views and {len(outputs)} views in all; give at least one target and two views"
        )
    if len({*shapes}) > 1 or len(shapes[0]) != 2:
        raise InvalidOption(f"views have shapes {shapes}; all must be the same (N, K)")


def swapped_cross_entropy(targets: Sequence[Tensor], logits: Sequence[Tensor]) -> Tensor:
    """Mean of H(target t, softmax(logits v)) over rows and over all pairs of views t and v other than t.

    ``targets`` are distributions (N, K) of the first views, ``logits`` (N, K) of all. A scalar.
    """
    terms = [_against(_others(targets, v), x) for v, x in enumerate(logits)]
    pairs = len(targets) * (len(logits) - 1)
    return torch.stack([term for term in terms if term is not None]).sum() / pairs


def _others(targets: Sequence[Tensor], view: int) -> list[Tensor]:
    return [t for i, t in enumerate(targets) if i != view]


def _against(targets: list[Tensor], logits: Tensor) -> Tensor | None:
    """Sum over ``targets`` of the mean cross-entropy, from one log-sum-exp; None where there is no other view."""
    if not targets:
        return None
    total = targets[0] if len(targets) == 1 else torch.stack(targets).sum(0)
    return (len(targets) * torch.logsumexp(logits, dim=1) - (total * logits).sum(dim=1)).mean()
