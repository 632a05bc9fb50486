"""Handing results back: an embedding into an AnnData file's ``obsm``, or into a table of its own."""

from __future__ import annotations

import csv
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactMismatch, InvalidOption, OutputError, SourceError
from semaug.artifacts.files import fsync_path, require_space, write_atomic, writing
from semaug.artifacts.tables.checks import refuse_twice, some
from semaug.artifacts.tables.h5ad import obs_names_of, opened

Matrix = NDArray[np.floating[Any]]
FORMATS = (".h5ad", ".csv", ".npy")


@dataclass(frozen=True, slots=True)
class Written:
    """What an embedding was written to: rows that have a value, and rows of the file that have none (NaN there)."""

    path: Path
    rows: int
    without: int


def write_embedding(
    source: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    name: str,
    values: Matrix,
    keys: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
) -> Written:
    """Write an embedding (n, d), whose rows are named by ``keys``, to ``out``; see ``write_embeddings``."""
    return write_embeddings(source, out, {name: values}, keys, overwrite=overwrite)


def write_embeddings(
    source: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    matrices: Mapping[str, Matrix],
    keys: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
) -> Written:
    """Write matrices (n, d), whose rows are named by ``keys`` (None: in the file's order), to ``out``, atomically.

    ``.h5ad``: a copy of the AnnData file ``source`` (or that file itself) with every matrix as ``obsm[name]``, rows in
    the order of its ``obs_names``, NaN where a row has none; the file is copied, not read. ``.csv``: a column ``key``
    and columns ``name_1`` and on; ``.npy``: the one matrix alone. Raises ``ArtifactMismatch`` where ``out`` is there
    already, or holds a matrix of that name, unless ``overwrite``; ``InvalidOption`` for what does not fit,
    ``SourceError`` for rows that the file does not have.
    """
    path, numbers = Path(out), {name: _checked(name, matrix, keys) for name, matrix in matrices.items()}
    if keys is not None:
        refuse_twice(str(path), "row", keys)
    if path.suffix == ".h5ad":
        if source is None or Path(source).suffix != ".h5ad":
            raise InvalidOption(f"{path} is to be an AnnData file and {source} is none; write .csv or .npy")
        return _into_anndata(Path(source), path, numbers, keys, overwrite)
    if path.suffix not in FORMATS:
        raise InvalidOption(f"{path} is of no known kind; write one of {', '.join(FORMATS)}")
    if path.exists() and not overwrite:
        raise ArtifactMismatch(f"{path} is there already; choose another --out, or replace it with --overwrite")
    rows = len(next(iter(numbers.values())))
    write_atomic(path, _npy(path, numbers) if path.suffix == ".npy" else _csv(numbers, keys))
    return Written(path, rows, 0)


def _checked(name: str, values: Matrix, keys: Sequence[str] | None) -> NDArray[np.float32]:
    found = np.asarray(values, np.float32)
    if found.ndim != 2 or (keys is not None and len(found) != len(keys)):
        count = "" if keys is None else f" for {len(keys)} rows"
        raise InvalidOption(f"embedding {name!r} has shape {found.shape}{count}; give a matrix (n, d), one row each")
    return found


def _npy(path: Path, matrices: Mapping[str, NDArray[np.float32]]) -> bytes:
    if len(matrices) != 1:
        raise InvalidOption(f"{path} holds one matrix and {some(matrices)} are {len(matrices)}; write .csv or .h5ad")
    buffer = BytesIO()
    np.save(buffer, next(iter(matrices.values())))
    return buffer.getvalue()


def _csv(matrices: Mapping[str, NDArray[np.float32]], keys: Sequence[str] | None) -> bytes:
    columns = np.concatenate(list(matrices.values()), axis=1)
    header = [f"{name}_{i + 1}" for name, matrix in matrices.items() for i in range(matrix.shape[1])]
    names = [f"{i:06d}" for i in range(len(columns))] if keys is None else keys
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["key", *header])
    rows.writerows([key, *(f"{value:.9g}" for value in row)] for key, row in zip(names, columns.tolist(), strict=True))
    return text.getvalue().encode()


def _into_anndata(
    source: Path, out: Path, matrices: Mapping[str, NDArray[np.float32]], keys: Sequence[str] | None, overwrite: bool
) -> Written:
    if not source.is_file():
        raise SourceError(f"{source} is no file; give the AnnData file that the rows are from")
    same = out.exists() and out.samefile(source)
    if out.exists() and not same and not overwrite:
        raise ArtifactMismatch(f"{out} is there already; choose another --out, or replace it with --overwrite")
    with opened(source) as file:
        modern, held = all(hasattr(file[part], "keys") for part in ("obs", "obsm") if part in file), _obsm_names(file)
    if same and not overwrite and (there := [name for name in matrices if name in held]):
        raise ArtifactMismatch(f"{out} holds obsm[{there[0]!r}] already; replace it with --overwrite, or name another")
    names = obs_names_of(source)
    places = _places(source, names, keys, len(next(iter(matrices.values()))))
    full = {name: _spread(matrix, places, len(names)) for name, matrix in matrices.items()}
    _replaced(source, out, partial(_write_obsm, matrices=full) if modern else partial(_rewrite, source, matrices=full))
    return Written(out, len(places), len(names) - len(places))


def _obsm_names(file: Any) -> list[str]:
    held = file.get("obsm")
    return list(held.keys() if hasattr(held, "keys") else held.dtype.names or ()) if held is not None else []


def _places(source: Path, names: Sequence[str], keys: Sequence[str] | None, count: int) -> NDArray[np.int64]:
    if keys is None:
        if count != len(names):
            raise InvalidOption(f"{source} has {len(names)} rows and the embedding {count}; give the rows' keys")
        return np.arange(count)
    number = {name: i for i, name in enumerate(names)}
    unknown = [key for key in keys if key not in number]
    if unknown:
        raise SourceError(f"{source} has no rows {some(unknown)}; give the AnnData file that the rows are from")
    return np.array([number[key] for key in keys], np.int64)


def _spread(matrix: NDArray[np.float32], places: NDArray[np.int64], rows: int) -> NDArray[np.float32]:
    full = np.full((rows, matrix.shape[1]), np.nan, np.float32)
    full[places] = matrix
    return full


def _replaced(source: Path, out: Path, change: Callable[[Path], None]) -> None:
    """Put a changed copy of ``source`` in the place of ``out``, in one step."""
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        require_space(out.parent, source.stat().st_size, str(out))
        copy = out.with_name(f".{out.name}.{os.getpid()}.partial")
        try:
            shutil.copyfile(source, copy)
            change(copy)
            fsync_path(copy)
            os.replace(copy, out)
        finally:
            copy.unlink(missing_ok=True)


def _write_obsm(path: Path, *, matrices: Mapping[str, NDArray[np.float32]]) -> None:
    import h5py
    from anndata.io import write_elem

    try:
        with h5py.File(path, "r+") as file:
            group = file.require_group("obsm")
            for name, matrix in matrices.items():
                if name in group:
                    del group[name]
                write_elem(group, name, matrix)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}; check the disk and run the same command again") from error


def _rewrite(source: Path, path: Path, *, matrices: Mapping[str, NDArray[np.float32]]) -> None:
    """A file of an old version, whose ``obsm`` is no group, is read and written anew."""
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = anndata.read_h5ad(source)
        for name, matrix in matrices.items():
            adata.obsm[name] = matrix
        adata.write_h5ad(path)
