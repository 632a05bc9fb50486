"""A table as DiffAug trains on it: its rows, and their mixtures with near rows (see ``samples.Samples``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semaug.artifacts.tables import TableSource
from semaug.diffaug_core.neighbours import NeighbourMixing, NeighbourSettings, kept_nearest_rows, row_hashes


class TableSamples:
    """The rows of a table, float32 (D,) each, with neighbour mixing as the hand-made augmentation.

    Neighbours are found at the first use, among the rows of this table alone; with ``cache``, a folder, they are kept
    there and read again. Raises ``InvalidOption`` where the table has no more rows than neighbours.

    >>> from semaug.artifacts.tables import Table
    >>> samples = TableSamples(Table.of([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), NeighbourSettings(count=1))
    >>> samples.hand(np.array([0]), seed=0, epoch=0, view=0).shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        table: TableSource,
        neighbours: NeighbourSettings = NeighbourSettings(),  # noqa: B008 (frozen)
        *,
        cache: Path | None = None,
    ) -> None:
        self.table, self.neighbours, self.cache = table, neighbours, cache
        held = getattr(table, "features", None)  # all rows, without a copy
        self._rows: NDArray[np.float32] = table.rows(np.arange(len(table))) if held is None else held

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,), the number of columns."""
        return (self._rows.shape[1],)

    @property
    def keys(self) -> Sequence[str]:
        """The names of the rows."""
        return self.table.keys

    @property
    def fingerprint(self) -> str:
        """The table's."""
        return self.table.fingerprint

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that labels index."""
        return self.table.class_names

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The name of every column."""
        return self.table.feature_names

    @property
    def steps(self) -> tuple[str, ...]:
        """The preprocessing that the rows went through."""
        return self.table.steps

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any result must know, such as columns that are constant."""
        return tuple(getattr(self.table, "notes", ()))

    def __len__(self) -> int:
        return len(self._rows)

    def clean(self, indices: NDArray[np.int64]) -> Tensor:
        """The rows themselves: float32 (B, D)."""
        return torch.from_numpy(self._rows[indices])

    def hand(self, indices: NDArray[np.int64], *, seed: int, epoch: int, view: int) -> Tensor:
        """The rows mixed with near rows: float32 (B, D), a function of the arguments and the rows' keys."""
        return torch.from_numpy(self.mixing.mix(indices, seed=seed, epoch=epoch, view=view))

    def label(self, index: int) -> int | None:
        """The class of one row."""
        return self.table.label(index)

    @cached_property
    def mixing(self) -> NeighbourMixing:
        """The augmentation, its neighbours found."""
        found = kept_nearest_rows(self._rows, self.fingerprint, self.neighbours, self.cache)
        return NeighbourMixing(self._rows, found, row_hashes(self.keys))

    def settings(self) -> dict[str, Any]:
        """What decides the augmentation, as plain values."""
        return {"neighbours": self.neighbours.count, "components": self.neighbours.components}
