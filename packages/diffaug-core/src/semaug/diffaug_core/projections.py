"""The projections to two dimensions that DiffAug is compared with (P4, Table 2), each under one contract.

All get the same rows and a seed. Those that can place rows they were not fitted on are *inductive* and return a
``transform``; t-SNE cannot. What is not installed is named with its remedy and never silently left out.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption, MissingDependency

Rows = NDArray[np.float32]
Transform = Callable[[Rows], Rows]

PERPLEXITY = 30.0
"""t-SNE's, with a learning rate of 200 (spec S4.7)."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """``embedding``, float32 (n, 2), of the rows fitted on; ``transform`` None where others cannot be placed."""

    embedding: Rows
    transform: Transform | None = None


@dataclass(frozen=True, slots=True)
class Baseline:
    """A projection: its name in print, how it is fitted, and what it needs.

    ``least`` rows are needed; ``package`` is the module that must be there, ``remedy`` how to get it.
    """

    title: str
    fit: Callable[[Rows, int], Fitted]
    inductive: bool = True
    least: int = 3
    package: str | None = None
    remedy: str = ""

    @property
    def missing(self) -> str:
        """Why it cannot run here, empty where it can."""
        if self.package is None or find_spec(self.package) is not None:
            return ""
        return f"not run: {self.remedy}"


def fit_projection(name: str, rows: Rows, seed: int) -> Fitted:
    """Fit the baseline ``name`` of ``PROJECTIONS`` on ``rows``, float32 (n, d), without output or warnings.

    Raises ``InvalidOption`` (unknown name, too few rows, NaN or infinity) and ``MissingDependency``.

    >>> fit_projection("pca", np.eye(4, dtype=np.float32), 0).embedding.shape
    (4, 2)
    """
    if name not in PROJECTIONS:
        raise InvalidOption(f"projection {name!r} is not known; choose one of {', '.join(PROJECTIONS)}")
    baseline = PROJECTIONS[name]
    if baseline.missing:
        raise MissingDependency(f"{baseline.title} is {baseline.missing}")
    if len(rows) < baseline.least:
        raise InvalidOption(
            f"{len(rows)} rows, and {baseline.title} needs {baseline.least}; give more, or leave it out"
        )
    if not np.isfinite(rows).all():
        raise InvalidOption(f"{int((~np.isfinite(rows)).any(axis=1).sum())} rows hold NaN or infinity; leave them out")
    with _silence():
        fitted = baseline.fit(np.ascontiguousarray(rows, np.float32), seed)
    return Fitted(_plain(fitted.embedding), _silent(fitted.transform))


def _pca(rows: Rows, seed: int) -> Fitted:
    from sklearn.decomposition import PCA

    return _by_estimator(PCA(2, svd_solver="full"), rows)


def _tsne(rows: Rows, seed: int) -> Fitted:
    from sklearn.manifold import TSNE

    machine = TSNE(perplexity=PERPLEXITY, learning_rate=200.0, init="pca", random_state=seed, n_jobs=1)
    return Fitted(machine.fit_transform(rows))


def _umap(rows: Rows, seed: int) -> Fitted:
    from umap import UMAP

    return _by_estimator(UMAP(n_neighbors=min(15, len(rows) - 1), random_state=seed, n_jobs=1), rows)


def _parametric_umap(rows: Rows, seed: int) -> Fitted:
    from semaug.diffaug_core.parametric_umap import fit_parametric_umap

    transform = fit_parametric_umap(rows, seed)
    return Fitted(transform(rows), transform)


def _pacmap(rows: Rows, seed: int) -> Fitted:
    from pacmap import PaCMAP

    # its own rule takes neighbours for granted that a small fold does not have
    machine = PaCMAP(n_neighbors=min(10, (len(rows) - 1) // 4), random_state=seed, save_tree=True)
    embedding = machine.fit_transform(rows)
    return Fitted(embedding, lambda wanted: machine.transform(wanted, save_pairs=False))


def _phate(rows: Rows, seed: int) -> Fitted:
    from phate import PHATE

    return _by_estimator(PHATE(random_state=seed, n_jobs=1, verbose=0), rows)


def _ivis(rows: Rows, seed: int) -> Fitted:
    import tensorflow
    from ivis import Ivis

    tensorflow.keras.utils.set_random_seed(seed)
    return _by_estimator(Ivis(embedding_dims=2, k=min(150, len(rows) // 4), verbose=0), rows)


def _by_estimator(machine: Any, rows: Rows) -> Fitted:
    return Fitted(machine.fit_transform(rows), machine.transform)


_EXTRA = "pip install 'semaug-diffaug-core[projections]'"
PROJECTIONS: dict[str, Baseline] = {
    "pca": Baseline("PCA", _pca),
    "tsne": Baseline("t-SNE", _tsne, inductive=False, least=int(PERPLEXITY) + 1),
    "umap": Baseline("UMAP", _umap, least=4, package="umap", remedy=_EXTRA),
    "parametric-umap": Baseline("parametric UMAP", _parametric_umap, least=4, package="umap", remedy=_EXTRA),
    "pacmap": Baseline("PaCMAP", _pacmap, least=20, package="pacmap", remedy=_EXTRA),
    "phate": Baseline("PHATE", _phate, least=20, package="phate", remedy=_EXTRA),
    "ivis": Baseline("ivis", _ivis, least=50, package="ivis", remedy="pip install ivis (it brings TensorFlow)"),
}


def _silent(transform: Transform | None) -> Transform | None:
    if transform is None:
        return None

    def quietly(rows: Rows) -> Rows:
        with _silence():
            return _plain(transform(np.ascontiguousarray(rows, np.float32)))

    return quietly


def _plain(embedding: Any) -> Rows:
    return np.ascontiguousarray(embedding, np.float32)


@contextmanager
def _silence() -> Iterator[None]:
    """No prints, warnings or log lines of the libraries, which tell of choices made here on purpose."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
