"""Tables that are plain arrays: NPY files, mapped and not read, with labels beside them."""

from __future__ import annotations

from pathlib import Path

from semaug.artifacts.errors import SourceError
from semaug.artifacts.tables.labels import load_array
from semaug.artifacts.tables.raw import RawTable
from semaug.artifacts.tables.table import numbered, numbered_columns


def read_npy(path: Path) -> RawTable:
    """A matrix (n, d) of numbers; raises ``SourceError`` for anything else."""
    matrix = load_array(path)
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        raise SourceError(f"{path} has shape {matrix.shape} of {matrix.dtype}; a table is a matrix (n, d) of numbers")
    return RawTable(str(path), numbered(len(matrix)), numbered_columns(matrix.shape[1]), lambda a, b: matrix[a:b])


def labels_beside(path: Path) -> Path | None:
    """The labels of ``cells.npy``: ``cells_labels.npy``, ``cells_label.npy`` or ``labels.npy`` beside it."""
    names = (f"{path.stem}_labels.npy", f"{path.stem}_label.npy", "labels.npy")
    return next((path.with_name(n) for n in names if path.with_name(n).exists()), None)
