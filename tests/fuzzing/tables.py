"""Targets: tables of numbers and labels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from tests.fuzzing.images import gzipped
from tests.fuzzing.target import Target

from semaug.artifacts.tables import open_table

CSV = b"key,type,g1,g2\na,x,1,2.5\nb,y,0,4\nc,x,1e3,-2\n"


def _use(spec: str) -> None:
    table = open_table(spec)
    assert table.fingerprint
    assert table.describe()
    assert table.rows(range(len(table))).shape == (len(table.keys), len(table.feature_names))


def _in_file(name: str, options: str, *seeds: bytes) -> Any:
    def parse(data: bytes, place: Path) -> None:
        (place / name).write_bytes(data)
        _use(f"{place / name}{options}")

    return lambda place: seeds, parse


def npy(values: np.ndarray) -> bytes:
    """An NPY file."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _prepare_labels(place: Path) -> tuple[bytes, ...]:
    (place / "x.npy").write_bytes(npy(np.eye(3, dtype=np.float32)))
    return npy(np.array([0, 1, 1])), npy(np.array(["a", "b", "a"]))


def _parse_labels(data: bytes, place: Path) -> None:
    for name in ("labels.npy", "labels.csv", "labels.txt"):
        (place / name).write_bytes(data)
    _use(f"{place / 'x.npy'}?labels={place / 'labels.npy'}")


def _parse_text_labels(data: bytes, place: Path) -> None:
    _parse_named_labels(data, place, "labels.csv" if b"," in data else "labels.txt")


def _parse_named_labels(data: bytes, place: Path, name: str) -> None:
    (place / "labels.npy").unlink(missing_ok=True)
    (place / name).write_bytes(data)
    _use(f"{place / 'x.npy'}?labels={place / name}")


def _parquet_seeds(place: Path) -> tuple[bytes, ...]:
    import pyarrow
    import pyarrow.parquet as parquet

    file = io.BytesIO()
    table = pyarrow.table({"key": ["a", "b", "c"], "type": ["x", "y", "x"], "g1": [1.0, 2.0, 3.0], "g2": [0, 1, 2]})
    parquet.write_table(table, file)
    return (file.getvalue(),)


def _parse_parquet(data: bytes, place: Path) -> None:
    (place / "x.parquet").write_bytes(data)
    _use(f"{place / 'x.parquet'}?label=type")


def h5ad_seeds(place: Path) -> tuple[bytes, ...]:
    """A dense and a sparse AnnData file."""
    import anndata
    import pandas
    import scipy.sparse

    rows = np.array([[1, 0], [0, 2], [3, 0]], np.float32)
    found = []
    for matrix in (rows, scipy.sparse.csr_matrix(rows), scipy.sparse.csc_matrix(rows)):
        obs = pandas.DataFrame({"type": ["x", "y", "x"]}, index=list("abc"))
        path = place / "seed.h5ad"
        anndata.AnnData(matrix, obs=obs).write_h5ad(path)
        found.append(path.read_bytes())
        path.unlink()
    return tuple(found)


def _parse_h5ad(data: bytes, place: Path) -> None:
    (place / "x.h5ad").write_bytes(data)
    _use(f"{place / 'x.h5ad'}?label=type")


def _prepare_spec(place: Path) -> tuple[bytes, ...]:
    (place / "x.csv").write_bytes(CSV)
    options = ("label=type", "label=type&steps=log1p&nonzero=1&min_class=1&split=train&share=0.5&seed=1", "features=g1")
    return tuple(option.encode() for option in options)


def _parse_spec(data: bytes, place: Path) -> None:
    _use(f"{place / 'x.csv'}?{data.decode('utf-8', 'surrogateescape')}")


TARGETS = (
    Target("table-csv", *_in_file("x.csv", "?label=type", CSV, CSV.replace(b"\n", b"\r\n"), CSV.replace(b"1e3", b""))),
    Target("table-csv-gz", *_in_file("x.csv.gz", "?label=type", gzipped(CSV))),
    Target("table-npy", *_in_file("x.npy", "", npy(np.eye(3)), npy(np.eye(3, dtype=np.float32, order="C")[:, ::-1]))),
    Target("labels-npy", _prepare_labels, _parse_labels),
    Target(
        "labels-text", lambda p: (*_prepare_labels(p), b"a\nb\na\n", b"n,l\n1,a\n2,b\n3,a\n")[2:], _parse_text_labels
    ),
    Target("table-parquet", _parquet_seeds, _parse_parquet),
    Target("table-h5ad", h5ad_seeds, _parse_h5ad, heavy=True),
    Target("table-options", _prepare_spec, _parse_spec, roams=True),
)
