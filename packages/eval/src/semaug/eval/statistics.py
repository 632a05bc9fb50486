"""Means, spreads and paired comparisons of results over seeds or folds.

A quantity that too few runs cannot give is None, never zero: with one run there is a mean but no spread and no
interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from semaug.eval.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean of n runs and their standard deviation (n - 1 in the denominator; None with one run)."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of a - b over n paired runs, its confidence interval and two-sided p-value (None with one pair)."""

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    n: int
    confidence: float = 0.95

    @property
    def separated(self) -> bool | None:
        """Whether the interval leaves zero out; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and number of runs.

    >>> summarise([1.0, 2.0, 3.0])
    Summary(mean=2.0, sd=1.0, n=3)
    >>> summarise([1.0]).sd is None
    True
    """
    array = _finite(values)
    return Summary(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> PairedDifference:
    """Student's paired comparison of runs that share their seeds: ``a[i]`` and ``b[i]`` are of one seed.

    >>> difference = paired_difference([0.60, 0.62, 0.61], [0.50, 0.51, 0.53])
    >>> round(difference.mean, 4), round(difference.low, 4), round(difference.high, 4)
    (0.0967, 0.0587, 0.1346)
    """
    differences = _differences(a, b)
    n = len(differences)
    return _interval(differences, 1 / n, confidence)


def corrected_resampled_difference(
    a: Sequence[float], b: Sequence[float], test_share: float, confidence: float = 0.95
) -> PairedDifference:
    """The same for folds or resampled splits, whose training sets overlap (Nadeau and Bengio 2003).

    The variance of the mean is (1/n + n_test/n_train) times that of the differences, instead of 1/n;
    ``test_share`` is n_test / (n_test + n_train), 0.1 for ten folds.
    """
    if not 0 < test_share < 1:
        raise EvaluationError(f"a test share of {test_share}; give n_test / (n_test + n_train), between 0 and 1")
    differences = _differences(a, b)
    return _interval(differences, 1 / len(differences) + test_share / (1 - test_share), confidence)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment of several p-values (None stays None and does not count).

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(known):
        running = max(running, min(1.0, (len(known) - rank) * p))
        adjusted[index] = running
    return adjusted


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise EvaluationError(f"results of shape {array.shape}; give at least one number, one a run")
    if not np.isfinite(array).all():
        raise EvaluationError(f"results {array.tolist()} hold NaN or infinity; leave such runs out and say so")
    return array


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b):
        raise EvaluationError(f"{len(a)} runs against {len(b)}; pair them by seed")
    return _finite(a) - _finite(b)


def _interval(differences: np.ndarray, factor: float, confidence: float) -> PairedDifference:
    """Student interval with ``factor`` times the variance of the differences as the variance of their mean."""
    n, mean = len(differences), float(differences.mean())
    if not 0 < confidence < 1:
        raise EvaluationError(f"a confidence of {confidence}; give a share between 0 and 1, such as 0.95")
    if n == 1:
        return PairedDifference(mean, None, None, None, 1, confidence)
    error = math.sqrt(factor * float(differences.var(ddof=1)))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    if error > 0:
        p_value = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    else:
        p_value = 1.0 if mean == 0 else 0.0
    return PairedDifference(mean, mean - half, mean + half, p_value, n, confidence)
