"""Positive pairs of rows of a table: two views of one row (SimCLR and BYOL on cells, DiffAug Fig. 3 and Table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.tables import TableSource
from semaug.pairs_dataset.errors import NoPairs

VIEWS = 2


class RowViews(Protocol):
    """What makes views of rows: a pure function of its arguments, so that any process draws the same."""

    def hand(self, indices: NDArray[np.int64], *, seed: int, epoch: int, view: int) -> Tensor:
        """View ``view`` of rows ``indices`` in an epoch: float32 (B, D)."""
        ...


class RowBatch(Sequence[tuple[Any, ...]]):
    """A batch of items (view, view, ..., index), cut out of ``views``, float32 (B, D) each, only when asked for.

    ``rows`` int64 (B,) are the indices.
    """

    def __init__(self, views: Sequence[Tensor], rows: NDArray[np.int64]) -> None:
        self.views, self.rows = views, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, item: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, item: slice) -> RowBatch: ...
    def __getitem__(self, item: int | slice) -> tuple[Any, ...] | RowBatch:
        if isinstance(item, slice):
            return RowBatch([view[item] for view in self.views], self.rows[item])
        return (*(view[item] for view in self.views), int(self.rows[item]))


def collate_rows(batch: Sequence[tuple[Any, ...]]) -> tuple[Tensor, ...]:
    """``collate_fn`` that hands a ``RowBatch`` on without copying: view 1, view 2 (B, D), index int64 (B,)."""
    if not isinstance(batch, RowBatch):  # a loader that fetches item by item
        return tuple(torch.utils.data.default_collate(list(batch)))
    return (*batch.views, torch.from_numpy(batch.rows))


class RowPairs(Dataset[tuple[Any, ...]]):
    """Two views of one row an item: ``(view_1, view_2, index)``, views float32 (D,), index into ``source``.

    ``source`` names the rows and ``views`` augments them. A map-style Dataset as ``PairSource`` is: an item depends on
    nothing but (seed, epoch, row), so it works with any number of workers and ranks. Call ``set_epoch`` before each
    epoch. Raises ``NoPairs`` for a table of one row.

    >>> from semaug.artifacts.tables import Table
    >>> class Doubled:
    ...     def hand(self, indices, *, seed, epoch, view):
    ...         return torch.from_numpy(indices).float()[:, None] * (view + 1)
    >>> view_1, view_2, index = RowPairs(Table.of([[0.0], [1.0]]), Doubled(), seed=0)[1]
    >>> view_1.item(), view_2.item(), index
    (1.0, 2.0, 1)
    """

    pairing: tuple[tuple[int, int], ...] = ()
    """Which views of an item are positives, where the source and not the method says it (``Method.pairing``)."""
    collate = staticmethod(collate_rows)

    def __init__(
        self, source: TableSource, views: RowViews, *, seed: int, config: dict[str, Any] | None = None
    ) -> None:
        if len(source) < 2:
            raise NoPairs(f"{source.spec} has {len(source)} row; give at least 2 to make pairs of")
        self.source, self.views, self.seed = source, views, seed
        self.config = {"pairs": "rows", "seed": seed, **(config or {})}
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        """Draw the views of this epoch from now on, in every worker."""
        self._epoch[0] = epoch

    @property
    def epoch(self) -> int:
        """The epoch whose views are drawn."""
        return int(self._epoch[0])

    def inputs(self) -> dict[str, str]:
        """The fingerprint of the table."""
        return {"source": self.source.fingerprint}

    def __getitem__(self, item: int) -> tuple[Any, ...]:
        """One pair."""
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> RowBatch:
        """A batch whose views are drawn together (``torch.utils.data`` calls this by itself)."""
        rows = np.array([self._checked(item) for item in items], np.int64)
        views = [self.views.hand(rows, seed=self.seed, epoch=self.epoch, view=view) for view in range(VIEWS)]
        return RowBatch(views, rows)

    def _checked(self, item: int) -> int:
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} of {len(self)} pairs")
        return item % len(self)


def refuse_image_options(options: dict[str, Any]) -> None:
    """Refuse options that views of images alone have; raises ``InvalidOption`` naming them."""
    if options:
        named = ", ".join("--" + name.replace("_", "-") for name in options)
        raise InvalidOption(f"{named}: for views of images, and this run reads rows of a table; leave it out")
