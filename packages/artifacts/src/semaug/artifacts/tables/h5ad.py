"""AnnData files (``.h5ad``): any matrix of theirs, rows read block by block. Nothing is ever unpickled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import MissingDependency, SourceError
from semaug.artifacts.tables.checks import refuse_bomb, some
from semaug.artifacts.tables.raw import RawTable


def read_h5ad(path: Path, layer: str | None = None, obsm: str | None = None) -> RawTable:
    """``X`` of an AnnData file, a ``layer`` of it (`raw` for ``raw.X``), or a matrix of ``obsm``.

    Raises ``SourceError`` for a matrix that is not there (listing those that are), ``MissingDependency`` without
    anndata.
    """
    _anndata()
    with opened(path) as file:
        obs, keys, var_names = _frames(path, file)
        where = f"{path}" + (f" (layer {layer})" if layer else f" (obsm {obsm})" if obsm else "")
        if obsm is not None:
            inside, names = f"obsm/{_there(path, file, 'obsm', obsm)}", None
        elif layer == "raw":
            inside, names = _raw(path, file)
        elif layer is not None:
            inside, names = f"layers/{_there(path, file, 'layers', layer)}", var_names
        else:
            inside, names = "X", var_names
        width = _width(path, file, inside)
        refuse_bomb(path, len(keys), width)
        if names is None:
            names = [f"{obsm}_{i + 1}" for i in range(width)]
        if len(names) != width:
            raise SourceError(f"{where} has {width} columns and {len(names)} names; write the file again")
        by_columns = _is_by_columns(_node(file, inside))
    return RawTable(
        where, keys, names, _ByColumns(path, inside) if by_columns else partial(read_rows, path, inside), obs
    )


def _anndata() -> Any:
    try:
        import anndata
    except ImportError as error:
        raise MissingDependency("AnnData files need anndata; pip install 'semaug-artifacts[cells]'") from error
    return anndata


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The HDF5 file at ``path``, for reading; raises ``SourceError`` where it is none."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SourceError(f"{path} is not an AnnData file ({error}); write it again with anndata") from error
    with file:
        _refuse_others(path, file)
        if "obs" not in file or "var" not in file:
            raise SourceError(f"{path} is an HDF5 file without obs and var; write it with anndata")
        yield file


def _refuse_others(path: Path, file: Any) -> None:
    """Refuse links to other files and data kept in them: a table would show what they hold."""
    import h5py

    sizes: list[int] = []

    def outside(name: str, link: Any) -> str | None:
        found = file.get(name) if isinstance(link, h5py.HardLink) else None
        if isinstance(found, h5py.Dataset):
            sizes.append(int(found.size or 0))
            return name if found.is_virtual or found.external else None
        return name if isinstance(link, h5py.ExternalLink) else None

    if (name := file.visititems_links(outside)) is not None:  # it ends at the first that is not None
        raise SourceError(f"{path} keeps {name!r} in another file, which is not read; write one whole file")
    refuse_bomb(path, 1, max(sizes, default=0))


def _frames(path: Path, file: Any) -> tuple[dict[str, NDArray[Any]], list[str], list[str]]:
    """The columns of obs, obs_names and var_names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files of old versions are read as well
        if hasattr(file["obs"], "keys"):
            from anndata.io import read_elem

            obs, var = read_elem(file["obs"]), read_elem(file["var"])
        else:
            adata = _anndata().read_h5ad(path, backed="r")
            obs, var = adata.obs, adata.var
            adata.file.close()
    return {str(n): _values(obs[n]) for n in obs}, [str(k) for k in obs.index], [str(n) for n in var.index]


def obs_names_of(path: Path) -> list[str]:
    """The names of the rows of an AnnData file; raises ``SourceError``."""
    _anndata()
    with opened(path) as file:
        return _frames(path, file)[1]


def _values(column: Any) -> NDArray[Any]:
    return np.asarray(column.astype(object) if column.dtype.name == "category" else column)


def _raw(path: Path, file: Any) -> tuple[str, list[str]]:
    """Where the raw matrix lies (old versions wrote no group), and the names of its columns."""
    inside = next((name for name in ("raw/X", "raw.X") if name in file), None)
    if inside is None:
        raise SourceError(f"{path} has no raw matrix; leave layer=raw out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if inside == "raw/X" and hasattr(file["raw/var"], "keys"):
            from anndata.io import read_elem

            return inside, [str(n) for n in read_elem(file["raw/var"]).index]
        adata = _anndata().read_h5ad(path, backed="r")
        names = [str(n) for n in adata.raw.var_names]
        adata.file.close()
    return inside, names


def _there(path: Path, file: Any, group: str, name: str) -> str:
    held = file.get(group)
    there = sorted(held.keys() if hasattr(held, "keys") else held.dtype.names or ()) if held is not None else []
    if name not in there:
        raise SourceError(f"{path} has no {group}[{name!r}]; it has {some(there, 20) or '(none)'}")
    return name


def _node(file: Any, inside: str) -> Any:
    """A matrix of the file: a data set, a group that holds a sparse one, or a field of old versions' records."""
    group, _, name = inside.partition("/")
    if name and not hasattr(file[group], "keys"):  # a record a row
        return file[group][name]
    return file[inside]


def _width(path: Path, file: Any, inside: str) -> int:
    if inside == "X" and "X" not in file:
        raise SourceError(f"{path} has no X; choose a matrix with layer=... or obsm=...")
    node = _node(file, inside)
    shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape")) if hasattr(node, "keys") else node.shape
    if shape is None or len(shape) != 2:
        raise SourceError(f"{path}: {inside} has shape {shape}, a table needs rows and columns")
    return int(shape[1])


def _is_by_columns(node: Any) -> bool:
    return hasattr(node, "keys") and node.attrs.get("encoding-type", node.attrs.get("h5sparse_format")) in (
        "csc", "csc_matrix",
    )  # fmt: skip


class _ByColumns:
    """Rows of a sparse matrix that lies column by column: it is turned once, since every block would read all of it."""

    def __init__(self, path: Path, inside: str) -> None:
        self.path, self.inside = path, inside
        self.matrix: Any = None

    def __call__(self, start: int, stop: int) -> NDArray[Any]:
        if self.matrix is None:
            from anndata.io import sparse_dataset

            with opened(self.path) as file:
                turned: Any = sparse_dataset(_node(file, self.inside)).to_memory()
                self.matrix = turned.tocsr()
        return np.asarray(self.matrix[start:stop].toarray())


def read_rows(path: Path, inside: str, start: int, stop: int) -> NDArray[Any]:
    """Rows ``start`` to ``stop - 1`` of a matrix of the file, dense."""
    import h5py

    with h5py.File(path, "r") as file:
        node = _node(file, inside)
        if not hasattr(node, "keys"):
            return np.asarray(node[start:stop])
        from anndata.io import sparse_dataset

        block: Any = sparse_dataset(node)[start:stop]
        return np.asarray(block.toarray())
