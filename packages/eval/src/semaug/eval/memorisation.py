"""Whether a generator repeats its training set: how near its samples lie to it, against unseen real rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semaug.eval.errors import EvaluationError
from semaug.eval.measures import Measure

COPY = 1e-5
"""Nearer than this share of the training set's spread (root mean square distance from its mean) counts as a copy."""


@dataclass(frozen=True, slots=True)
class Memorisation:
    """Median distances to the nearest training row: of ``generated`` rows and of real ``held_out`` rows.

    ``closer`` is the share of generated rows nearer to the training set than the median held-out row is (a half where
    both are alike), ``copies`` the share that repeats a training row.
    """

    generated: float
    held_out: float
    closer: float
    copies: float
    n: int

    @property
    def ratio(self) -> float | None:
        """Generated over held-out distance: well below 1 where training rows are repeated; None for 0 / 0."""
        return self.generated / self.held_out if self.held_out else None

    def __iter__(self) -> Iterator[Measure]:
        yield Measure("nearest_training/generated", self.generated, self.n)
        yield Measure("nearest_training/held_out", self.held_out, self.n)
        yield Measure("nearest_training/ratio", self.ratio, self.n, "held-out rows lie in the training set")
        yield Measure("nearest_training/closer", self.closer, self.n)
        yield Measure("nearest_training/copies", self.copies, self.n)


def measure_memorisation(
    train: NDArray[np.float32], held_out: NDArray[np.float32], generated: NDArray[np.float32]
) -> Memorisation:
    """Compare ``generated`` (m, d) and real rows ``held_out`` (h, d) with the rows trained on, ``train`` (n, d).

    Raises ``EvaluationError`` for empty or non-finite sets and widths that differ.
    """
    for name, rows in (("training", train), ("held-out", held_out), ("generated", generated)):
        if not len(rows) or rows.shape[1] != train.shape[1] or not np.isfinite(rows).all():
            raise EvaluationError(
                f"{name} rows {rows.shape} beside training rows {train.shape}; give finite rows of one width"
            )
    near, real = nearest_training(train, generated), nearest_training(train, held_out)
    middle = float(np.median(real))
    copies = float((near <= COPY * float(np.sqrt(train.var(axis=0, dtype=np.float64).sum()))).mean())
    return Memorisation(float(np.median(near)), middle, float((near < middle).mean()), copies, len(generated))


def nearest_training(train: NDArray[np.float32], rows: NDArray[np.float32], chunk: int = 4096) -> NDArray[np.float64]:
    """Euclidean distance of each of ``rows`` (m, d) to its nearest row of ``train`` (n, d): float64 (m,).

    >>> nearest_training(np.float32([[0, 0], [3, 0]]), np.float32([[3, 4]])).tolist()
    [4.0]
    """
    from sklearn.metrics import pairwise_distances_argmin

    found = np.empty(len(rows))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        nearest = train[pairwise_distances_argmin(part, train)]
        found[start : start + chunk] = np.linalg.norm(part.astype(np.float64) - nearest, axis=1)
    return found
