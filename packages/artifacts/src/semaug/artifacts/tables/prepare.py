"""From a table as its file holds it to the rows that are trained on: labels, rows, columns, steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import InvalidOption, SourceError
from semaug.artifacts.tables.checks import require_numbers, require_same_features, some
from semaug.artifacts.tables.raw import RawTable, classes_of
from semaug.artifacts.tables.steps import Fitted, apply_steps, column_range, fit_steps, parse_steps
from semaug.artifacts.tables.table import Table

Rows = NDArray[np.float32]
SPLITS = ("train", "test")
TRAIN_SHARE = 0.8
MEMORY_SHARE = 0.8
"""Most of the free memory that a table may take."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done with a table after its file is open.

    ``label`` names a column of obs; ``min_class`` drops rows of smaller classes and rows without one; ``features``
    names columns to keep, ``nonzero`` keeps those that are not zero in more rows of the whole file than that; ``split``
    is `train` or `test`, drawn from ``seed`` with ``share`` of the rows for training.
    """

    label: str | None = None
    min_class: int | None = None
    features: tuple[str, ...] = ()
    nonzero: int | None = None
    split: str | None = None
    seed: int = 0
    share: float = TRAIN_SHARE
    steps: str = ""

    def __post_init__(self) -> None:
        if self.split not in (None, *SPLITS):
            raise InvalidOption(f"split {self.split!r} is not known; choose train or test")
        if not 0 < self.share < 1:
            raise InvalidOption(f"share {self.share:g} of the rows for training; give a number between 0 and 1")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Rows and columns of a raw table that take part, as indices."""

    raw: RawTable
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    fills: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.raw.feature_names[i] for i in self.columns)

    def blocks(self) -> Iterator[Rows]:
        """The rows, dense, in their order; raises ``SourceError`` where they are no numbers."""
        names, every = self.names, len(self.columns) == len(self.raw.feature_names)
        for start, block in self.raw.blocks():
            low, high = np.searchsorted(self.rows, (start, start + len(block)))
            if low == high:
                continue
            rows = self.rows[low:high]
            kept = block[rows - start] if every else block[np.ix_(rows - start, self.columns)]
            checked = np.nan_to_num(kept, nan=0.0, posinf=np.inf, neginf=-np.inf) if self.fills else kept
            if not np.isfinite(checked).all():
                require_numbers(self.raw.where, checked, 0, [self.raw.keys[i] for i in rows], names)
            yield kept


def prepare(spec: str, raw: RawTable, how: Preparation, fit_on: RawTable | None = None) -> Table:
    """The table of ``raw`` under ``how``. Steps are fitted on ``fit_on``, else on the training rows of ``raw``.

    Raises ``SourceError`` and ``InvalidOption``, naming rows, columns and the remedy.
    """
    labels, class_names = _labels(raw, how)
    chosen = parse_steps(spec, how.steps)
    taking_part = _large_classes(raw, labels, how)
    columns = _columns(raw, how)
    part = partial(_Chosen, raw, columns=columns, fills=any(name == "fill" for name, _ in chosen))
    wanted, training = part(_split(taking_part, how, how.split)), part(_split(taking_part, how, "train"))
    if fit_on is not None:
        require_same_features(fit_on.feature_names, raw.feature_names, fit_on.where, raw.where)
        training = _Chosen(fit_on, _split(_all(fit_on), how, None), columns, wanted.fills)
    fitted = fit_steps(spec, chosen, wanted.names, training.blocks)
    features = _materialise(spec, wanted, fitted)
    return Table(
        features, tuple(str(raw.keys[i]) for i in wanted.rows), fitted[-1].names if fitted else wanted.names,
        *_compact(labels[wanted.rows], labels[taking_part], class_names),
        {name: np.asarray(values)[wanted.rows] for name, values in raw.obs.items()},
        tuple(f.text for f in fitted), () if how.split == "test" else _notes(wanted, features, fitted), spec,
    )  # fmt: skip


def _all(raw: RawTable) -> NDArray[np.int64]:
    return np.arange(len(raw.keys))


def _labels(raw: RawTable, how: Preparation) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if how.label is None:
        if how.min_class is not None:
            raise InvalidOption(f"{raw.where}: min_class={how.min_class} needs classes; name a column with label=...")
        return np.full(len(raw.keys), -1, np.int64), ()
    return classes_of(raw.where, how.label, raw.column(how.label))


def _large_classes(raw: RawTable, labels: NDArray[np.int64], how: Preparation) -> NDArray[np.int64]:
    if how.min_class is None:
        return _all(raw)
    counts = np.bincount(labels[labels >= 0], minlength=1)
    rows = np.flatnonzero((labels >= 0) & (counts[labels] >= how.min_class))
    if not len(rows):
        raise SourceError(
            f"{raw.where}: the largest class has {counts.max()} rows and min_class={how.min_class}; lower it"
        )
    return rows


def _compact(
    labels: NDArray[np.int64], of_all: NDArray[np.int64], names: tuple[str, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels counted over the classes that any row taking part has, so that both splits number them alike."""
    there = np.unique(of_all[of_all >= 0])
    if len(there) == len(names):
        return labels, names
    number = np.full(len(names) + 1, -1, np.int64)
    number[there] = np.arange(len(there))
    return number[labels], tuple(names[i] for i in there)


def _split(rows: NDArray[np.int64], how: Preparation, which: str | None) -> NDArray[np.int64]:
    """Rows of a split, sorted; all where no split was asked for."""
    if how.split is None or which is None:
        return rows
    count = round(how.share * len(rows))
    if not 0 < count < len(rows):
        raise SourceError(f"share={how.share:g} of {len(rows)} rows leaves a split empty; give more rows")
    order = generator(how.seed, "table-split").permutation(len(rows))
    return rows[np.sort(order[:count] if which == "train" else order[count:])]


def _columns(raw: RawTable, how: Preparation) -> NDArray[np.int64]:
    names = list(raw.feature_names)
    keep = np.ones(len(names), bool)
    if how.features:
        missing = [name for name in how.features if name not in set(names)]
        if missing:
            raise SourceError(f"{raw.where} has no column {some(missing)}; it has {some(names, 20)}")
        keep &= np.isin(names, how.features)
    if how.nonzero is not None:
        counts = sum(((block != 0).sum(axis=0) for _, block in raw.blocks()), np.zeros(len(names), np.int64))
        keep &= counts > how.nonzero
        if not keep.any():
            raise SourceError(
                f"{raw.where}: no column is nonzero in more than nonzero={how.nonzero} of its rows "
                f"(at most {counts.max()}); lower it"
            )
    return np.flatnonzero(keep)


def _materialise(spec: str, wanted: _Chosen, fitted: list[Fitted]) -> Rows:
    width = len(fitted[-1].names) if fitted else len(wanted.columns)
    needed, free = 4 * width * len(wanted.rows), _free_memory()
    if needed > MEMORY_SHARE * free:
        raise SourceError(
            f"{spec}: {len(wanted.rows):,} rows of {width:,} columns take {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB of memory are free; keep fewer columns with nonzero=..., features=... or steps=pca:50"
        )
    out, at = np.empty((len(wanted.rows), width), np.float32), 0
    for block in wanted.blocks():
        done = apply_steps(block, fitted)
        out[at : at + len(done)] = done
        at += len(done)
    if not np.isfinite(out).all():
        raise SourceError(f"{spec}: the steps {', '.join(f.text for f in fitted)} made values that are not finite")
    return out


def _free_memory() -> float:
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _notes(wanted: _Chosen, features: Rows, fitted: list[Fitted]) -> tuple[str, ...]:
    """Columns that are constant over the rows."""
    if len(features) < 2 or not (found := column_range(iter([features])).constant).any():
        return ()
    constant = np.flatnonzero(found)
    names = fitted[-1].names if fitted else wanted.names
    return (f"{len(constant)} columns are constant: {some(names[i] for i in constant)}; step varying drops them",)
