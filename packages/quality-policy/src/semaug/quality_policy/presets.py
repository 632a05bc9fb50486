"""The named configurations of SDI: the six of Table 11, and the two more of Table 10 (spec S1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from semaug.quality_policy.errors import UnknownName
from semaug.quality_policy.policies import Thresholds
from semaug.quality_policy.scoring import Weights


@dataclass(frozen=True, slots=True)
class Preset:
    """Weights of the score and thresholds of the policy, and where the paper prints them."""

    weights: Weights
    thresholds: Thresholds
    source: str


PRESETS: Mapping[str, Preset] = {
    "default": Preset(Weights(0.4, 0.3, 0.3), Thresholds(0.35, 0.65), "Table 11"),
    "res": Preset(Weights(0.6, 0.2, 0.2), Thresholds(0.35, 0.65), "Table 11"),
    "cla": Preset(Weights(0.2, 0.4, 0.4), Thresholds(0.35, 0.65), "Table 11"),
    "loose": Preset(Weights(0.4, 0.3, 0.3), Thresholds(0.30, 0.60), "Table 11"),
    "strict": Preset(Weights(0.4, 0.3, 0.3), Thresholds(0.40, 0.70), "Table 11"),
    "var": Preset(Weights(0.5, 0.25, 0.25), Thresholds(0.35, 0.65), "Table 11"),
    "t10_res": Preset(Weights(0.5, 0.2, 0.3), Thresholds(0.35, 0.65), "Table 10"),
    "t10_cla": Preset(Weights(0.3, 0.5, 0.2), Thresholds(0.35, 0.65), "Table 10"),
}


def find_preset(name: str) -> Preset:
    """The preset of this name; raises ``UnknownName`` naming those there are."""
    try:
        return PRESETS[name]
    except KeyError as error:
        raise UnknownName(f"no preset is called {name!r}; known are {', '.join(PRESETS)}") from error
