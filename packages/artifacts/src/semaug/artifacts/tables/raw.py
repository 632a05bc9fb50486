"""A table as its file holds it: names, columns that describe rows, and rows read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import SourceError
from semaug.artifacts.tables.checks import refuse_twice, some

Rows = NDArray[np.float32]
BLOCK_BYTES = 32 << 20
"""Most that one block of dense rows takes."""


@dataclass(frozen=True, slots=True)
class RawTable:
    """What a reader of one file format gives.

    ``read(start, stop)`` returns rows ``start`` to ``stop - 1`` dense, float32 (stop - start, columns). ``obs`` holds
    columns of shape (n,) of any dtype.
    """

    where: str
    keys: Sequence[str]
    feature_names: Sequence[str]
    read: Callable[[int, int], NDArray[Any]]
    obs: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.keys or not self.feature_names:
            raise SourceError(
                f"{self.where} holds {len(self.keys)} rows and {len(self.feature_names)} columns of numbers; "
                "a table needs at least one of each"
            )
        refuse_twice(self.where, "row", self.keys)
        refuse_twice(self.where, "column", self.feature_names)

    def blocks(self) -> Iterator[tuple[int, Rows]]:
        """All rows in blocks, each with the number of its first row."""
        step = max(1, BLOCK_BYTES // (4 * len(self.feature_names)))
        for start in range(0, len(self.keys), step):
            yield start, np.asarray(self.read(start, min(start + step, len(self.keys))), np.float32)

    def column(self, name: str) -> NDArray[Any]:
        """A column of ``obs``; raises ``SourceError`` that lists those there are."""
        if name not in self.obs:
            there = some(sorted(self.obs), 20) if self.obs else "(none)"
            raise SourceError(f"{self.where} has no column {name!r} that describes rows; it has {there}")
        return self.obs[name]


def classes_of(where: str, name: str, column: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels int64 (n,), -1 for a missing value, and the names of the classes, sorted (as numbers where they are).

    Raises ``SourceError`` for a column of fractions.
    """
    values = np.asarray(column)
    if values.dtype.kind == "f":
        there = values[np.isfinite(values)]
        if (there != np.round(there)).any():
            raise SourceError(
                f"{where}: column {name!r} holds fractions such as {there[there != np.round(there)][0]:g}; "
                "labels are names or whole numbers"
            )
        texts = ["" if not np.isfinite(v) else str(int(v)) for v in values]
    else:
        texts = ["" if _missing(v) else str(v) for v in values.tolist()]
    names = sorted({t for t in texts if t})
    if all(_is_integer(t) for t in names):
        names.sort(key=int)
    number = {text: i for i, text in enumerate(names)}
    return np.array([number.get(t, -1) for t in texts], np.int64), tuple(names)


def _missing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and value.strip() in ("", "nan", "NA"))


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
