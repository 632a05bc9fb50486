"""The contract of a table: rows of numbers (cells), what describes them, and their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray


@runtime_checkable
class TableSource(Protocol):
    """A read-only table of rows (cells) by features (genes, proteins, principal components).

    Labels serve evaluation and the ablations that say so; training never sees them.
    """

    @property
    def spec(self) -> str:
        """What ``open_table`` makes this table from again, in another process too."""
        ...

    @property
    def fingerprint(self) -> str:
        """blake2b over the sorted (key, content hash of the row) pairs, 32 hex digits."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """The name of every row (``obs_names``), each once."""
        ...

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The name of every column, each once."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every row, shape (n,), -1 where there is none."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that labels index; empty without labels."""
        ...

    @property
    def obs(self) -> Mapping[str, NDArray[Any]]:
        """What else is known of the rows: columns of shape (n,)."""
        ...

    @property
    def steps(self) -> tuple[str, ...]:
        """The preprocessing that its numbers went through, in order."""
        ...

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The name of one row."""
        ...

    def label(self, index: int) -> int | None:
        """The class of one row, or None."""
        ...

    def rows(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Some rows: float32, shape (len(indices), features)."""
        ...
