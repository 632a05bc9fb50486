"""A report as one self-contained HTML file: no script, no request, light and dark, desk and phone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from semaug.artifacts.files import write_atomic, writing
from semaug.eval.report.cells import alignments, show_table
from semaug.eval.report.images import embed_figure, embed_photograph
from semaug.eval.report.model import Block, Figure, Gallery, Report, Sheet, Table
from semaug.eval.report.results import plain, results_json

RESULTS_NAME = "results.json"


def write_report(path: str | Path, report: Report) -> Path:
    """Write the page to ``path`` and the same content as ``results.json`` beside it; folders are made as needed.

    Each file is replaced whole or not at all. Returns the page's path. Raises ``OutputError`` or ``ReportError``.
    """
    path = Path(path)
    page, results = render_html(report).encode(), results_json(report)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path.with_name(RESULTS_NAME), results)
    write_atomic(path, page)
    return path


def render_html(report: Report) -> str:
    """The whole page as a string."""
    environment = Environment(
        loader=PackageLoader("semaug.eval.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(prose=prose, inline=inline, pretty=_pretty)
    sections = [
        {"title": section.title, "anchor": f"s{number}-{_slug(section.title)}", "blocks": blocks}
        for number, (section, blocks) in enumerate(zip(report.sections, _numbered(report), strict=True), start=1)
    ]
    style = Markup(environment.get_template("report.css").render())
    return environment.get_template("report.html.j2").render(report=report, sections=sections, style=style)


def prose(text: str) -> Markup:
    """Plain text as paragraphs.

    >>> prose("a < `b`")
    Markup('<p>a &lt; <code>b</code></p>')
    """
    parts = (part.strip() for part in re.split(r"\n\s*\n", text))
    return Markup("\n").join(Markup("<p>{}</p>").format(inline(part)) for part in parts if part)


def inline(text: str) -> Markup:
    """Plain text in a line, with `` `code` `` and ``**strong**`` marked up and everything else escaped."""
    marked = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*([^*\n]+)\*\*", r"<strong>\1</strong>", marked))


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _pretty(value: Any) -> str:
    return json.dumps(plain(value), indent=2, ensure_ascii=False)


def _numbered(report: Report) -> Iterator[list[dict[str, Any]]]:
    """The blocks of each section as the template reads them; tables and figures are counted through."""
    counts = {"Table": 0, "Figure": 0}
    for section in report.sections:
        blocks = []
        for block in section.blocks:
            shown = _shown(block)
            if "counted" in shown:
                counts[shown["counted"]] += 1
                shown["number"] = f"{shown['counted']} {counts[shown['counted']]}"
            blocks.append(shown)
        yield blocks


def _shown(block: Block) -> dict[str, Any]:
    kind = type(block).__name__.lower()
    if isinstance(block, Table):
        helps = [(column.name, column.help) for column in block.columns if column.help]
        return {
            "kind": kind, "block": block, "counted": "Table",
            "cells": show_table(block), "align": alignments(block), "helps": helps,
        }  # fmt: skip
    if isinstance(block, Figure):
        return {"kind": kind, "block": block, "counted": "Figure", "image": embed_figure(block.image)}
    if isinstance(block, Sheet):
        return {"kind": kind, "block": block, "counted": "Figure", **_shown_sheet(block)}
    if isinstance(block, Gallery):
        cards = [(card.text, [embed_photograph(image) for image in card.images]) for card in block.cards]
        return {"kind": kind, "block": block, "counted": "Figure", "cards": cards}
    return {"kind": kind, "block": block}


def _shown_sheet(sheet: Sheet) -> dict[str, Any]:
    groups = [(name, len(list(same))) for name, same in groupby(sheet.columns)]
    starts = {0}
    for _, span in groups:
        starts.add(max(starts) + span)
    rows = [
        (row.label, [
            (None if image is None else embed_photograph(image), f"{row.label}: {name}", place in starts)
            for place, (image, name) in enumerate(zip(row.images, sheet.columns, strict=True))
        ])
        for row in sheet.rows
    ]  # fmt: skip
    return {"groups": groups, "rows": rows}
