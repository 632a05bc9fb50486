"""Tables in Parquet files, read row group by row group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import MissingDependency, SourceError
from semaug.artifacts.tables.checks import refuse_bomb, some
from semaug.artifacts.tables.raw import RawTable
from semaug.artifacts.tables.table import numbered
from semaug.artifacts.tables.text import KEY_COLUMNS

PANDAS_INDEX = "__index_level_0__"


def read_parquet(path: Path, describing: Sequence[str] = (), key: str | None = None) -> RawTable:
    """Columns of numbers are features, but for those in ``describing``; ``key`` holds the names of the rows.

    Without ``key`` pandas' index is taken, or a first column of text called as ``read_text`` says. Raises
    ``SourceError`` for columns of text that are not named, ``MissingDependency`` without pyarrow.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingDependency("Parquet tables need pyarrow; pip install 'semaug-artifacts[parquet]'") from error
    try:
        file = parquet.ParquetFile(path)
        refuse_bomb(path, file.metadata.num_rows, len(file.schema_arrow.names))
        names = list(file.schema_arrow.names)
        key = key if key is not None else _index(names)
        others = list(dict.fromkeys([*describing, *([] if key is None else [key])]))
        for name in others:
            if name not in names:
                raise SourceError(f"{path} has no column {name!r}; it has {some(names, 20)}")
        features = [n for n in names if n not in others]
        _refuse_text(path, file.schema_arrow, features)
        obs = {n: np.array(file.read([n]).column(0).to_pylist(), object) for n in others}
    except (OSError, arrow.ArrowException) as error:
        raise SourceError(f"cannot read {path}: {' '.join(str(error).split())[:200]}; write it again") from error
    keys = numbered(file.metadata.num_rows) if key is None else tuple(str(k) for k in obs.pop(key))
    return RawTable(str(path), keys, features, _Reader(path, tuple(features)), obs)


def _index(names: Sequence[str]) -> str | None:
    if PANDAS_INDEX in names:
        return PANDAS_INDEX
    return names[0] if names and names[0].strip().lower() in KEY_COLUMNS else None


def _refuse_text(path: Path, schema: Any, features: Sequence[str]) -> None:
    import pyarrow.types as types

    kinds = {name: schema.field(name).type for name in features}
    texts = [
        name
        for name, kind in kinds.items()
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))
    ]
    if texts:
        raise SourceError(
            f"{path}: {len(texts)} columns hold {kinds[texts[0]]}, not numbers ({some(texts)}); name them in obs=... "
            "so that they describe rows, or one of them in label=... or key=..."
        )


class _Reader:
    """Rows of the file; the row group read last is kept."""

    def __init__(self, path: Path, features: tuple[str, ...]) -> None:
        import pyarrow.parquet as parquet

        self.file, self.features = parquet.ParquetFile(path), list(features)
        sizes = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self.ends = np.cumsum(sizes)
        self.group, self.rows = -1, np.zeros((0, len(features)), np.float32)

    def __call__(self, start: int, stop: int) -> NDArray[Any]:
        parts = []
        while start < stop:
            group = int(np.searchsorted(self.ends, start, side="right"))
            rows, first = self._load(group), int(self.ends[group - 1]) if group else 0
            parts.append(rows[start - first : stop - first])
            start = min(stop, int(self.ends[group]))
        return np.concatenate(parts)

    def _load(self, group: int) -> NDArray[np.float32]:
        if group != self.group:
            table = self.file.read_row_group(group, columns=self.features)
            columns = [table.column(name).to_numpy(zero_copy_only=False) for name in self.features]
            self.group, self.rows = group, np.stack([np.asarray(c, np.float32) for c in columns], axis=1)
        return self.rows
