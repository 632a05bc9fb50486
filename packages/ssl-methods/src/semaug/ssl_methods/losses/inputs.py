"""What losses check of their inputs and do to them first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from semaug.artifacts.errors import InvalidOption


def require_pairs(z1: Tensor, z2: Tensor) -> None:
    """Raise ``InvalidOption`` unless both are (N, P) of one shape."""
    if z1.shape != z2.shape or z1.ndim != 2:
        raise InvalidOption(f"views have shapes {tuple(z1.shape)} and {tuple(z2.shape)}; both must be the same (N, P)")


def require_temperature(temperature: float) -> None:
    """Raise ``InvalidOption`` unless ``temperature`` is positive."""
    if not temperature > 0:
        raise InvalidOption(f"temperature {temperature} is not positive; the papers use 0.02 to 0.5")


def require_rows(rows: int, statistic: str) -> None:
    """Raise ``InvalidOption`` unless ``rows``, counted over all ranks, are enough for ``statistic``."""
    if rows < 2:
        raise InvalidOption(f"{statistic} over {rows} row is not defined; give a batch of 2 or more")


def full(z: Tensor) -> Tensor:
    """``z`` in float32, or float64 as it is: a loss is never computed in half precision."""
    return z if z.dtype == torch.float64 else z.float()


def unit(z: Tensor) -> Tensor:
    """Rows of ``z`` at length 1, in float32 or float64."""
    return functional.normalize(full(z), dim=1)
