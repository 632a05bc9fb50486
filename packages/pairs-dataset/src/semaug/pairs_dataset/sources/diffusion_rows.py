"""Pairs `diffusion` of a table: a row against one that DiffAug generated of it (DiffAug, spec S4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semaug.artifacts.augment_table import AugmentTable
from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.tables import TableSource
from semaug.pairs_dataset.sources.diffusion import REAL, PositiveUse, plan_positives
from semaug.pairs_dataset.sources.rows import VIEWS, RowBatch, RowPairs, RowViews


class DiffusionRowPairs(RowPairs):
    """View 1 is the hand-made view of a row, view 2 a generated positive of it, or hand-made too, as ``use`` says.

    Hand-made views are those of ``RowPairs``: ``alpha`` 0 is plain training bit for bit. A positive is shown as it is:
    neighbour mixing is for rows that have neighbours. Rows without positives are left out; the index of an item is the
    row's number in ``source``. ``positives`` are the artifact's. Raises ``InvalidOption`` for the use `mixed`,
    ``ArtifactError`` for positives of another table or of images, ``NoPairs`` where no row has any.
    """

    def __init__(
        self,
        source: TableSource,
        views: RowViews,
        positives: AugmentTable,
        use: PositiveUse,
        *,
        seed: int,
        config: dict[str, Any] | None = None,
    ) -> None:
        described = {"pairs": "diffusion", "positives": use.usage, "alpha": use.alpha, "k": use.k}
        super().__init__(source, views, seed=seed, config={**(config or {}), **described})
        if use.usage == "mixed":
            raise InvalidOption("positives 'mixed' need augmented views of positives; for rows take drawn or enlarged")
        self.positives, self.use, self.made = positives, use, positives.require_rows()
        width = source.rows([0]).shape[1]
        if self.made.features != width:
            raise InvalidOption(
                f"{self.made.spec} holds rows of {self.made.features} columns, {source.spec} has {width}; "
                "generate positives of this table"
            )
        self.rows, self.first = plan_positives(source, np.arange(len(source)), positives)

    def __len__(self) -> int:
        return len(self.rows) * self.use.copies

    def inputs(self) -> dict[str, str]:
        """Fingerprints of the table and of the positives."""
        return super().inputs() | {"augment": self.positives.digest}

    def number(self, item: int) -> int:
        """The positive that ``item`` shows in this epoch: its number from 0, or ``REAL``."""
        copy, position = divmod(self._checked(item), len(self.rows))
        return self.use.number(self.seed, self.epoch, self.source.key(int(self.rows[position])), copy)

    def __getitems__(self, items: Sequence[int]) -> RowBatch:
        """A batch whose views are drawn together (``torch.utils.data`` calls this by itself)."""
        places = np.array([self._checked(item) for item in items], np.int64)
        copies, positions = np.divmod(places, len(self.rows))
        numbers = np.array([self.number(item) for item in places.tolist()], np.int64)
        views = [self._hand(self.rows[positions], copies, view) for view in range(VIEWS)]
        if (made := np.flatnonzero(numbers != REAL)).size:
            found = self.made.take(self.first[positions[made]] + numbers[made])
            views[1] = views[1].index_copy(0, torch.from_numpy(made), torch.from_numpy(found))
        return RowBatch(views, self.rows[positions])

    def _hand(self, rows: NDArray[np.int64], copies: NDArray[np.int64], view: int) -> Tensor:
        """The hand-made view of rows (B,); copies differ, the first one's are those of ``RowPairs``."""
        if not copies.any():
            return self.views.hand(rows, seed=self.seed, epoch=self.epoch, view=view)
        parts: list[tuple[NDArray[np.int64], Tensor]] = []
        for copy in np.unique(copies).tolist():
            here = np.flatnonzero(copies == copy)
            seed = self.seed if copy == 0 else draw_key(self.seed, "row copy", 0, "", copy)
            parts.append((here, self.views.hand(rows[here], seed=seed, epoch=self.epoch, view=view)))
        order = np.concatenate([here for here, _ in parts])
        return torch.cat([made for _, made in parts])[torch.from_numpy(np.argsort(order))]
