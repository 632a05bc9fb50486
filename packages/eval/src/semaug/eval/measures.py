"""What every evaluator yields: a metric, its value, and how many test images stand behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """One measured number.

    ``value`` is None where the metric is not defined for the data at hand; ``reason`` then says why. Accuracies are
    shares in [0, 1] of ``n`` test images.

    >>> Measure("knn/top1", 0.5, n=10).value
    0.5
    >>> Measure("knn/top5", None, n=10, reason="5 classes or fewer").reason
    '5 classes or fewer'
    """

    metric: str
    value: float | None
    n: int
    reason: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError(f"{self.metric} has neither a value nor a reason; say why it is missing")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.metric} is {self.value}; give None and a reason for what is not defined")
