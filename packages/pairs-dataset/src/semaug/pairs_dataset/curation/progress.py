"""How far curation is and how long it may take still."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from semaug.pairs_dataset.curation.journal import ClassProgress


@dataclass(frozen=True, slots=True)
class Summary:
    """Numbers over all classes.

    ``goal`` counts the pairs wanted (``per_class`` each, or every pair where that is 0); ``short`` names the classes
    whose proposals cannot reach it any more; ``verdicts_left`` is an estimate from the share accepted so far.
    """

    pairs: int
    judged: int
    accepted: int
    waiting: int
    disputed: int
    goal: int
    classes_done: int
    short: tuple[str, ...]
    verdicts_left: int


def summarise(classes: Sequence[ClassProgress], per_class: int = 0) -> Summary:
    """The sum over classes.

    >>> summarise([ClassProgress("cat", 10, 4, 2, 0, 0)], per_class=4).verdicts_left
    4
    """
    pairs, judged, accepted = (sum(getattr(c, name) for c in classes) for name in ("pairs", "judged", "accepted"))
    waiting, disputed = (sum(getattr(c, name) for c in classes) for name in ("waiting", "disputed"))
    rate = (accepted + 1) / (judged + 2)
    left = [_verdicts_left(c, per_class, rate) for c in classes]
    short = tuple(c.name for c in classes if c.accepted + c.pairs - c.judged < per_class)
    goal = per_class * len(classes) if per_class else pairs
    return Summary(pairs, judged, accepted, waiting, disputed, goal, sum(n == 0 for n in left), short, sum(left))


def _verdicts_left(found: ClassProgress, per_class: int, rate: float) -> int:
    still_open = found.pairs - found.judged
    if not per_class:
        return still_open
    return min(still_open, math.ceil(max(0, per_class - found.accepted) / rate))
