"""``semaug pairs build``: semantic pairs from verdicts, and the controls that are made of them (spec S3.1, S5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.schemas import TAGS, PairForm, SemanticPair, pair_id_of
from semaug.artifacts.sources import ImageSource
from semaug.pairs_dataset.curation.journal import Journal, Judgement
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.pair_table import PairTable

Rule = Literal["all", "majority", "any"]
RULES: dict[Rule, Callable[[int, int], bool]] = {
    "all": lambda accepts, given: accepts == given,
    "majority": lambda accepts, given: 2 * accepts > given,
    "any": lambda accepts, given: accepts > 0,
}
"""When a pair counts as accepted: by all who judged it, by more than half of them, by one."""
TwinKind = Literal["augmented", "all-images", "random-same-class"]
_TRIES = 1000


@dataclass(frozen=True, slots=True)
class Settled:
    """The accepted pairs of a journal, and how many were rejected, judged unlike, or not judged at all."""

    table: PairTable
    rejected: int
    disputed: int
    open: int


def settle(journal: Journal, rule: Rule = "all") -> Settled:
    """What the verdicts of a journal come to. A pair's tags are those of all who accepted it, its curators too."""
    verdicts: dict[str, list[Judgement]] = {}
    for found in journal.judgements():
        if found.verdict != "skip":
            verdicts.setdefault(found.pair_id, []).append(found)
    rows, rejected, disputed, still_open = [], 0, 0, 0
    for pair in journal.pairs():
        given = verdicts.get(pair.pair_id, [])
        accepts = [found for found in given if found.verdict == "accept"]
        still_open += not given
        disputed += 0 < len(accepts) < len(given)
        if accepts and RULES[rule](len(accepts), len(given)):
            rows.append(_accepted(pair, accepts))
        elif given:
            rejected += 1
    return Settled(PairTable.of(rows, "semantic", journal.source), rejected, disputed, still_open)


def _accepted(pair: SemanticPair, accepts: Sequence[Judgement]) -> SemanticPair:
    marked = {tag for found in accepts for tag in found.tags}
    return replace(
        pair,
        tags=tuple(tag for tag in TAGS if tag in marked),
        verdict="accept",
        curator=", ".join(sorted(found.curator for found in accepts)),
        time=max(found.time for found in accepts),
    )


def chosen(table: PairTable) -> tuple[PairTable, bool]:
    """The pairs of a table that go into a set: the accepted ones, or all where nobody judged any.

    The second value says whether somebody did. Raises ``NoPairs`` where all were rejected.
    """
    if not any(row.verdict for row in table.rows):
        return PairTable.of(table.rows, "semantic", table.source), False
    kept = PairTable.of((r for r in table.rows if r.verdict == "accept"), "semantic", table.source)
    if not len(kept):
        raise NoPairs(f"none of the {len(table)} pairs is accepted; judge them with `semaug pairs curate`")
    return kept, True


def short_classes(table: PairTable, per_class: int, names: Iterable[str] = ()) -> dict[str, int]:
    """The classes of ``table`` and of ``names`` that have fewer than ``per_class`` pairs, with their number."""
    counts = {name: len(table.by_class.get(name, ())) for name in dict.fromkeys((*table.by_class, *names))}
    return {name: count for name, count in counts.items() if count < per_class}


def make_twin(table: PairTable, kind: TwinKind, *, seed: int = 0, pool: ImageSource | None = None) -> PairTable:
    """The control of ``table`` that a comparison needs.

    ``augmented`` (AP) pairs each first image with itself under the same id, so it has the size, the balance and the
    draws of ``table``. ``all-images`` pairs every image of it with itself, once. ``random-same-class`` pairs the same
    images anew within each class, never one with itself nor as before; with ``pool`` it draws as many pairs of images
    of the class from there. Raises ``InvalidOption`` where a class has too few images.
    """
    rows = _TWINS[kind](table, seed, pool)
    return PairTable.of(rows, kind, table.source)


def _augmented(table: PairTable, seed: int, pool: ImageSource | None) -> list[SemanticPair]:
    return [SemanticPair(r.pair_id, r.class_name, r.image_a, r.image_a, provenance="augmented") for r in table.rows]


def _all_images(table: PairTable, seed: int, pool: ImageSource | None) -> list[SemanticPair]:
    classes = {key: row.class_name for row in table.rows for key in (row.image_a, row.image_b)}
    return [SemanticPair(pair_id_of(k, k), name, k, k, provenance="all-images") for k, name in classes.items()]


def _random(table: PairTable, seed: int, pool: ImageSource | None) -> list[SemanticPair]:
    images = None if pool is None else _images_by_class(pool)
    rows: list[SemanticPair] = []
    for name, pairs in table.by_class.items():
        rng = generator(seed, "random-same-class", key=name)
        if images is None:
            taken = [key for pair in pairs for key in (pair.image_a, pair.image_b)]
        else:
            taken = _draw_images(images.get(name, []), 2 * len(pairs), rng, name)
        known = {frozenset((pair.image_a, pair.image_b)) for pair in pairs} if images is None else set()
        for a, b in _matched(taken, known, rng, name):
            rows.append(SemanticPair(pair_id_of(a, b), name, a, b, provenance="random-same-class"))
    return rows


_TWINS: dict[TwinKind, Callable[[PairTable, int, ImageSource | None], list[SemanticPair]]] = {
    "augmented": _augmented,
    "all-images": _all_images,
    "random-same-class": _random,
}
TWINS: tuple[PairForm, ...] = tuple(_TWINS)


def _images_by_class(pool: ImageSource) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for index in range(len(pool)):
        label = pool.label(index)
        if label is not None:
            found.setdefault(pool.class_names[label], []).append(pool.key(index))
    return found


def _draw_images(images: Sequence[str], count: int, rng: np.random.Generator, name: str) -> list[str]:
    """``count`` images, none taken again before all were."""
    if len(images) < 2:
        raise InvalidOption(f"class {name} has {len(images)} images in the pool; give one with at least two")
    rounds = [rng.permutation(len(images)) for _ in range(-(-count // len(images)))]
    return [images[i] for i in np.concatenate(rounds)[:count]]


def _matched(
    images: Sequence[str], known: set[frozenset[str]], rng: np.random.Generator, name: str
) -> list[tuple[str, str]]:
    """Every image with another one, at random: none with itself, no pair of ``known``, none twice."""
    order = [images[i] for i in rng.permutation(len(images))]
    half = len(order) // 2
    left, right = order[:half], order[half:]
    for _ in range(_TRIES):
        bad = _bad_rows(left, right, known)
        if not bad:
            return list(zip(left, right, strict=True))
        for row in bad:
            other = int(rng.integers(half))
            right[row], right[other] = right[other], right[row]
    raise InvalidOption(
        f"the {len(set(images))} images of class {name} cannot be paired anew at random; give a pool of more images"
    )


def _bad_rows(left: Sequence[str], right: Sequence[str], known: set[frozenset[str]]) -> list[int]:
    seen, bad = set(known), []
    for row, ends in enumerate(map(frozenset, zip(left, right, strict=True))):
        if len(ends) < 2 or ends in seen:
            bad.append(row)
        seen.add(ends)
    return bad
