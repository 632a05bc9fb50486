"""Momentum (teacher, target, key) networks: a slow copy of the trained one.

A method keeps ``self.teacher = momentum_copy(encoder)`` and calls ``follow(self.teacher, self.encoder, tau)`` in
``after_step``, so once per optimizer step also under gradient accumulation. tau comes from a ``MomentumSchedule``, a
pure function of the step: nothing but weights is state, and a resumed run goes on as if never stopped.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.schedules import cosine

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class MomentumSchedule:
    """tau of each optimizer step: ``base``, or half a cosine from ``base`` at step 0 to ``final`` at the end.

    >>> MomentumSchedule(0.99)(7, 10)
    0.99
    >>> [round(MomentumSchedule(0.9, 1.0)(step, 4), 3) for step in (0, 2, 4)]
    [0.9, 0.95, 1.0]
    """

    base: float
    final: float | None = None

    def __post_init__(self) -> None:
        last = self.base if self.final is None else self.final
        if not (0 <= self.base <= 1 and 0 <= last <= 1):
            raise InvalidOption(f"momentum {self.base} to {last} leaves [0, 1]; the papers use 0.99 to 1")

    def __call__(self, step: int, steps: int) -> float:
        """tau of step ``step`` (from 0) of ``steps``."""
        return self.base if self.final is None else cosine(step, steps, self.base, self.final)


def momentum_copy(online: M) -> M:
    """An exact copy of ``online``, weights and buffers, that takes no gradient."""
    teacher = copy.deepcopy(online)
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return teacher


@torch.no_grad()
def follow(teacher: nn.Module, online: nn.Module, tau: float) -> None:
    """``teacher = tau * teacher + (1 - tau) * online``, parameter by parameter.

    Buffers are left alone: batch norm statistics of the teacher are those of its own forward passes.
    """
    slow: list[Tensor] = list(teacher.parameters())
    fast: list[Tensor] = list(online.parameters())
    torch._foreach_lerp_(slow, fast, 1 - tau)
