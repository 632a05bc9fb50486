"""How much of the way from no guidance (V0) to ideal guidance (V6) a variant goes (spec S1.5, Table 12)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from semaug.eval.errors import EvaluationError
from semaug.eval.geometry.results import CONFIDENCE, GeometryResult, undefined
from semaug.eval.measures import Measure

Accuracies = float | Sequence[float]


def gap_recovery(variant: Accuracies, baseline: Accuracies, ceiling: Accuracies) -> GeometryResult:
    """``gap_recovery`` = (variant - V0) / (V6 - V0) of mean accuracies, with Fieller's 95% interval over paired seeds.

    Each argument is one accuracy or one for each seed, in the same order. A share: 0 at V0, 1 at V6, and outside of
    [0, 1] where the variant is. Null where V6 does not exceed V0; the interval is null with fewer than two seeds, and
    where V6 - V0 cannot be told from 0. Raises ``EvaluationError`` for numbers of seeds that differ and for NaN.

    >>> gap_recovery(45.0, 40.0, 60.0).value("gap_recovery")
    0.25
    """
    part, whole = _gains(variant, baseline, ceiling)
    n = len(part)
    if whole.mean() <= 0:
        reason = f"V6 is not above V0: the gap is {whole.mean():g}"
        return undefined(["gap_recovery"], n, reason)
    share = float(part.mean() / whole.mean())
    low, high, reason = _fieller(part, whole)
    return GeometryResult(
        (
            Measure("gap_recovery", share, n),
            Measure("gap_recovery_interval_low", low, n, reason),
            Measure("gap_recovery_interval_high", high, n, reason),
        )
    )


def _gains(
    variant: Accuracies, baseline: Accuracies, ceiling: Accuracies
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = [np.atleast_1d(np.asarray(a, dtype=np.float64)) for a in (variant, baseline, ceiling)]
    sizes = [len(v) for v in values]
    if len(set(sizes)) > 1 or not sizes[0]:
        raise EvaluationError(f"{sizes[0]}, {sizes[1]} and {sizes[2]} runs; give variant, V0 and V6 the same seeds")
    if not all(np.isfinite(v).all() for v in values):
        raise EvaluationError(f"accuracies {[v.tolist() for v in values]} hold NaN or infinity; leave such runs out")
    return values[0] - values[1], values[2] - values[1]


def _fieller(part: NDArray[np.float64], whole: NDArray[np.float64]) -> tuple[float | None, float | None, str]:
    """Shares r for which the mean of part - r * whole does not differ from 0 (Fieller 1954), or why there are none."""
    n = len(part)
    if n < 2:
        return None, None, "one seed has no spread"
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    spread = np.cov(part, whole) * t * t / n
    a = whole.mean() ** 2 - spread[1, 1]
    b = part.mean() * whole.mean() - spread[0, 1]
    c = part.mean() ** 2 - spread[0, 0]
    if a <= 0:
        return None, None, f"V6 - V0 cannot be told from 0 over {n} seeds"
    half = math.sqrt(max(b * b - a * c, 0.0))
    return float((b - half) / a), float((b + half) / a), ""
