"""Preprocessing as a list of steps in the order they are written: ``steps=counts,log1p,standardise,pca:50``.

A step is fitted on the training rows alone and then applied to whatever rows are asked for. Rows are read block by
block, so that a sparse matrix is never dense before genes are chosen or components taken.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption, SourceError
from semaug.artifacts.tables.checks import some
from semaug.artifacts.tables.pca import principal_components

Rows = NDArray[np.float32]
Blocks = Callable[[], Iterator[Rows]]
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A step ready to be applied: ``apply`` takes rows float32 (n, d) and returns (n, len(names))."""

    text: str
    names: Names
    apply: Callable[[Rows], Rows]


Fit = Callable[[str, Names, Blocks, float | None], Fitted]


@dataclass(frozen=True, slots=True)
class Step:
    """A kind of step: what it does, how it is fitted, and the number it takes (None: it takes none)."""

    about: str
    fit: Fit
    number: float | None = None


@dataclass(frozen=True, slots=True)
class ColumnRange:
    """Least and greatest value, mean and variance (population) of every column: float64 (d,)."""

    least: NDArray[np.float64]
    most: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Columns with one value only."""
        return self.least == self.most


def column_range(blocks: Iterator[Rows]) -> ColumnRange:
    """Read every block once; variances are merged pairwise (Chan, Golub and LeVeque 1979). NaN is left out of
    ``least`` alone."""
    count, found = 0, None
    for block in blocks:
        part = _range_of(block.astype(np.float64))
        found = part if found is None else _joined(found, count, part, len(block))
        count += len(block)
    if found is None:
        raise InvalidOption("a step cannot be fitted on 0 rows; give a table with training rows")
    return found


def _range_of(rows: NDArray[np.float64]) -> ColumnRange:
    return ColumnRange(np.fmin.reduce(rows), rows.max(axis=0), rows.mean(axis=0), rows.var(axis=0))


def _joined(a: ColumnRange, n: int, b: ColumnRange, m: int) -> ColumnRange:
    delta, share = b.mean - a.mean, m / (n + m)
    variance = a.variance * (1 - share) + b.variance * share + np.square(delta) * share * (1 - share)
    return ColumnRange(
        np.fmin(a.least, b.least), np.maximum(a.most, b.most), a.mean + delta * share, variance
    )  # fmt: skip


def _counts(where: str, names: Names, blocks: Blocks, number: float | None) -> Fitted:
    target = np.float32(number or 0)

    def apply(rows: Rows) -> Rows:
        _refuse_negative(where, "counts", names, rows)
        total = rows.sum(axis=1, keepdims=True, dtype=np.float64)
        return (rows * (target / np.where(total > 0, total, 1))).astype(np.float32)

    return Fitted(f"counts:{number:g}", names, apply)


def _log1p(where: str, names: Names, blocks: Blocks, number: float | None) -> Fitted:
    def apply(rows: Rows) -> Rows:
        _refuse_negative(where, "log1p", names, rows)
        return np.log1p(rows)

    return Fitted("log1p", names, apply)


def _refuse_negative(where: str, step: str, names: Names, rows: Rows) -> None:
    if rows.min(initial=0) >= 0:
        return
    row, column = np.unravel_index(int(rows.argmin()), rows.shape)
    raise SourceError(
        f"{where}: column {names[column]!r} holds {rows[row, column]:g} and step {step} takes counts of 0 and more; "
        "the values look scaled already: leave the step out, or read the counts with layer=..."
    )


def _divide(where: str, names: Names, blocks: Blocks, number: float | None) -> Fitted:
    if not number:
        raise InvalidOption(f"{where}: divide:{number:g} divides by nothing; give a number such as divide:8")
    return Fitted(f"divide:{number:g}", names, partial(np.multiply, np.float32(1 / number)))


def _standardise(where: str, names: Names, blocks: Blocks, number: float | None) -> Fitted:
    found = column_range(blocks())
    _refuse_constant(where, "standardise", names, found)
    return Fitted("standardise", names, _affine(found.mean, 1 / np.sqrt(found.variance), 0.0))


def _range(where: str, names: Names, blocks: Blocks, number: float | None) -> Fitted:
    found = column_range(blocks())
    _refuse_constant(where, "range", names, found)
    return Fitted("range", names, _affine(found.least, 2 / (found.most - found.least), -1.0))


def _unit(where: str, names: Names, blocks: Blocks, number: float | None) -> Fitted:
    found = column_range(blocks())
    least, most = float(found.least.min()), float(found.most.max())
    if least == most:
        raise SourceError(f"{where}: every value is {least:g}; step unit needs values that differ")
    return Fitted("unit", names, _affine(np.full(len(names), least), np.full(len(names), 1 / (most - least)), 0.0))


def _affine(shift: NDArray[np.float64], scale: NDArray[np.float64], offset: float) -> Callable[[Rows], Rows]:
    def apply(rows: Rows) -> Rows:
        return ((rows - shift) * scale + offset).astype(np.float32)

    return apply


def _refuse_constant(where: str, step: str, names: Names, found: ColumnRange) -> None:
    if found.constant.any():
        constant = [names[i] for i in np.flatnonzero(found.constant)]
        raise SourceError(
            f"{where}: {len(constant)} columns are constant on the training rows ({some(constant)}) and step {step} "
            "divides by their spread; drop them with the step varying before it"
        )


def _varying(where: str, names: Names, blocks: Blocks, number: float | None) -> Fitted:
    keep = np.flatnonzero(~column_range(blocks()).constant)
    if not len(keep):
        raise SourceError(f"{where}: all {len(names)} columns are constant on the training rows; give another table")
    return Fitted("varying", tuple(names[i] for i in keep), lambda rows: rows[:, keep])


def _fill(where: str, names: Names, blocks: Blocks, number: float | None) -> Fitted:
    least = column_range(blocks()).least
    if not np.isfinite(least).all():
        empty = [names[i] for i in np.flatnonzero(~np.isfinite(least))]
        raise SourceError(f"{where}: {len(empty)} columns have no value at all ({some(empty)}); leave them out")
    return Fitted("fill", names, lambda rows: np.where(np.isnan(rows), least.astype(np.float32), rows))


def _pca(where: str, names: Names, blocks: Blocks, number: float | None) -> Fitted:
    count = int(number or 0)
    try:
        components = principal_components(blocks, count)
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error}") from error
    return Fitted(f"pca:{count}", tuple(f"pc{i + 1}" for i in range(count)), components.apply)


STEPS: Mapping[str, Step] = {
    "fill": Step("missing values become the least value of their column", _fill),
    "counts": Step("every row is scaled to so many counts", _counts, 10_000),
    "log1p": Step("log(1 + x)", _log1p),
    "divide": Step("every value is divided by a number", _divide, 8),
    "varying": Step("columns that are constant are dropped", _varying),
    "standardise": Step("every column to mean 0 and variance 1", _standardise),
    "range": Step("every column to -1 to 1", _range),
    "unit": Step("the whole table to 0 to 1", _unit),
    "pca": Step("principal components", _pca, 50),
}
"""Every step by name; the number is what it takes where none is written."""
FITTED = ("fill", "varying", "standardise", "range", "unit", "pca")
"""Those that depend on the rows they are fitted on."""


def parse_steps(where: str, text: str) -> list[tuple[str, float | None]]:
    """Names and numbers of the steps in a text such as ``counts,log1p,pca:50``; raises ``InvalidOption``."""
    found: list[tuple[str, float | None]] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, given = part.partition(":")
        if name not in STEPS:
            near = difflib.get_close_matches(name, STEPS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(STEPS)}"
            raise InvalidOption(f"{where}: unknown step {name!r}; {hint}")
        number = STEPS[name].number
        if given and number is None:
            raise InvalidOption(f"{where}: step {name!r} takes no number, got {given!r}; write {name} alone")
        found.append((name, _number(where, part, given) if given else number))
    return found


def _number(where: str, part: str, given: str) -> float:
    try:
        number = float(given)
    except ValueError as error:
        raise InvalidOption(f"{where}: {given!r} in step {part!r} is not a number") from error
    if not np.isfinite(number) or number <= 0:
        raise InvalidOption(f"{where}: {given} in step {part!r} is not above 0")
    return number


def fit_steps(where: str, chosen: Sequence[tuple[str, float | None]], names: Names, training: Blocks) -> list[Fitted]:
    """Fit steps in order, each on the training rows as those before it leave them."""
    fitted: list[Fitted] = []
    for name, number in chosen:
        fitted.append(STEPS[name].fit(where, names, partial(_applied, training, tuple(fitted)), number))
        names = fitted[-1].names
    return fitted


def _applied(blocks: Blocks, fitted: Sequence[Fitted]) -> Iterator[Rows]:
    return (apply_steps(block, fitted) for block in blocks())


def apply_steps(rows: Rows, fitted: Sequence[Fitted]) -> Rows:
    """Rows float32 (n, d) after every step."""
    for step in fitted:
        rows = step.apply(rows)
    return np.asarray(rows, np.float32)
