"""From raw statistics to R, C and D in [0, 1], by name (SDI, spec S1.1; the paper gives no normalisers)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semaug.quality_policy.errors import UnknownName

Values = NDArray[np.float64]
Normaliser = Callable[[Values], Values]
DATASET = "dataset"
"""The normaliser that is fitted: robust min-max between the data set's 5th and 95th percentiles."""
MAX_ENTROPY = 8.0


def _log32_512(side: Values) -> Values:
    return np.clip((np.log2(side) - 5.0) / 4.0, 0.0, 1.0)


def _lin224(side: Values) -> Values:
    return np.minimum(1.0, side / 224.0)


def _area224(side: Values) -> Values:
    return np.minimum(1.0, side**2 / 224.0**2)


RESOLUTION: Mapping[str, Normaliser] = {"log32-512": _log32_512, "lin224": _lin224, "area224": _area224}
"""Of the side sqrt(height * width) in pixels."""


def _half_500(variance: Values) -> Values:
    return variance / (variance + 500.0)


def _half_100(variance: Values) -> Values:
    return variance / (variance + 100.0)


def _lin1000(variance: Values) -> Values:
    return np.minimum(1.0, variance / 1000.0)


def _log1e4(variance: Values) -> Values:
    return np.minimum(1.0, np.log1p(variance) / np.log1p(1e4))


CLARITY: Mapping[str, Normaliser] = {"half500": _half_500, "half100": _half_100, "lin1000": _lin1000, "log1e4": _log1e4}
"""Of the Laplacian variance v: v/(v+500), v/(v+100), min(1, v/1000), log1p(v)/log1p(1e4) up to 1."""


def diversity(entropy: Values, floor: float = 0.0) -> Values:
    """D of the entropy in bits: clip((H - floor) / (8 - floor), 0, 1); float64, the shape of ``entropy``.

    >>> diversity(np.array([4.0, 8.0])).tolist()
    [0.5, 1.0]
    """
    return np.clip((entropy - floor) / (MAX_ENTROPY - floor), 0.0, 1.0)


def find_normaliser(registry: Mapping[str, Normaliser], name: str, what: str) -> Normaliser:
    """The normaliser of this name; raises ``UnknownName`` naming those there are."""
    try:
        return registry[name]
    except KeyError as error:
        known = ", ".join([*registry, DATASET])
        raise UnknownName(f"no {what} normaliser is called {name!r}; known are {known}") from error


@dataclass(frozen=True, slots=True)
class RobustRange:
    """Robust min-max: ``low`` (5th percentile) goes to 0, ``high`` (95th) to 1, beyond is clipped.

    Where both are equal the value says nothing, and everything goes to 0.5.
    """

    low: float
    high: float

    @classmethod
    def fit(cls, values: Values) -> RobustRange:
        """The range of the values (any shape, at least one), percentiles interpolated linearly."""
        low, high = np.percentile(values, [5.0, 95.0])
        return cls(float(low), float(high))

    def __call__(self, values: Values) -> Values:
        if self.high <= self.low:
            return np.full_like(values, 0.5, dtype=np.float64)
        return np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)
