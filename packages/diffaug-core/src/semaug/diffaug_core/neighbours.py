"""Hand-made augmentation of rows: a row is mixed with one of its nearest neighbours (DiffAug, spec S4.3)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import draw_key, uniform_rows
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.files import write_atomic
from semaug.artifacts.tables import principal_components

EXACT_ROWS = 30_000
"""Up to here neighbours are exact; beyond they are pynndescent's, where it is installed."""
_BLOCK_CELLS = 1 << 23  # distances held at a time


@dataclass(frozen=True, slots=True)
class NeighbourSettings:
    """How neighbours are found: ``count`` of them (5 by default; 500 for Gast), among the first ``components``
    principal components (None: all columns as they are; also where there are no more columns than that).
    """

    count: int = 5
    components: int | None = 50

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidOption(f"{self.count} neighbours; give at least 1")
        if self.components is not None and self.components < 1:
            raise InvalidOption(f"{self.components} principal components; give at least 1, or none for all columns")


def nearest_rows(
    rows: NDArray[np.float32],
    settings: NeighbourSettings = NeighbourSettings(),
    *,
    seed: int = 0,
) -> NDArray[np.int32]:
    """The nearest other rows of every row (n, d) by Euclidean distance, nearest first: int32 (n, count).

    Exact up to ``EXACT_ROWS`` rows, ties going to the smaller index; beyond it is pynndescent's approximation, where
    that is installed. A row that occurs twice has its copy as a neighbour, never itself. Raises ``InvalidOption`` where
    there are not more rows than neighbours.
    """
    if len(rows) <= settings.count:
        raise InvalidOption(
            f"{settings.count} neighbours among {len(rows)} rows; give at most {len(rows) - 1}, or more rows"
        )
    reduced = _reduced(rows, settings.components)
    if len(rows) > EXACT_ROWS and find_spec("pynndescent"):
        return _approximate(reduced, settings.count, seed)
    return _exact(reduced, settings.count)


def _reduced(rows: NDArray[np.float32], components: int | None) -> NDArray[np.float32]:
    count = min(components or rows.shape[1], rows.shape[1], len(rows) - 1)
    if components is None or count == rows.shape[1]:
        return rows
    found = principal_components(lambda: (rows[i : i + 4096] for i in range(0, len(rows), 4096)), count)
    return found.apply(rows)


def _exact(rows: NDArray[np.float32], count: int) -> NDArray[np.int32]:
    centred = rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.square(centred).sum(axis=1)
    found = np.empty((len(rows), count), np.int32)
    step = max(1, _BLOCK_CELLS // len(rows))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        apart = squares[None, :] - 2 * (centred[block] @ centred.T)
        apart[np.arange(len(apart)), np.arange(start, start + len(apart))] = np.inf
        found[block] = _smallest(apart, count)
    return found


def _smallest(apart: NDArray[np.float32], count: int) -> NDArray[np.int32]:
    """Columns of the smallest values of each row, in their order."""
    few = np.sort(np.argpartition(apart, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(np.take_along_axis(apart, few, axis=1), axis=1, kind="stable")
    return np.take_along_axis(few, order, axis=1).astype(np.int32)


def _approximate(rows: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int32]:
    from pynndescent import NNDescent

    index = NNDescent(rows, n_neighbors=count + 1, random_state=seed, low_memory=False)
    found = index.neighbor_graph[0]
    others = np.where(found == np.arange(len(rows))[:, None], -1, found)
    order = np.argsort(others < 0, axis=1, kind="stable")  # the row itself goes last
    return np.take_along_axis(others, order, axis=1)[:, :count].astype(np.int32)


def kept_nearest_rows(
    rows: NDArray[np.float32], fingerprint: str, settings: NeighbourSettings, folder: Path | None
) -> NDArray[np.int32]:
    """``nearest_rows``, read again from a file in ``folder`` that is named after the rows and settings."""
    if folder is None:
        return nearest_rows(rows, settings)
    identity = f"{fingerprint} {settings.count} {settings.components}"
    path = folder / f"neighbours-{hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()}.npy"
    try:
        found = np.load(path, allow_pickle=False)
        if found.shape == (len(rows), settings.count) and found.dtype == np.int32:
            return found
    except (OSError, ValueError, EOFError):  # not there yet, or damaged
        pass
    found = nearest_rows(rows, settings)
    buffer = BytesIO()
    np.save(buffer, found)
    os.makedirs(folder, exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return found


def row_hashes(keys: Sequence[str]) -> NDArray[np.uint64]:
    """What tells the draws of rows apart: 8 bytes of the blake2b of every key, uint64 (n,)."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


@dataclass(frozen=True, slots=True)
class NeighbourMixing:
    """x' = u x + (1 - u) x_nn with u ~ U(0, 1) and x_nn one of the nearest rows, all equally likely.

    ``rows`` float32 (n, d), ``neighbours`` int32 (n, k) indices into them, ``hashes`` uint64 (n,) of their keys.
    """

    rows: NDArray[np.float32]
    neighbours: NDArray[np.int32]
    hashes: NDArray[np.uint64]

    def draws(self, indices: NDArray[np.int64], *, seed: int, epoch: int, view: int) -> NDArray[np.float64]:
        """u and a second uniform that picks the neighbour: float64 (b, 2), a function of the rows' keys alone."""
        common = np.uint64(draw_key(seed, "neighbour-mixing", epoch, "", view=view))
        return uniform_rows(self.hashes[indices] ^ common, 2)

    def mix(self, indices: NDArray[np.int64], *, seed: int, epoch: int, view: int) -> NDArray[np.float32]:
        """Rows ``indices`` augmented: float32 (b, d)."""
        numbers = self.draws(indices, seed=seed, epoch=epoch, view=view)
        width = self.neighbours.shape[1]
        picked = np.minimum((numbers[:, 1] * width).astype(np.int64), width - 1)
        own, other = self.rows[indices], self.rows[self.neighbours[indices, picked]]
        own -= other
        own *= numbers[:, :1].astype(np.float32)
        own += other
        return own
