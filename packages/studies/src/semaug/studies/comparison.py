"""Variants over paired seeds: means, paired differences, and the verdict against the best control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semaug.eval.statistics import PairedDifference, Summary, paired_difference, summarise
from semaug.studies.runner import Outcome


@dataclass(frozen=True, slots=True)
class Compared:
    """One variant's finished runs: ``values[metric][i]`` is the i-th seed's, None where that run failed."""

    values: Mapping[str, Sequence[float | None]]

    @property
    def n(self) -> int:
        """Finished runs."""
        return max((sum(v is not None for v in row) for row in self.values.values()), default=0)

    def summary(self, metric: str) -> Summary:
        """Mean, standard deviation and number of runs."""
        return summarise([v for v in self.values[metric] if v is not None])

    def mean(self, metric: str) -> float:
        """Mean over the finished runs."""
        return self.summary(metric).mean

    def pairs(self, other: Compared, metric: str) -> list[float]:
        """Differences of the seeds that finished in both."""
        both = zip(self.values[metric], other.values[metric], strict=True)
        return [a - b for a, b in both if a is not None and b is not None]

    def against(self, other: Compared, metric: str) -> PairedDifference:
        """Mean paired difference to another variant with its interval."""
        both = zip(self.values[metric], other.values[metric], strict=True)
        kept = [(a, b) for a, b in both if a is not None and b is not None]
        return paired_difference([a for a, _ in kept], [b for _, b in kept])


def compare(outcomes: Sequence[Outcome], metrics: Sequence[str]) -> Compared:
    """Read the metrics out of a variant's outcomes, seed by seed."""
    return Compared({m: [o.result[m]["value"] if o.result else None for o in outcomes] for m in metrics})


def best_control(scores: Mapping[str, Compared], controls: Sequence[str], metric: str) -> str | None:
    """The control with the highest mean, or None when none finished."""
    finished = [name for name in controls if name in scores]
    return max(finished, key=lambda name: scores[name].mean(metric), default=None)


def verdict_of(scores: Mapping[str, Compared], variant: str, controls: Sequence[str], metric: str) -> str:
    """One paragraph: the variant minus the best control at equal steps, and what the interval allows to say."""
    control = best_control(scores, controls, metric)
    if variant not in scores or control is None:
        return f"No verdict: {variant if variant not in scores else 'every control'} has no finished run."
    difference = scores[variant].against(scores[control], metric)
    mean = 100 * difference.mean
    text = f"**{variant}: {mean:+.1f} points** of linear accuracy against the best control, {control}"
    if difference.low is None or difference.high is None:
        return f"{text}, with one seed: no interval, so no claim."
    text += f" (95% interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}, {difference.n} paired seeds)."
    if difference.separated:
        return f"{text} At equal steps the guidance {'helps' if mean > 0 else 'hurts'} here."
    return f"{text} The interval holds zero: these runs do not separate guidance from the size of its crops."
