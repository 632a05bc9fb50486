"""Labels that lie in a file of their own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import SourceError


def load_array(path: Path) -> NDArray[Any]:
    """An array of an NPY file, mapped into memory; never unpickled. Raises ``SourceError``."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it is an archive of several arrays")
        return found
    except Exception as error:  # numpy reads a header as Python's own parser does, and raises what that raises
        raise SourceError(f"cannot read {path}: {error}; save it again with numpy.save, as plain numbers") from error


def read_labels(path: Path, rows: int) -> NDArray[Any]:
    """Labels shape (rows,): an NPY file, the last column of a CSV or TSV with a header, or text of one a line.

    Raises ``SourceError``, also where there are more or fewer.
    """
    if path.suffix == ".npy":
        found = np.asarray(load_array(path))
    else:
        found = np.array(_read_text(path), dtype=object)
    found = found.reshape(-1) if found.ndim == 2 and 1 in found.shape else found
    if found.shape != (rows,):
        raise SourceError(f"{path} holds labels of shape {found.shape} for {rows} rows; give one a row")
    return found


def _read_text(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() not in (".csv", ".tsv"):
                return file.read().splitlines()
            rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            next(rows, None)
            return [row[-1] for row in rows if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"cannot read {path}: {error}; give one label a row as UTF-8 text, or an NPY file") from error
