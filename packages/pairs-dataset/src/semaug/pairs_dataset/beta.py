# mypy: allow-untyped-defs, allow-untyped-calls
"""Quantiles of the symmetric Beta distribution, from which centre-suppressed crops take their places.

A place is the quantile of the very uniform number that an unsuppressed crop would use, so that the two are paired:
the same crop, pushed away from the middle.
"""

from __future__ import annotations

import math

from numba import njit

_TERMS = 80  # the series' ratio is at most a half
_STEPS = 60  # Newton's steps fall monotonically and double their digits; this many are never taken


@njit(cache=True, nogil=True)
def _series(x, alpha):
    """The Gauss series 2F1(alpha, 1 - alpha; alpha + 1; x) for x in [0, 1/2], all of whose terms are positive."""
    total, term = 1.0, 1.0
    for n in range(_TERMS):
        term *= (alpha + n) * (1.0 - alpha + n) / ((alpha + 1.0 + n) * (n + 1.0)) * x
        total += term
        if term <= 1e-17 * total:
            break
    return total


@njit(cache=True, nogil=True)
def symmetric_beta(number, alpha):
    """The quantile ``number`` in [0, 1] of Beta(alpha, alpha), 0 < alpha <= 1; alpha = 1 returns ``number`` itself.

    The distribution function is t S(x) / (alpha B(alpha, alpha)) with t = x^alpha and S the series above (Abramowitz
    and Stegun 26.5.4 and 15.3.3). In t it is convex and rising, so Newton's method started to the right of the root
    closes in on it from there.
    """
    lower = min(number, 1.0 - number)
    wanted = lower * alpha * math.exp(2.0 * math.lgamma(alpha) - math.lgamma(2.0 * alpha))
    t = min(wanted, 0.5**alpha)
    for _ in range(_STEPS):
        x = t ** (1.0 / alpha)
        step = (t * _series(x, alpha) - wanted) * (1.0 - x) ** (1.0 - alpha)
        t = max(t - step, 0.0)
        if step <= 1e-15 * t:
            break
    x = min(t ** (1.0 / alpha), 0.5)
    return x if number <= 0.5 else 1.0 - x
