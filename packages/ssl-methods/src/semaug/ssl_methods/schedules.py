"""Schedules: values as pure functions of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semaug.artifacts.errors import InvalidOption


def cosine(step: float, steps: int, start: float, end: float) -> float:
    """Half a cosine from ``start`` at step 0 to ``end`` at step ``steps``.

    >>> [round(cosine(s, 4, 1.0, 0.0), 3) for s in (0, 2, 4)]
    [1.0, 0.5, 0.0]
    """
    share = min(max(step / max(1, steps), 0.0), 1.0)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True, slots=True)
class WarmupCosine:
    """Linear warm-up over ``warmup`` steps to 1, then a cosine to ``end``; factors of the rate.

    >>> schedule = WarmupCosine(steps=10, warmup=2)
    >>> [round(schedule(s), 3) for s in (0, 1, 2, 6)]
    [0.5, 1.0, 1.0, 0.5]
    """

    steps: int
    warmup: int = 0
    end: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup <= self.steps:
            raise InvalidOption(f"warm-up of {self.warmup} steps does not fit into {self.steps} steps; lower --warmup")

    def __call__(self, step: int) -> float:
        """The factor for step ``step``, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return cosine(step - self.warmup, self.steps - self.warmup, 1.0, self.end)
