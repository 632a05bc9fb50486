"""A CSV or Parquet list of images: a column ``path`` and, where there are labels, a column ``label``."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from semaug.artifacts.errors import MissingDependency, SourceError
from semaug.artifacts.sources.base import clean_key, require_unique
from semaug.artifacts.sources.files import FileSource
from semaug.artifacts.tables.checks import refuse_bomb

PATH, LABEL = "path", "label"


def open_table(table: str | os.PathLike[str]) -> FileSource:
    """The images a list names, in its order.

    Relative paths start at the list's own folder. Keys are relative to that folder, or, where some image lies outside
    it, to the deepest folder that holds them all. Labels may be names or numbers; an empty one means none. Raises
    ``SourceError`` for a list without ``path`` or without rows, and for a path given twice.
    """
    table = Path(table).resolve()
    paths, labels = _read_parquet(table) if table.suffix.lower() == ".parquet" else _read_csv(table)
    if not paths:
        raise SourceError(f"{table} lists no images; add rows below the header")
    full = [os.path.normpath(table.parent / path) for path in paths]
    root = _root(table.parent, full)
    names = [PurePath(os.path.relpath(path, root)).as_posix() for path in full]
    keys = [clean_key(name) for name in names]
    require_unique(keys, names, str(table))
    class_names = _class_names(labels)
    number = {name: i for i, name in enumerate(class_names)}
    codes = [number.get(label, -1) for label in labels]
    return FileSource(str(table), root, names, keys, codes, class_names)


def _root(folder: Path, paths: Sequence[str]) -> Path:
    if all(PurePath(path).is_relative_to(folder) for path in paths):
        return folder
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths]))


def _class_names(labels: Sequence[str]) -> list[str]:
    found = {label for label in labels if label}
    return sorted(found, key=int) if all(label.isdecimal() for label in found) else sorted(found)


def _read_csv(table: Path) -> tuple[list[str], list[str]]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            _require_path(table, rows.fieldnames or ())
            pairs = [(row[PATH] or "", (row.get(LABEL) or "").strip()) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"cannot read {table}: {error}; save it as UTF-8 CSV") from error
    return _checked(table, pairs)


def _read_parquet(table: Path) -> tuple[list[str], list[str]]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingDependency("Parquet lists need pyarrow; pip install 'semaug-artifacts[parquet]'") from error
    try:
        file = parquet.ParquetFile(table)
        found = list(file.schema_arrow.names)
        refuse_bomb(table, file.metadata.num_rows, 1)
        columns: dict[str, list[Any]] = file.read([n for n in (PATH, LABEL) if n in found]).to_pydict()
    except (OSError, ValueError, LookupError, arrow.ArrowException) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"cannot read {table}: {' '.join(str(error).split())[:200]}; write it again") from error
    _require_path(table, found)
    paths = ["" if p is None else str(p) for p in columns[PATH]]
    labels = ["" if v is None else str(v) for v in columns.get(LABEL, [None] * len(paths))]
    return _checked(table, list(zip(paths, labels, strict=True)))


def _require_path(table: Path, found: Sequence[str]) -> None:
    if PATH not in found:
        there = ", ".join(name[:40] for name in found[:20]) or "(none)"
        raise SourceError(f"{table} has the columns {there}; a column {PATH!r} is needed")


def _checked(table: Path, pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    for row, (path, _) in enumerate(pairs, 1):
        if not path:
            raise SourceError(f"{table}: row {row} has no {PATH}; fill it in or remove the row")
    return [path for path, _ in pairs], [label for _, label in pairs]
