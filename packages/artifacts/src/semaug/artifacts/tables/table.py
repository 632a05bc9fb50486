"""A table in memory: what ``open_table`` returns, and what tests and notebooks make of their own arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semaug.artifacts.errors import SourceError
from semaug.artifacts.sources.base import content_hash, fingerprint_of
from semaug.artifacts.tables.checks import refuse_twice


@dataclass(frozen=True)
class Table:
    """Rows of numbers held in memory (see ``TableSource``).

    ``features`` is float32 (n, d), ``labels`` int64 (n,) with -1 for none. ``notes`` say what a reader of any result
    must know, such as genes that are constant. Raises ``SourceError`` where the parts do not fit.

    >>> table = Table.of([[0.0, 1.0], [2.0, 3.0]], labels=[1, 0])
    >>> table.key(1), table.rows([1]).tolist(), table.class_names
    ('000001', [[2.0, 3.0]], ('class0', 'class1'))
    """

    features: NDArray[np.float32]
    keys: tuple[str, ...]
    feature_names: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] = ()
    obs: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    spec: str = "memory:"

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.features.dtype != np.float32 or 0 in self.features.shape:
            raise SourceError(
                f"{self.spec}: features are {self.features.dtype} of shape {self.features.shape}, expected float32 "
                "(n, d) with at least one row and one column"
            )
        counts = {"keys": len(self.keys), "labels": len(self.labels), **{k: len(v) for k, v in self.obs.items()}}
        for what, count in counts.items():
            if count != len(self.features):
                raise SourceError(f"{self.spec}: {count} {what} for {len(self.features)} rows; give one each")
        if len(self.feature_names) != self.features.shape[1]:
            raise SourceError(
                f"{self.spec}: {len(self.feature_names)} names for {self.features.shape[1]} columns; give one each"
            )
        refuse_twice(self.spec, "row", self.keys)
        refuse_twice(self.spec, "column", self.feature_names)
        if self.labels.max(initial=-1) >= len(self.class_names):
            raise SourceError(
                f"{self.spec}: label {self.labels.max()} has no name among {len(self.class_names)} class_names; add it"
            )

    @classmethod
    def of(
        cls,
        features: ArrayLike,
        *,
        labels: Sequence[int] | NDArray[np.integer] | None = None,
        keys: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        class_names: Sequence[str] = (),
    ) -> Table:
        """A table of any array of numbers (n, d); names are counted up where none are given."""
        numbers = np.ascontiguousarray(features, np.float32)
        n, width = numbers.shape if numbers.ndim == 2 else (len(numbers), 0)
        codes = np.full(n, -1, np.int64) if labels is None else np.asarray(labels, np.int64)
        classes = tuple(class_names) or tuple(f"class{i}" for i in range(codes.max(initial=-1) + 1))
        return cls(
            numbers,
            numbered(n) if keys is None else tuple(keys),
            numbered_columns(width) if feature_names is None else tuple(feature_names),
            codes,
            classes,
        )

    def __len__(self) -> int:
        return len(self.features)

    def key(self, index: int) -> str:
        """The name of one row."""
        return self.keys[index]

    def label(self, index: int) -> int | None:
        """The class of one row, or None."""
        return None if self.labels[index] < 0 else int(self.labels[index])

    def rows(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Some rows: float32, shape (len(indices), d)."""
        return self.features[np.asarray(indices, np.int64)]

    def take(self, indices: ArrayLike) -> Table:
        """The table of some rows, in the order given."""
        chosen = np.asarray(indices, np.int64)
        return Table(
            self.features[chosen],
            tuple(self.keys[i] for i in chosen),
            self.feature_names,
            self.labels[chosen],
            self.class_names,
            {name: values[chosen] for name, values in self.obs.items()},
            self.steps,
            self.notes,
            self.spec,
        )

    @cached_property
    def fingerprint(self) -> str:
        """blake2b over the sorted (key, content hash of the row) pairs, 32 hex digits; computed at first use."""
        rows = np.ascontiguousarray(self.features)
        return fingerprint_of((key, content_hash(row.tobytes())) for key, row in zip(self.keys, rows, strict=True))

    def describe(self) -> dict[str, Any]:
        """Size, classes, preprocessing and fingerprint as plain values."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names)).tolist()
        return {
            "spec": self.spec,
            "rows": len(self),
            "features": len(self.feature_names),
            "first_key": self.keys[0],
            "first_features": list(self.feature_names[:5]),
            "classes": len(self.class_names),
            "class_names": list(self.class_names[:20]),
            "unlabelled": int((self.labels < 0).sum()),
            "rows_per_class": [min(counts), max(counts)] if counts else [],
            "obs": sorted(self.obs),
            "steps": list(self.steps),
            "fingerprint": self.fingerprint,
            "range": [float(self.features.min()), float(self.features.max())],
            "notes": list(self.notes),
        }


def numbered(count: int) -> tuple[str, ...]:
    """Names of rows that have none."""
    return tuple(f"{i:06d}" for i in range(count))


def numbered_columns(count: int) -> tuple[str, ...]:
    """Names of columns that have none."""
    return tuple(f"x{i}" for i in range(count))


def names_digest(names: Sequence[str]) -> str:
    """What identifies the columns of a table and their order, 16 hex digits."""
    return hashlib.blake2b(json.dumps(list(names)).encode(), digest_size=8).hexdigest()
