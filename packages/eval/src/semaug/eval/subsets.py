"""Parts of a labelled set: stratified shares, and test images that also lie in the training set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.eval.errors import EvaluationError
from semaug.eval.splits import LabelledPair

MEMORY = "lie in the training set: their share of the score is memory"
COLLAPSED = "all training features are the same: the encoder has collapsed"
_ROUNDING = 1e-5
"""Features of one image that differ by a smaller share of their length differ by the batch they were computed in."""


def stratified_subset(
    labels: NDArray[np.int64], share: float, seed: int = 0, *, draw: int = 0, purpose: str = "stratified-subset"
) -> NDArray[np.intp]:
    """Rows of a seeded share of each class, sorted: ``round(share * count)`` of a class, and at least one.

    ``draw`` numbers independent subsets of one seed; a smaller share of the same draw lies within a larger one.
    ``labels`` is int64 (n,) without -1. Raises ``EvaluationError`` for a share outside (0, 1].

    >>> stratified_subset(np.asarray([0] * 10 + [1] * 3), 0.2).shape
    (3,)
    """
    if not 0 < share <= 1:
        raise EvaluationError(f"a share of {share}; give one above 0 and at most 1, such as 0.01")
    rng = generator(seed, purpose, epoch=draw)
    chosen = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: subset_count(len(rows), share)])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.intp)


def subset_count(images: int, share: float) -> int:
    """How many of a class's images a share takes: the nearest whole number (halves up), and at least one.

    >>> subset_count(500, 0.01), subset_count(250, 0.01), subset_count(20, 0.01)
    (5, 3, 1)
    """
    return max(1, int(share * images + 0.5 + 1e-9))


def overlap_warning(pair: LabelledPair) -> tuple[str, ...]:
    """A warning where test images lie in the training set under whatever key: features equal up to rounding.

    Where all training features are the same, equal features tell nothing, and the warning says so instead.
    """
    if all_equal(pair.train.features):
        return (COLLAPSED,)
    shared = int(copied_rows(pair.train.features, pair.test.features).sum())
    return (f"{shared} of {len(pair.test)} test images {MEMORY}",) if shared else ()


def copied_rows(train: NDArray[np.float32], test: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Bool (m,): test rows (m, d) that equal some training row (n, d) up to rounding; rows of zeros never do.

    Equal rows lie close on any line, so candidates come from a sorted projection and are then compared whole.

    >>> train = np.eye(3, dtype=np.float32)
    >>> copied_rows(train, train[[2, 0]] * np.float32([[1], [2]])).tolist()
    [True, False]
    """
    drawn = generator(0, "copied-rows").standard_normal(train.shape[1])
    line = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    places = train @ line
    order = np.argsort(places)
    sorted_places, mine, lengths = places[order], test @ line, np.linalg.norm(test, axis=1)
    reach = 2 * _ROUNDING * lengths  # twice: the projections themselves are rounded
    first = np.searchsorted(sorted_places, mine - reach, side="left")
    last = np.searchsorted(sorted_places, mine + reach, side="right")
    found, waiting, offset = np.zeros(len(test), dtype=bool), np.flatnonzero((last > first) & (lengths > 0)), 0
    while len(waiting):
        candidates = train[order[first[waiting] + offset]]
        apart = np.linalg.norm(candidates - test[waiting], axis=1)
        found[waiting[apart <= _ROUNDING * lengths[waiting]]] = True
        offset += 1
        waiting = waiting[~found[waiting] & (first[waiting] + offset < last[waiting])]
    return found


def all_equal(values: NDArray[np.float32], chunk: int = 4096) -> bool:
    """Whether all rows equal the first up to rounding; ends at the first chunk that has another."""
    first = np.asarray(values[0])
    limit = _ROUNDING * np.linalg.norm(first)
    starts = range(0, len(values), chunk)
    return all((np.linalg.norm(values[s : s + chunk] - first, axis=1) <= limit).all() for s in starts)
