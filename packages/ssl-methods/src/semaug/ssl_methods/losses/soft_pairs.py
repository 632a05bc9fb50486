"""Eq. 2 of DiffAug over blocks of pairs, with its gradient written out: a third of the time of autograd's.

For the three kernels of ``kernels.py``, all of the form peak * (1 + s / nu)^-power with s the squared distance, value
and gradient of a pair depend on its two distances alone. Both are made while a block of pairs is in the processor's
cache, and nothing as large as all pairs is ever kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semaug.ssl_methods.losses.kernels import Kernel, official_kernel, paper_kernel, peak1_kernel

_POWERS: dict[Kernel, float] = {paper_kernel: 0.5, official_kernel: 1.0, peak1_kernel: 0.5}
"""Of each kernel, the power over nu + 1."""

NARROW = 32
"""Up to this width distances are taken difference by difference; the kernel at nu = 0.01 tells 1e-3 apart."""

_CACHED = 1 << 15  # pairs a thread works on at a time
_ON_DEVICE = 1 << 25


@dataclass(frozen=True, slots=True)
class Form:
    """A kernel as peak * (1 + s / nu)^-power of the squared distance s."""

    peak: float
    power: float
    nu: float

    def of(self, squared: Tensor) -> tuple[Tensor, Tensor]:
        """The similarities of ``squared``, which is overwritten, and its factor 1 + s / nu."""
        factor = squared.div_(self.nu).add_(1)
        return factor.log().mul_(-self.power).exp_().mul_(self.peak), factor

    def slope(self, similarity: Tensor, factor: Tensor) -> Tensor:
        """The derivative of a similarity by the squared distance."""
        return (similarity * (-self.power / self.nu)).div_(factor)


def form_of(kernel: Kernel, nu: float) -> Form | None:
    """The form of a kernel of ``KERNELS``, None for any other."""
    if kernel not in _POWERS:
        return None
    peak = float(kernel(torch.zeros((), dtype=torch.float64), nu))
    return Form(peak, _POWERS[kernel] * (nu + 1), nu)


@dataclass(frozen=True, slots=True)
class PairRules:
    """Both forms, beta of Eq. 3, whether P is held fixed, epsilon of the logarithms, the column of the first row, and
    whether rows and columns are the same and ``positive`` is symmetric, so that half of the pairs tell the rest.
    """

    target: Form
    found: Form
    beta: float
    detach_p: bool
    epsilon: float
    first: int
    mirrored: bool


class PairCosts(torch.autograd.Function):
    """``PairCosts.apply(y, all_y, z, all_z, positive, rules)``: the sum of costs over all pairs but of a row and
    itself, and the number of those pairs whose P is clamped.

    ``y`` (n, d) and ``all_y`` (N, d) are centred if d is above ``NARROW``; ``z`` and ``all_z`` likewise; ``positive``
    bool (n, N).
    """

    @staticmethod
    def forward(
        context: Any, y: Tensor, all_y: Tensor, z: Tensor, all_z: Tensor, positive: Tensor, rules: PairRules
    ) -> tuple[Tensor, Tensor]:
        pairs = _Pairs(y, all_y, z, all_z, rules, context.needs_input_grad[:4])
        limit = _limit(y.device)
        start = 0
        while start < len(y):
            first = start if rules.mirrored else 0
            stop = min(len(y), start + max(1, limit // (len(all_y) - first)))
            pairs.add(slice(start, stop), slice(first, len(all_y)), positive)
            start = stop
        context.save_for_backward(*pairs.gradients)
        context.mark_non_differentiable(pairs.saturated)
        return pairs.total, pairs.saturated

    @staticmethod
    @once_differentiable
    def backward(context: Any, total: Tensor, saturated: Tensor) -> tuple[Tensor | None, ...]:
        gradients = context.saved_tensors
        return (*(total * g if g is not None else None for g in gradients), None, None)


class _Pairs:
    """Sums over blocks of rows."""

    def __init__(
        self, y: Tensor, all_y: Tensor, z: Tensor, all_z: Tensor, rules: PairRules, needs: tuple[bool, ...]
    ) -> None:
        self.y, self.all_y, self.z, self.all_z, self.rules = y, all_y, z, all_z, rules
        self.needs_y, self.needs_z = any(needs[:2]) and not rules.detach_p, any(needs[2:])
        self.total = y.new_zeros(())
        self.saturated = torch.zeros((), dtype=torch.int64, device=y.device)
        of_y = (torch.zeros_like(y), torch.zeros_like(all_y)) if self.needs_y else (None, None)
        of_z = (torch.zeros_like(z), torch.zeros_like(all_z)) if self.needs_z else (None, None)
        self.gradients: tuple[Tensor | None, ...] = (*of_y, *of_z)

    def add(self, rows: slice, columns: slice, positive: Tensor) -> None:
        """The pairs of ``rows`` with ``columns``; mirrored, those beyond the rows count twice."""
        rules, epsilon = self.rules, self.rules.epsilon
        weight = torch.ones(columns.stop - columns.start, dtype=self.y.dtype, device=self.y.device)
        weight[rows.stop - columns.start :] += rules.mirrored
        itself = torch.arange(rows.stop - rows.start, device=self.y.device)
        diagonal = (itself, itself + (rows.start + rules.first - columns.start))
        raw, y_factor = rules.target.of(squared_distances(self.y[rows], self.all_y[columns]))
        raw *= positive[rows, columns].to(raw.dtype).mul_(math.expm1(rules.beta)).add_(1)
        clamped = raw > 1
        clamped[diagonal] = False
        self.saturated += (clamped.sum(dim=0) * weight).sum().long()
        p = raw.clamp(max=1)
        q, z_factor = rules.found.of(squared_distances(self.z[rows], self.all_z[columns]))
        near, far = q + epsilon, (1 + epsilon) - q
        costs = far.log()
        odds = costs - near.log()  # log(1 - Q) - log Q: the derivative by P
        costs.addcmul_(p, odds, value=-1)
        costs[diagonal] = 0
        self.total -= costs.sum(dim=0) @ weight
        if self.needs_z:
            slope = (1 - p).div_(far).sub_(p.div_(near)).mul_(rules.found.slope(q, z_factor)).mul_(weight)
            slope[diagonal] = 0
            _pull(slope, rows, columns, self.z, self.all_z, self.gradients[2:])
        if self.needs_y:
            slope = odds.mul_(rules.target.slope(raw, y_factor)).mul_(weight).masked_fill_(clamped, 0)
            slope[diagonal] = 0
            _pull(slope, rows, columns, self.y, self.all_y, self.gradients[:2])


def _limit(device: torch.device) -> int:
    """Pairs to work on at a time: few enough for the cache, and for one thread where there are no more than two."""
    if device.type != "cpu":
        return _ON_DEVICE
    threads = torch.get_num_threads()
    return _CACHED * (threads if threads > 2 else 1)


def _pull(
    slope: Tensor, rows: slice, columns: slice, own: Tensor, others: Tensor, gradients: tuple[Tensor | None, ...]
) -> None:
    """Add to ``gradients`` what the derivatives by squared distances are by the rows and by the columns."""
    of_own, of_others = gradients
    assert of_own is not None
    assert of_others is not None
    own, others, of_own, of_others = own[rows], others[columns], of_own[rows], of_others[columns]
    if own.shape[1] > NARROW:
        of_own += 2 * (slope.sum(dim=1)[:, None] * own - slope @ others)
        of_others += 2 * (slope.sum(dim=0)[:, None] * others - slope.T @ own)
        return
    for column in range(own.shape[1]):
        apart = (own[:, column, None] - others[:, column]).mul_(slope)
        of_own[:, column] += 2 * apart.sum(dim=1)
        of_others[:, column] -= 2 * apart.sum(dim=0)


def squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """Squared Euclidean distances (n, N); of wide rows by a product of matrices, which want to be centred."""
    if rows.shape[1] > NARROW:
        sums = rows.square().sum(dim=1)[:, None] + others.square().sum(dim=1)
        return sums.addmm_(rows, others.T, alpha=-2).clamp_(min=0)
    total = (rows[:, 0, None] - others[:, 0]).square_()
    for column in range(1, rows.shape[1]):
        apart = rows[:, column, None] - others[:, column]
        total.addcmul_(apart, apart)
    return total
