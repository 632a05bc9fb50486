"""Tables that installed packages bring with them: real data without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from semaug.artifacts.errors import MissingDependency, SourceError
from semaug.artifacts.tables.h5ad import read_h5ad
from semaug.artifacts.tables.raw import RawTable
from semaug.artifacts.tables.table import numbered

PBMC = "pbmc68k_reduced"
PBMC_FILE = Path("datasets", "10x_pbmc68k_reduced.h5ad")
SKLEARN = ("digits", "iris", "wine", "breast_cancer")


def read_scanpy(spec: str, name: str, layer: str | None, obsm: str | None) -> RawTable:
    """`pbmc68k_reduced` of scanpy: 700 blood cells, 765 genes, scaled (``layer=raw``: log-normalised counts).

    scanpy itself is not imported. Raises ``SourceError`` for another name, ``MissingDependency`` without scanpy.
    """
    return read_h5ad(scanpy_file(spec, name), layer, obsm)


def scanpy_file(spec: str, name: str) -> Path:
    """The AnnData file of scanpy's `pbmc68k_reduced`; raises as ``read_scanpy``."""
    if name != PBMC:
        raise SourceError(f"{spec}: scanpy brings {PBMC!r} alone, not {name!r}")
    found = find_spec("scanpy")
    if found is None or found.origin is None:
        raise MissingDependency(f"{spec} needs scanpy; pip install 'semaug-artifacts[cells]'")
    return Path(found.origin).parent / PBMC_FILE


def read_sklearn(spec: str, name: str) -> RawTable:
    """A small data set of scikit-learn; its column ``target`` holds the labels.

    Raises ``SourceError`` for an unknown name, ``MissingDependency`` without scikit-learn.
    """
    if name not in SKLEARN:
        raise SourceError(f"{spec}: no set of scikit-learn is called {name!r}; choose one of {', '.join(SKLEARN)}")
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingDependency(f"{spec} needs scikit-learn; pip install scikit-learn") from error
    found = getattr(datasets, f"load_{name}")()
    features = np.asarray(found.data, np.float32)
    target = np.array([str(found.target_names[t]) for t in found.target], object)
    return RawTable(
        spec, numbered(len(features)), [str(n) for n in found.feature_names], lambda a, b: features[a:b],
        {"target": target},
    )  # fmt: skip
