"""How far curators agree on the pairs that more than one of them judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from semaug.pairs_dataset.curation.journal import Judgement


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two curators on the ``pairs`` that both accepted or rejected.

    ``share`` is that of equal verdicts and ``kappa`` Cohen's (1960), which takes out the agreement by chance; both are
    None where ``reason`` says why.
    """

    curators: tuple[str, str]
    pairs: int
    share: float | None
    kappa: float | None
    reason: str = ""


def cohen_kappa(both: int, first: int, second: int, neither: int) -> float | None:
    """Cohen's kappa of a two-by-two table: accepted by both, by the first or second alone, by neither.

    None where chance alone would agree always: both curators gave one and the same verdict throughout.

    >>> cohen_kappa(20, 5, 10, 15)
    0.4
    """
    n = both + first + second + neither
    if not n:
        return None
    seen = (both + neither) * n
    chance = (both + first) * (both + second) + (neither + first) * (neither + second)
    return None if chance == n * n else (seen - chance) / (n * n - chance)


def agreements(judgements: Iterable[Judgement]) -> list[Agreement]:
    """The agreement of every two curators who judged a pair in common, by name; skips count as no verdict."""
    by_pair: dict[str, dict[str, bool]] = {}
    for found in judgements:
        if found.verdict != "skip":
            by_pair.setdefault(found.pair_id, {})[found.curator] = found.verdict == "accept"
    tables: dict[tuple[str, str], list[int]] = {}
    for verdicts in by_pair.values():
        for first, second in combinations(sorted(verdicts), 2):
            cell = 3 - 2 * verdicts[first] - verdicts[second]  # both, first alone, second alone, neither
            tables.setdefault((first, second), [0, 0, 0, 0])[cell] += 1
    return [_agreement(curators, table) for curators, table in sorted(tables.items())]


def _agreement(curators: tuple[str, str], table: list[int]) -> Agreement:
    kappa = cohen_kappa(*table)
    reason = "both gave one and the same verdict throughout" if kappa is None else ""
    return Agreement(curators, sum(table), (table[0] + table[3]) / sum(table), kappa, reason)
