"""Which semantic scale an image takes, by its quality (SDI, Eq. 18 and Appendix B.4; spec S1.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import draw_key, generator, uniform
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.schemas import SCALES, QualityScore, Scale
from semaug.quality_policy.errors import InvalidThresholds, UnknownName

Granularity = Literal["auto", "object", "pixel", "hybrid"]
GRANULARITIES: tuple[Granularity, ...] = ("auto", *SCALES)
PolicyName = Literal["threshold", "soft", "soft-argmax"]
ROUTE_PURPOSE = "route"


class RoutingPolicy(Protocol):
    """What chooses a scale from an image's key and score."""

    def route(self, key: str, score: QualityScore) -> Scale: ...

    def identity(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Thresholds:
    """0 <= t_low <= t_high <= 1, or ``InvalidThresholds``."""

    t_low: float = 0.35
    t_high: float = 0.65

    def __post_init__(self) -> None:
        if not 0 <= self.t_low <= self.t_high <= 1:
            raise InvalidThresholds(
                f"t_low = {self.t_low} and t_high = {self.t_high} break 0 <= t_low <= t_high <= 1; change one of them"
            )


@dataclass(frozen=True, slots=True)
class SmallSideRule:
    """Images whose longer side is at most ``side`` pixels (below it unless ``inclusive``) take boxes, before all else.

    >>> SmallSideRule().applies(64, 32), SmallSideRule(inclusive=False).applies(64, 32), SmallSideRule(0).applies(1, 1)
    (True, False, False)
    """

    side: int = 64
    inclusive: bool = True

    def __post_init__(self) -> None:
        if self.side < 0:
            raise InvalidOption(f"the small side is {self.side} pixels; give 0 (no such rule) or more")

    def applies(self, height: int, width: int) -> bool:
        """Whether an image of this size in pixels is small."""
        longer = max(height, width)
        return longer <= self.side if self.inclusive else longer < self.side


@dataclass(frozen=True, slots=True)
class ThresholdPolicy:
    """Eq. 18: Q < t_low takes boxes, Q > t_high boxes and masks, all between (both ends included) masks.

    >>> ThresholdPolicy().scale(0.35), ThresholdPolicy().scale(0.7)
    ('pixel', 'hybrid')
    """

    name: ClassVar[PolicyName] = "threshold"
    thresholds: Thresholds = Thresholds()
    small: SmallSideRule = SmallSideRule()

    def scale(self, quality: float) -> Scale:
        """The scale of one quality in [0, 1]; sizes are not looked at."""
        if quality < self.thresholds.t_low:
            return "object"
        return "hybrid" if quality > self.thresholds.t_high else "pixel"

    def route(self, key: str, score: QualityScore) -> Scale:
        """The scale of one image."""
        return "object" if self.small.applies(score.height, score.width) else self.scale(score.quality)

    def identity(self) -> dict[str, Any]:
        """What decides the routes, as plain values for a manifest."""
        return {"policy": self.name, **asdict(self.thresholds), "small": asdict(self.small)}


@dataclass(frozen=True, slots=True)
class SoftPolicy:
    """Soft assignment: p = softmax([t_low - Q, 0, Q - t_high] / T) over (object, pixel, hybrid), drawn once an image.

    The draw depends on ``seed`` and the image's key alone. ``sample=False`` (``soft-argmax``) takes the likeliest
    scale; ties fall to ``pixel``, as in Eq. 18.
    """

    thresholds: Thresholds = Thresholds()
    small: SmallSideRule = SmallSideRule()
    temperature: float = 0.05
    seed: int = 0
    sample: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InvalidOption(f"the policy's temperature is {self.temperature}; give a positive number")

    @property
    def name(self) -> PolicyName:
        """``soft`` or ``soft-argmax``."""
        return "soft" if self.sample else "soft-argmax"

    def probabilities(self, quality: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Probabilities of (object, pixel, hybrid): float64, the shape of ``quality`` and a last axis of 3."""
        q = np.asarray(quality, np.float64)
        logits = np.stack([self.thresholds.t_low - q, np.zeros_like(q), q - self.thresholds.t_high], axis=-1)
        logits = (logits - logits.max(axis=-1, keepdims=True)) / self.temperature
        odds = np.exp(logits)
        return odds / odds.sum(axis=-1, keepdims=True)

    def scale(self, key: str, quality: float) -> Scale:
        """The scale of one quality in [0, 1]; sizes are not looked at."""
        if not self.sample:
            return ThresholdPolicy(self.thresholds).scale(quality)
        edges = np.cumsum(self.probabilities(quality))[:2]
        drawn = uniform(draw_key(self.seed, ROUTE_PURPOSE, 0, key), 0)
        return SCALES[int(np.searchsorted(edges, drawn, side="right"))]

    def route(self, key: str, score: QualityScore) -> Scale:
        """The scale of one image."""
        return "object" if self.small.applies(score.height, score.width) else self.scale(key, score.quality)

    def identity(self) -> dict[str, Any]:
        """What decides the routes, as plain values for a manifest."""
        plain = {"policy": self.name, **asdict(self.thresholds), "small": asdict(self.small)}
        return plain | ({"temperature": self.temperature, "seed": self.seed} if self.sample else {})


@dataclass(frozen=True, slots=True)
class FixedPolicy:
    """Every image takes one scale: ``granularity`` other than ``auto``."""

    scale: Scale

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UnknownName(f"no scale is called {self.scale!r}; known are {', '.join(SCALES)}")

    def route(self, key: str, score: QualityScore) -> Scale:
        """The one scale."""
        return self.scale

    def identity(self) -> dict[str, Any]:
        """What decides the routes, as plain values for a manifest."""
        return {"policy": "fixed", "scale": self.scale}


def make_policy(
    name: str = "soft",
    *,
    thresholds: Thresholds | None = None,
    small: SmallSideRule | None = None,
    granularity: Granularity = "auto",
    temperature: float = 0.05,
    seed: int = 0,
) -> RoutingPolicy:
    """The policy of this name (``threshold``, ``soft``, ``soft-argmax``), unless ``granularity`` fixes the scale.

    Raises ``UnknownName``, ``InvalidOption``.
    """
    if granularity not in GRANULARITIES:
        raise UnknownName(f"no granularity is called {granularity!r}; known are {', '.join(GRANULARITIES)}")
    if granularity != "auto":
        return FixedPolicy(granularity)
    thresholds, small = thresholds or Thresholds(), small or SmallSideRule()
    if name == "threshold":
        return ThresholdPolicy(thresholds, small)
    if name not in ("soft", "soft-argmax"):
        raise UnknownName(f"no policy is called {name!r}; known are threshold, soft, soft-argmax")
    return SoftPolicy(thresholds, small, temperature, seed, sample=name == "soft")


def routing_histogram(routes: Sequence[Scale]) -> dict[str, int]:
    """How many images take each scale, all three named.

    >>> routing_histogram(["pixel", "hybrid", "pixel"])
    {'object': 0, 'pixel': 2, 'hybrid': 1}
    """
    return {scale: sum(route == scale for route in routes) for scale in SCALES}


def shuffled_routes(keys: Sequence[str], routes: Sequence[Scale], seed: int = 0) -> list[Scale]:
    """A control: the same routes in the same proportions, dealt to the images at random.

    The deal depends on the seed and the set of keys, not on their order. Raises ``InvalidOption`` when the counts
    of keys and routes differ.
    """
    if len(keys) != len(routes):
        raise InvalidOption(f"{len(keys)} keys for {len(routes)} routes; give one each")
    order = sorted(range(len(keys)), key=lambda i: keys[i])
    dealt = generator(seed, "shuffled-routes").permutation(len(keys))
    by_code = sorted(routes, key=SCALES.index)
    result = list(routes)
    for place, index in enumerate(order):
        result[index] = by_code[dealt[place]]
    return result
