"""DiffAug's soft contrastive loss (Eqs. 2 and 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from semaug.diffaug_core.kernels import Kernel, official_kernel

EPSILON = 1e-5
"""Inside both logarithms, as in the official code."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """How distances become similarities: the kernel, nu in each space, and the pull ``beta`` of true pairs."""

    kernel: Kernel = official_kernel
    nu_y: float = 100.0
    nu_z: float = 0.01
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta is {self.beta}, expected 0 <= beta <= 1 (Eq. 3)")
        if min(self.nu_y, self.nu_z) <= 0:
            raise ValueError(f"nu_y = {self.nu_y} and nu_z = {self.nu_z} must be positive")


def soft_targets(latent: Tensor, positive: Tensor, similarity: Similarity) -> tuple[Tensor, Tensor]:
    """P of Eq. 3 and the share of its entries that the clamp to [0, 1] saturates.

    Args:
        latent: y, float, shape (n, d).
        positive: H, bool, shape (n, n); true where two rows are views of one sample.

    Returns:
        P, shape (n, n), and a 0-d float tensor.
    """
    pull = 1 + positive.to(latent.dtype) * (math.exp(similarity.beta) - 1)
    raw = pull * similarity.kernel(_distances(latent), similarity.nu_y)
    return raw.clamp(0, 1), (raw > 1).to(latent.dtype).mean()


def soft_contrastive_loss(latent: Tensor, embedding: Tensor, positive: Tensor, similarity: Similarity) -> Tensor:
    """Eq. 2 as the mean over ordered pairs of distinct rows: -[P log Q + (1 - P) log(1 - Q)].

    Args:
        latent: y, shape (n, d); P is made of it, with gradient, as in the official code.
        embedding: z, shape (n, e); Q is made of it.
        positive: H, bool, shape (n, n).

    Returns:
        A 0-d tensor. Raises ``ValueError`` when the shapes do not belong together.
    """
    rows = len(latent)
    if embedding.shape[0] != rows or positive.shape != (rows, rows):
        raise ValueError(f"latent has {rows} rows, embedding {len(embedding)}, positive is {tuple(positive.shape)}")
    target, _ = soft_targets(latent, positive, similarity)
    q = similarity.kernel(_distances(embedding), similarity.nu_z)
    loss = -(target * torch.log(q + EPSILON) + (1 - target) * torch.log(1 - q + EPSILON))
    distinct = ~torch.eye(rows, dtype=torch.bool, device=loss.device)
    return loss[distinct].mean()


def _distances(rows: Tensor) -> Tensor:
    """Euclidean distances with a gradient of zero, not NaN, where two rows agree."""
    squared = (rows[:, None] - rows[None]).square().sum(-1)
    zero = squared == 0
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())
