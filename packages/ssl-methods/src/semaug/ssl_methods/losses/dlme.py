"""The soft contrastive loss of DLME (Zang et al. 2022), as DiffAug writes it (Eqs. 1 to 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.gathering import Gathering, gather_keys, gather_rows, world
from semaug.ssl_methods.losses.inputs import full
from semaug.ssl_methods.losses.kernels import Kernel, official_kernel
from semaug.ssl_methods.losses.soft_pairs import NARROW, PairCosts, PairRules, form_of

EPSILON = 1e-5
"""Inside both logarithms, as in the official code."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """How distances become similarities: the kernel, nu in each space, and the pull ``beta`` of true pairs.

    With ``detach_p`` no gradient reaches y through P; without it, as in the official code, one does.
    """

    kernel: Kernel = official_kernel
    nu_y: float = 100.0
    nu_z: float = 0.01
    beta: float = 1.0
    detach_p: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise InvalidOption(f"beta is {self.beta}, expected 0 <= beta <= 1 (Eq. 3)")
        if not all(0 < nu < math.inf for nu in (self.nu_y, self.nu_z)):
            raise InvalidOption(f"nu_y = {self.nu_y} and nu_z = {self.nu_z} must be positive numbers")


def positive_pairs(ids: Tensor, *, gathering: Gathering = "candidates") -> Tensor:
    """H of Eq. 1, bool (n, N): true where two rows are views of one sample.

    ``ids``: int64 (n,), equal for views of one sample and unique over all ranks; N counts the rows of all ranks with
    ``gathering="candidates"``.

    >>> positive_pairs(torch.tensor([0, 1, 0])).int().tolist()
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    everyone = gather_keys(ids) if gathering == "candidates" else ids
    return ids[:, None] == everyone[None]


def soft_targets(
    latent: Tensor, positive: Tensor, similarity: Similarity, *, gathering: Gathering = "candidates"
) -> tuple[Tensor, Tensor]:
    """P of Eq. 3, (n, N), and the share of it that the clamp to [0, 1] saturates, a 0-d tensor.

    The share leaves out a row with itself, as the loss does. ``latent`` is y, (n, d); ``positive`` is H, bool (n, N),
    with N as ``positive_pairs`` has it.
    """
    latent = full(latent)
    pull = 1 + positive.to(latent.dtype) * (math.exp(similarity.beta) - 1)
    raw = pull * similarity.kernel(_distances(latent, _everyone(latent, gathering)), similarity.nu_y)
    over = (raw.detach() > 1).masked_fill(_itself(*_shape(latent, gathering), latent), False)
    return raw.clamp(0, 1), over.sum().to(latent.dtype) / _pairs(*_shape(latent, gathering))


def soft_contrastive_loss(
    latent: Tensor,
    embedding: Tensor,
    positive: Tensor,
    similarity: Similarity,
    *,
    gathering: Gathering = "candidates",
) -> Tensor:
    """Eq. 2 as the mean over the pairs of a local row and another row: -[P log Q + (1 - P) log(1 - Q)].

    ``latent`` is y, (n, d), of which P is made; ``embedding`` is z, (n, e), of which Q is made; ``positive`` is H, bool
    (n, N). With ``gathering="candidates"`` the other rows are those of all ranks (equal n on all), N in number.
    Computed in float32 (float64 for float64 input). Returns a scalar. Raises ``InvalidOption`` when the shapes do not
    belong together.

    >>> y, z = torch.tensor([[0.0], [9.0]]), torch.tensor([[0.0], [1.0]])
    >>> apart = torch.eye(2, dtype=torch.bool)
    >>> round(soft_contrastive_loss(y, z, apart, Similarity()).item(), 6)  # P is 0, Q nearly so
    0.000136
    """
    return soft_contrastive_terms(latent, embedding, positive, similarity, gathering=gathering)[0]


def soft_contrastive_terms(
    latent: Tensor,
    embedding: Tensor,
    positive: Tensor,
    similarity: Similarity,
    *,
    gathering: Gathering = "candidates",
) -> tuple[Tensor, Tensor]:
    """``soft_contrastive_loss`` and the share of P that the clamp saturates, of the same pairs."""
    rows, ranks = _shape(latent, gathering)
    if embedding.shape[0] != rows or positive.shape != (rows, rows * ranks):
        raise InvalidOption(
            f"latent has {rows} rows, embedding {len(embedding)}, positive is {tuple(positive.shape)}; "
            f"give as many of both and a mask of {(rows, rows * ranks)}"
        )
    with torch.autocast(latent.device.type, enabled=False):
        if rules := _rules(similarity, positive, ranks):
            sides = (*_sides(latent, gathering), *_sides(embedding, gathering))
            total, over = PairCosts.apply(*sides, positive, rules)  # type: ignore[no-untyped-call]
            return total / _pairs(rows, ranks), over.to(total.dtype) / _pairs(rows, ranks)
        target, saturated = soft_targets(latent, positive, similarity, gathering=gathering)
        target = target.detach() if similarity.detach_p else target
        z = full(embedding)
        q = similarity.kernel(_distances(z, _everyone(z, gathering)), similarity.nu_z)
        costs = -(target * torch.log(q + EPSILON) + (1 - target) * torch.log(1 - q + EPSILON))
        return costs.masked_fill(_itself(rows, ranks, costs), 0).sum() / _pairs(rows, ranks), saturated


def _shape(rows: Tensor, gathering: Gathering) -> tuple[int, int]:
    """Local rows, and the ranks whose rows they are compared with."""
    return len(rows), world()[1] if gathering == "candidates" else 1


def _pairs(rows: int, ranks: int) -> int:
    """Pairs of a local row with another row."""
    return rows * (rows * ranks - 1)


def _rules(similarity: Similarity, positive: Tensor, ranks: int) -> PairRules | None:
    """What ``PairCosts`` needs to know, None for a kernel whose form it does not know."""
    target, found = (form_of(similarity.kernel, nu) for nu in (similarity.nu_y, similarity.nu_z))
    if target is None or found is None:
        return None
    return PairRules(
        target=target,
        found=found,
        beta=similarity.beta,
        detach_p=similarity.detach_p,
        epsilon=EPSILON,
        first=world()[0] * len(positive) if ranks > 1 else 0,
        mirrored=ranks == 1 and not positive.is_cuda and torch.equal(positive, positive.T),  # which a GPU waits for
    )


def _sides(rows: Tensor, gathering: Gathering) -> tuple[Tensor, Tensor]:
    """Local rows and everyone's, centred where distances are made of products."""
    rows = full(rows)
    others = _everyone(rows, gathering)
    if rows.shape[1] <= NARROW:
        return rows, others
    centre = others.detach().mean(dim=0)
    return rows - centre, others - centre


def _everyone(rows: Tensor, gathering: Gathering) -> Tensor:
    return gather_rows(rows) if gathering == "candidates" else rows


def _itself(rows: int, ranks: int, like: Tensor) -> Tensor:
    """Bool (rows, rows * ranks): true where both are one row."""
    first = world()[0] * rows if ranks > 1 else 0
    everyone = torch.arange(rows * ranks, device=like.device)
    return everyone[None] == everyone[first : first + rows, None]


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances (n, N) with a gradient of zero, not NaN, where two rows agree."""
    if rows.shape[1] <= NARROW:
        return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")
    centre = others.detach().mean(dim=0)
    rows, others = rows - centre, others - centre
    squared = rows.square().sum(dim=1)[:, None] + others.square().sum(dim=1) - 2 * rows @ others.T
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)
