"""R, C, D and their weighted sum Q = a R + b C + g D (SDI, Eq. 17; spec S1.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.schemas import QualityScore
from semaug.quality_policy.errors import InvalidWeights
from semaug.quality_policy.normalisers import (
    CLARITY,
    DATASET,
    RESOLUTION,
    Normaliser,
    RobustRange,
    Values,
    diversity,
    find_normaliser,
)
from semaug.quality_policy.scores import ImageStatistics

DIVERSITY = "entropy"


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of resolution, clarity and diversity: not negative, summing to 1. Raises ``InvalidWeights``."""

    resolution: float = 0.4
    clarity: float = 0.3
    diversity: float = 0.3

    def __post_init__(self) -> None:
        values = (self.resolution, self.clarity, self.diversity)
        if not all(math.isfinite(v) and v >= 0 for v in values):
            raise InvalidWeights(f"weights {values} hold a negative or infinite number; give three that sum to 1")
        if abs(sum(values) - 1) > 1e-9:
            raise InvalidWeights(f"weights {values} sum to {sum(values):.6g}, not 1; change them or renormalise")

    @classmethod
    def renormalised(cls, resolution: float, clarity: float, diversity: float) -> Weights:
        """Weights divided by their sum.

        >>> Weights.renormalised(2, 1, 1)
        Weights(resolution=0.5, clarity=0.25, diversity=0.25)
        """
        total = resolution + clarity + diversity
        if not math.isfinite(total) or total <= 0:
            raise InvalidWeights(f"weights {(resolution, clarity, diversity)} sum to {total:.6g}; give a positive sum")
        return cls(resolution / total, clarity / total, diversity / total)


@dataclass(frozen=True, slots=True)
class RawStatistics:
    """Statistics of n images as arrays of shape (n,): sizes in pixels, Laplacian variance, entropy in bits."""

    height: NDArray[np.int32]
    width: NDArray[np.int32]
    laplacian_variance: Values
    entropy: Values

    @classmethod
    def of(cls, rows: list[ImageStatistics]) -> RawStatistics:
        """The arrays of single statistics."""
        return cls(
            np.array([r.height for r in rows], np.int32),
            np.array([r.width for r in rows], np.int32),
            np.array([r.laplacian_variance for r in rows], np.float64),
            np.array([r.entropy for r in rows], np.float64),
        )

    @property
    def side(self) -> Values:
        """sqrt(height * width) in pixels."""
        return np.sqrt(self.height.astype(np.float64) * self.width)

    def __len__(self) -> int:
        return len(self.height)


@dataclass(frozen=True, slots=True)
class Components:
    """R, C, D and Q of n images: float64, shape (n,), in [0, 1]."""

    resolution: Values
    clarity: Values
    diversity: Values
    quality: Values


@dataclass(frozen=True, slots=True)
class Scoring:
    """How raw statistics become R, C, D and Q.

    ``resolution`` and ``clarity`` name normalisers, ``diversity`` is ``entropy`` (H/8, above ``entropy_floor`` bits);
    each may be ``dataset``, whose fitted range must then be in ``ranges``: see ``fit``.
    Raises ``UnknownName`` and ``InvalidOption``.
    """

    weights: Weights = field(default_factory=Weights)
    resolution: str = "log32-512"
    clarity: str = "half500"
    diversity: str = DIVERSITY
    entropy_floor: float = 0.0
    ranges: Mapping[str, RobustRange] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for registry, name, what in self._named():
            if name != DATASET:
                find_normaliser(registry, name, what)
        if not 0 <= self.entropy_floor < 8:
            raise InvalidOption(f"the entropy floor is {self.entropy_floor} bits, give one from 0 to below 8")

    def _named(self) -> tuple[tuple[Mapping[str, Normaliser], str, str], ...]:
        return (
            (RESOLUTION, self.resolution, "resolution"),
            (CLARITY, self.clarity, "clarity"),
            ({DIVERSITY: lambda h: diversity(h, self.entropy_floor)}, self.diversity, "diversity"),
        )

    @property
    def fitted_names(self) -> tuple[str, ...]:
        """The components that are normalised over the data set."""
        return tuple(what for _, name, what in self._named() if name == DATASET)

    def fit(self, raw: RawStatistics) -> Scoring:
        """This scoring with the ranges of its ``dataset`` components fitted to ``raw``."""
        values = {"resolution": raw.side, "clarity": raw.laplacian_variance, "diversity": raw.entropy}
        if not self.fitted_names or not len(raw):
            return self
        return replace(self, ranges={name: RobustRange.fit(values[name]) for name in self.fitted_names})

    def components(self, raw: RawStatistics) -> Components:
        """R, C, D and Q. Raises ``InvalidOption`` where a ``dataset`` range is not fitted yet."""
        if not len(raw):
            return Components(*(np.zeros(0) for _ in range(4)))
        missing = [name for name in self.fitted_names if name not in self.ranges]
        if missing:
            raise InvalidOption(f"the dataset normaliser of {missing[0]} is not fitted; score the whole set first")
        chosen = [
            self.ranges[what] if name == DATASET else find_normaliser(registry, name, what)
            for registry, name, what in self._named()
        ]
        r, c, d = chosen[0](raw.side), chosen[1](raw.laplacian_variance), chosen[2](raw.entropy)
        w = self.weights
        return Components(r, c, d, w.resolution * r + w.clarity * c + w.diversity * d)

    def score(self, statistics: ImageStatistics) -> QualityScore:
        """The score of one image."""
        parts = self.components(RawStatistics.of([statistics]))
        return QualityScore(
            statistics.height,
            statistics.width,
            statistics.laplacian_variance,
            statistics.entropy,
            float(parts.resolution[0]),
            float(parts.clarity[0]),
            float(parts.diversity[0]),
            float(parts.quality[0]),
        )

    def identity(self) -> dict[str, Any]:
        """What decides the scores, as plain values for a manifest; fitted ranges follow from the images."""
        names = {"resolution": self.resolution, "clarity": self.clarity, "diversity": self.diversity}
        return {"weights": asdict(self.weights), "normalisers": names, "entropy_floor": self.entropy_floor}

    @classmethod
    def from_identity(cls, plain: Mapping[str, Any]) -> Scoring:
        """The scoring that ``identity`` described."""
        return cls(Weights(**plain["weights"]), **plain["normalisers"], entropy_floor=plain["entropy_floor"])
