"""The numbers that the papers print, as data with their notes (misprints, contradictions)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from semaug.artifacts.errors import InvalidOption

PAPERS = {"P0": "SDI", "P1": "LMM-MPA / SASI", "P2": "Semantic Pairs", "P4": "DiffAug", "own": "Your own images"}
SHORT = {"sdi": "P0", "sasi": "P1", "semantic-pairs": "P2", "diffaug": "P4", "own": "own"}
"""What a user calls a paper -> its key in the tables."""


@dataclass(frozen=True, slots=True)
class PaperCell:
    """One printed cell: ``text`` as printed, ``value`` where that is a number, else None; ``note`` marks a misprint."""

    text: str
    value: float | None
    unit: str
    note: str = ""


@cache
def _tables() -> Mapping[tuple[str, str], Mapping[tuple[str, str], PaperCell]]:
    found: dict[tuple[str, str], dict[tuple[str, str], PaperCell]] = {}
    for row in json.loads(Path(__file__).with_name("paper_tables.json").read_text("utf-8")):
        text = str(row["value"])
        number = float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None
        cell = PaperCell(text, number, row["unit"], row.get("note", ""))
        found.setdefault((row["paper"], row["table"]), {})[row["row"], row["column"]] = cell
    return found


def paper_table(paper: str, table: str) -> Mapping[tuple[str, str], PaperCell]:
    """All cells of a table by (row, column); raises ``InvalidOption`` naming the tables there are.

    >>> len(paper_table("P1", "T12"))
    16
    """
    if (paper, table) not in _tables():
        known = ", ".join(name for of, name in _tables() if of == paper) or ", ".join(PAPERS)
        raise InvalidOption(f"no table {table!r} of paper {paper!r} is known; there are {known}")
    return _tables()[paper, table]


def paper_cell(paper: str, table: str, row: str, column: str) -> PaperCell:
    """One cell; raises ``InvalidOption`` where there is none.

    >>> paper_cell("P1", "T1", "MoCo-v2", "linear_sasi")
    PaperCell(text='78.4', value=78.4, unit='%', note='')
    """
    cells = paper_table(paper, table)
    if (row, column) not in cells:
        rows, columns = (", ".join(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
        raise InvalidOption(
            f"{paper} {table} has no cell ({row!r}, {column!r}); its rows are {rows}; its columns {columns}"
        )
    return cells[row, column]
