"""Table cells as text: numbers rounded alike, spreads and intervals beside the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from semaug.eval.report.model import Align, Cell, Column, Missing, Table
from semaug.eval.statistics import PairedDifference, Summary

DASH = "–"


@dataclass(frozen=True, slots=True)
class ShownCell:
    """``text`` is the value, ``aside`` its spread or interval in small print, ``reason`` why there is none."""

    text: str
    aside: str = ""
    reason: str = ""
    best: bool = False
    number: bool = False


def show_table(table: Table) -> list[list[ShownCell]]:
    """Every cell of a table as text, the best of a column marked."""
    best = [_best_rows(column, [row[place] for row in table.rows]) for place, column in enumerate(table.columns)]
    return [
        [
            show_cell(cell, column, index in best[place])
            for place, (cell, column) in enumerate(zip(row, table.columns, strict=True))
        ]
        for index, row in enumerate(table.rows)
    ]


def alignments(table: Table) -> list[Align]:
    """Left for columns of text, right for numbers, unless the column says otherwise."""
    kinds: list[Align] = []
    for place, column in enumerate(table.columns):
        cells = [row[place] for row in table.rows if not isinstance(row[place], Missing | None)]
        textual = not cells or any(isinstance(cell, str) for cell in cells)
        kinds.append(column.align or ("left" if textual else "right"))
    return kinds


def show_cell(cell: Cell, column: Column, best: bool = False) -> ShownCell:
    """One cell as text.

    >>> show_cell(Summary(0.6113, 0.0042, 3), Column("linear", scale=100))
    ShownCell(text='61.1', aside='± 0.4', reason='', best=False, number=True)
    >>> show_cell(Missing("one seed"), Column("p")).reason
    'one seed'
    """
    if isinstance(cell, str):
        return ShownCell(cell)
    if cell is None or isinstance(cell, Missing):
        return ShownCell(DASH, reason=cell.reason if cell else "", number=True)
    value = _value(cell)
    if value is None or not math.isfinite(value):
        return ShownCell(DASH, reason="not a finite number", number=True)
    return ShownCell(_number(cell, value, column), _aside(cell, column), best=best, number=True)


def _number(cell: Cell, value: float, column: Column) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int) and column.scale == 1:
        text = f"{cell:,}"
        return f"+{text}" if column.signed and cell > 0 else text.replace("-", "−")
    return _rounded(value, column)


def _rounded(value: float, column: Column, signed: bool | None = None) -> str:
    shown = value * column.scale
    plus = "+" if (column.signed if signed is None else signed) else ""
    text = f"{shown:{plus}.{column.digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def _aside(cell: Cell, column: Column) -> str:
    if isinstance(cell, Summary) and cell.sd is not None:
        return f"± {_rounded(cell.sd, column, signed=False)}"
    if isinstance(cell, PairedDifference) and cell.low is not None and cell.high is not None:
        return f"[{_rounded(cell.low, column)}, {_rounded(cell.high, column)}]"
    return ""


def _value(cell: Cell) -> float | None:
    if isinstance(cell, Summary | PairedDifference):
        return cell.mean
    return float(cell) if isinstance(cell, int | float) else None


def _best_rows(column: Column, cells: Sequence[Cell]) -> set[int]:
    """Rows whose value is the best; none where all are equal or there is nothing to compare."""
    if column.best is None:
        return set()
    values = {index: value for index, cell in enumerate(cells) if (value := _value(cell)) is not None}
    values = {index: value for index, value in values.items() if math.isfinite(value)}
    if len(set(values.values())) < 2:
        return set()
    top = (max if column.best == "max" else min)(values.values())
    return {index for index, value in values.items() if value == top}
