"""What a report says, as plain values; ``html`` and ``results`` turn them into a page and into JSON.

Text is plain text (any user's string is safe) with two marks: `` `code` `` and ``**strong**``; a blank line starts a
new paragraph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from PIL import Image

from semaug.eval.errors import ReportError
from semaug.eval.statistics import PairedDifference, Summary


@dataclass(frozen=True, slots=True)
class Missing:
    """A cell without a value, and why."""

    reason: str


Cell: TypeAlias = str | int | float | Summary | PairedDifference | Missing | None
Align = Literal["left", "right", "center"]
Tone = Literal["plain", "note", "warning"]


@dataclass(frozen=True, slots=True)
class Column:
    """How a table shows one column.

    Numbers are multiplied by ``scale`` (100 for a share shown in per cent) and rounded to ``digits``. ``signed``
    writes a plus before positive numbers; ``best`` sets the largest or smallest mean in bold. ``help`` is said under
    the table. Columns of text are set left, numbers right, unless ``align`` says otherwise.
    """

    name: str
    digits: int = 1
    scale: float = 1.0
    unit: str = ""
    signed: bool = False
    best: Literal["max", "min"] | None = None
    help: str = ""
    align: Align | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the first column names the row. ``note`` says what n, the spread and the interval are."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ReportError(
                    f"table {self.caption!r}: a row of {len(row)} cells under {len(self.columns)} columns; give as many"
                )


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG or PNG image (as bytes) with a caption and a text for those who do not see it.

    ``data`` holds the numbers behind the image for ``results.json``; ``wide`` lets it take the page's whole width.
    """

    image: bytes = field(repr=False)
    caption: str
    alt: str
    data: Mapping[str, Any] = field(default_factory=dict)
    wide: bool = False

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise ReportError(f"figure {self.caption!r} has no alternative text; say what it shows")


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One row of a contact sheet: what it is, and an image (or None) a column."""

    label: str
    images: tuple[Image.Image | None, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet. Neighbouring columns of one name share one heading (the two views of a variant)."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[SheetRow, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.images) != len(self.columns):
                raise ReportError(
                    f"sheet {self.caption!r}, row {row.label!r}: {len(row.images)} images under "
                    f"{len(self.columns)} columns; give as many (None leaves one out)"
                )


@dataclass(frozen=True, slots=True)
class Card:
    """One picture of a gallery: its images side by side, and what is to be said of them."""

    text: str
    images: tuple[Image.Image, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Cards in as many columns as the page has room for. ``headings`` name the images of every card, left to right."""

    caption: str
    headings: tuple[str, ...]
    cards: tuple[Card, ...]

    def __post_init__(self) -> None:
        for card in self.cards:
            if len(card.images) != len(self.headings):
                raise ReportError(
                    f"gallery {self.caption!r}, card {card.text!r}: {len(card.images)} images under "
                    f"{len(self.headings)} headings; give as many"
                )


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text; a ``note`` or a ``warning`` is set apart."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Code:
    """Commands or a configuration, as typed."""

    text: str
    caption: str = ""


Block: TypeAlias = Paragraph | Table | Figure | Sheet | Gallery | Code


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of the report."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Highlight:
    """One number worth the top of the page: ``value`` as it shall be read, ``detail`` in small print."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What it takes to get the same result again."""

    commands: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """Time, hardware, seeds, budgets: name to text."""
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """A report: its verdict in a paragraph, its sections, and where it came from."""

    title: str
    verdict: str
    sections: tuple[Section, ...]
    provenance: Provenance = field(default_factory=Provenance)
    subtitle: str = ""
    highlights: tuple[Highlight, ...] = ()
