"""The three readings of the similarity kernel of DLME and DiffAug (DiffAug Eq. 4, and the official code's)."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

Kernel = Callable[[Tensor, float], Tensor]


def paper_kernel(distance: Tensor, nu: float) -> Tensor:
    """Eq. 4: the density of Student's t with ``nu`` degrees of freedom at ``distance`` (any shape, kept).

    It integrates to one over the line; its peak is below one (0.398 at nu = 100, 0.0497 at nu = 0.01).
    """
    log_peak = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
    return math.exp(log_peak) * peak1_kernel(distance, nu)


def official_kernel(distance: Tensor, nu: float) -> Tensor:
    """The official code's kernel: 2 pi S(d)^2 with S of Eq. 4; its peak is 0.9945 at nu = 100, 0.0155 at nu = 0.01."""
    return 2 * math.pi * paper_kernel(distance, nu) ** 2


def peak1_kernel(distance: Tensor, nu: float) -> Tensor:
    """Eq. 4 scaled to one at distance zero.

    >>> import torch
    >>> float(peak1_kernel(torch.zeros(()), 100.0))
    1.0
    """
    return (1 + distance**2 / nu) ** (-(nu + 1) / 2)


KERNELS: dict[str, Kernel] = {"paper": paper_kernel, "official": official_kernel, "peak1": peak1_kernel}
