"""What tables are refused for, each in one line that names the rows or columns and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import SourceError

FREE_CELLS = 1 << 22
CELLS_PER_BYTE = 1000
"""Tables of more than ``FREE_CELLS`` are refused where their files have less than a byte for so many cells: the
sparsest counts of cells have one for about a hundred."""


def some(names: Iterable[str], limit: int = 5) -> str:
    """A few names for a message.

    >>> some(["a", "b", "c"], 2)
    "'a', 'b' and 1 more"
    """
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(repr(str(name)) for name in every[:limit]) + more


def refuse_bomb(path: Path, rows: int, columns: int) -> None:
    """Refuse a file that says it has more cells than its bytes can mean; raises ``SourceError``."""
    size = path.stat().st_size
    if min(rows, columns) < 0 or rows * columns > max(FREE_CELLS, CELLS_PER_BYTE * size):
        raise SourceError(
            f"{path} says it holds {rows:,} rows of {columns:,} columns in {size:,} bytes, over {CELLS_PER_BYTE:,} "
            "cells a byte; write it again"
        )


def refuse_twice(where: str, what: str, names: Sequence[str]) -> None:
    """Refuse a name that two rows or columns have; raises ``SourceError``."""
    if len(set(names)) == len(names):
        return
    seen: set[str] = set()
    twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    remedy = "`adata.obs_names_make_unique()`" if what == "row" else "`adata.var_names_make_unique()`"
    raise SourceError(
        f"{where}: {len(twice)} {what} names occur twice ({some(dict.fromkeys(twice))}); rename them, say by {remedy}"
    )


def require_numbers(where: str, block: NDArray, first: int, keys: Sequence[str], names: Sequence[str]) -> None:
    """Refuse NaN and infinities in rows (n, d) of which ``first`` is the number of the first; ``SourceError``."""
    if np.isfinite(block).all():
        return
    bad = ~np.isfinite(block)
    row, column = (int(v) for v in np.argwhere(bad)[0])
    raise SourceError(
        f"{where}: row {keys[first + row]!r} has {block[row, column]} in column {names[column]!r} ({bad.sum()} such "
        "values nearby); fill missing values with steps=fill, or remove those rows"
    )


def require_same_features(train: Sequence[str], test: Sequence[str], trained: str, tested: str) -> None:
    """Refuse two tables whose columns differ in name or order; raises ``SourceError``."""
    if tuple(train) == tuple(test):
        return
    missing, extra = (sorted(set(a) - set(b)) for a, b in ((train, test), (test, train)))
    if not missing and not extra:
        raise SourceError(f"{tested} has the columns of {trained} in another order; write them in that order")
    found = [f"lacks {some(missing)}"] if missing else []
    found += [f"has {some(extra)} besides"] if extra else []
    raise SourceError(
        f"{tested} has {len(test)} columns and {trained} {len(train)}: it {' and '.join(found)}; "
        "choose common ones with features=..."
    )


def require_classes(where: str, labels: NDArray[np.int64], purpose: str) -> None:
    """Refuse rows without at least two classes; raises ``SourceError``."""
    count = len(np.unique(labels[labels >= 0]))
    if count < 2:
        found = "no labels" if count == 0 else "one class only"
        raise SourceError(f"{where} has {found} and {purpose} needs two or more; name a column with label=...")
