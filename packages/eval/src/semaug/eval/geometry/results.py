"""What the evaluators of this folder return, and the checks they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from semaug.eval.errors import EvaluationError
from semaug.eval.measures import Measure

CONFIDENCE = 0.95
ZERO_LENGTH = 1e-12


@dataclass(frozen=True, slots=True)
class GeometryResult:
    """Measures by name, and what a reader of them must know.

    >>> result = GeometryResult((Measure("twonn", 2.0, n=9),)).under("backbone")
    >>> [m.metric for m in result], result.value("backbone/twonn")
    (['backbone/twonn'], 2.0)
    """

    measures: tuple[Measure, ...]
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        return iter(self.measures)

    def value(self, metric: str) -> float | None:
        """The value of one measure; raises ``KeyError`` for a name there is not."""
        for measure in self.measures:
            if measure.metric == metric:
                return measure.value
        raise KeyError(f"no measure is called {metric!r}; there are {', '.join(m.metric for m in self.measures)}")

    def under(self, prefix: str) -> GeometryResult:
        """The same with ``prefix/`` before every name."""
        named = tuple(replace(m, metric=f"{prefix}/{m.metric}") for m in self.measures)
        return GeometryResult(named, tuple(f"{prefix}: {warning}" for warning in self.warnings))


def joined(results: Iterable[GeometryResult]) -> GeometryResult:
    """The measures and warnings of several results, in order; a warning that repeats is told once."""
    found = list(results)
    measures = tuple(measure for result in found for measure in result.measures)
    return GeometryResult(measures, tuple(dict.fromkeys(w for result in found for w in result.warnings)))


def undefined(metrics: Sequence[str], n: int, reason: str) -> GeometryResult:
    """Every metric without a value, for one reason."""
    return GeometryResult(tuple(Measure(metric, None, n, reason) for metric in metrics))


def with_spread(metric: str, value: float, draws: Sequence[float] | NDArray[np.float64], n: int) -> Iterator[Measure]:
    """A value, and the standard deviation and 95% percentile interval of its bootstrap ``draws``."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    yield Measure(metric, value, n)
    yield Measure(f"{metric}_std", float(np.std(draws, ddof=1)), n)
    yield Measure(f"{metric}_interval_low", float(low), n)
    yield Measure(f"{metric}_interval_high", float(high), n)


def with_error(metric: str, value: float, error: float, n: int) -> Iterator[Measure]:
    """A value, its standard error as ``_std``, and the normal 95% interval around it."""
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    yield Measure(metric, value, n)
    yield Measure(f"{metric}_std", error, n)
    yield Measure(f"{metric}_interval_low", value - half, n)
    yield Measure(f"{metric}_interval_high", value + half, n)


def why_unusable(values: NDArray[np.floating], least: int) -> str:
    """Why features (n, d) have no geometry: too few, or not finite; empty where they can be measured.

    Raises ``EvaluationError`` for an array that is not (n, d).
    """
    if values.ndim != 2 or not values.shape[1]:
        raise EvaluationError(f"features of shape {values.shape}; give one row an image and at least one column")
    broken = int((~np.isfinite(values).all(axis=1)).sum())
    if broken:
        return f"{broken} of {len(values)} rows hold NaN or infinity: did the encoder's training diverge?"
    if len(values) < least:
        return f"{len(values)} images, at least {least} are needed"
    return ""


def unit_rows(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows scaled to length 1, float64 (n, d); rows of length 0 stay as they are."""
    exact = np.asarray(values, dtype=np.float64)
    largest = np.abs(exact).max(axis=1, keepdims=True, initial=0)  # first, so that no square overflows
    exact = exact / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    return exact / np.where(length > 0, length, 1)


def directed(values: NDArray[np.floating]) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """The rows that have a direction, and a warning that counts the others."""
    kept = np.flatnonzero(np.any(values != 0, axis=1))
    lost = len(values) - len(kept)
    notes = (f"{lost} of {len(values)} features are all zero and have no direction: left out",) if lost else ()
    return kept, notes


def finite_mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean, and its standard error (0 with one value)."""
    mean = float(values.mean())
    return mean, float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
