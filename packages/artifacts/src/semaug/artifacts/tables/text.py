"""Tables as text: CSV and TSV, gzipped or not, with a header."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import SourceError
from semaug.artifacts.tables.checks import some
from semaug.artifacts.tables.raw import RawTable
from semaug.artifacts.tables.table import numbered

KEY_COLUMNS = ("", "key", "cell_id", "obs_names", "index", "barcode")
"""Headers of a first column that holds the names of the rows."""
UNREADABLE = (OSError, UnicodeDecodeError, csv.Error, EOFError, zlib.error)
"""What reading a damaged file raises."""


def read_text(path: Path, describing: Sequence[str] = (), key: str | None = None) -> RawTable:
    """A table of text. ``describing`` are columns that are no features (labels and the like), ``key`` the rows' names.

    Without ``key`` a first column without header, or called key, cell_id, obs_names, index or barcode, is taken; an
    empty ``key`` is the first column. An empty cell is a missing value. Raises ``SourceError`` for columns of text that
    are not named, naming them.
    """
    delimiter = "\t" if ".tsv" in path.suffixes[-2:] else ","
    header, first = _head(path, delimiter)
    key = header[0] if key == "" else key
    key = key if key is not None else (header[0] if header[0].strip().lower() in KEY_COLUMNS else None)
    others = list(dict.fromkeys([*describing, *([] if key is None else [key])]))
    for name in others:
        if name not in header:
            raise SourceError(f"{path} has no column {name!r}; it has {some(header, 20)}")
    columns = [i for i, name in enumerate(header) if name not in others]
    _refuse_text(path, header, first, columns)
    texts = _texts(path, delimiter, [header.index(name) for name in others], len(header))
    numbers = _numbers(path, delimiter, columns)
    obs = {name: _typed(values) for name, values in zip(others, texts, strict=True)}
    keys = numbered(len(numbers)) if key is None else tuple(str(k) for k in texts[others.index(key)])
    obs = {name: values for name, values in obs.items() if name != key}
    return RawTable(str(path), keys, [header[i] for i in columns], lambda a, b: numbers[a:b], obs)


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return cast("IO[str]", gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return open(path, encoding="utf-8-sig", newline="")


def _head(path: Path, delimiter: str) -> tuple[list[str], list[str]]:
    """Header and first row."""
    try:
        with _open(path) as file:
            rows = csv.reader(file, delimiter=delimiter)
            header, first = next(rows, []), next(rows, [])
    except UNREADABLE as error:
        raise SourceError(f"cannot read {path}: {error}; save it as UTF-8 text") from error
    if not header or not first:
        raise SourceError(f"{path} holds no rows; a table is a header and at least one row below it")
    if all(_is_number(cell) for cell in header):
        raise SourceError(f"{path} begins with numbers ({some(header, 3)}); add a header that names its columns")
    return header, first


def _refuse_text(path: Path, header: Sequence[str], first: Sequence[str], columns: Sequence[int]) -> None:
    if len(first) != len(header):
        raise SourceError(f"{path}: row 1 has {len(first)} cells and the header {len(header)}; repair the file")
    texts = [header[i] for i in columns if first[i].strip() and not _is_number(first[i])]
    if texts:
        held = first[header.index(texts[0])]
        raise SourceError(
            f"{path}: {len(texts)} columns hold text ({some(texts)}; {held!r} for one); name them in obs=... so that "
            "they describe rows, or one of them in label=... or key=..."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(path: Path, delimiter: str, columns: Sequence[int]) -> NDArray[np.float32]:
    if not columns:
        raise SourceError(f"{path} has no column of numbers besides those that describe rows")
    try:
        with _open(path) as file:
            next(csv.reader(file, delimiter=delimiter))
            lines = _with_nan(file, delimiter)
            return np.loadtxt(
                lines, np.float32, delimiter=delimiter, usecols=columns, ndmin=2, comments=None, quotechar='"'
            )
    except (*UNREADABLE, ValueError) as error:
        raise SourceError(f"cannot read {path}: {error}; name columns of text in obs=..., or repair the row") from error


def _with_nan(file: IO[str], delimiter: str) -> Iterator[str]:
    """The lines, empty cells written as nan."""
    pair = delimiter * 2
    for line in file:
        line = line.rstrip("\r\n")
        if not line:
            continue
        while pair in line:
            line = line.replace(pair, f"{delimiter}nan{delimiter}")
        if line[0] == delimiter:
            line = f"nan{line}"
        yield f"{line}nan" if line[-1] == delimiter else line


def _texts(path: Path, delimiter: str, columns: Sequence[int], width: int) -> list[list[str]]:
    """Columns as text; a second pass, since most tables have few of them."""
    if not columns:
        return []
    found: list[list[str]] = [[] for _ in columns]
    try:
        with _open(path) as file:
            rows = csv.reader(file, delimiter=delimiter)
            next(rows)
            for number, row in enumerate(filter(None, rows), 1):
                if len(row) != width:
                    raise SourceError(
                        f"{path}: row {number} has {len(row)} cells and the header {width}; repair the file"
                    )
                for values, column in zip(found, columns, strict=True):
                    values.append(row[column])
    except UNREADABLE as error:
        raise SourceError(f"cannot read {path}: {error}; save it as UTF-8 text, or repair the file") from error
    return found


def _typed(values: Sequence[str]) -> NDArray[Any]:
    """Numbers where all are."""
    if values and all(_is_number(v) for v in values):
        return np.array([float(v) for v in values])
    return np.array(values, dtype=object)
