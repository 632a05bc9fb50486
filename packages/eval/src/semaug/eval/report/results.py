"""The report's content for programs: ``results.json``, without the images."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from semaug.eval.report.model import Block, Code, Figure, Gallery, Missing, Paragraph, Report, Sheet, Table

FORMAT_VERSION = 1


def report_results(report: Report) -> dict[str, Any]:
    """Title, verdict, every table with unrounded values, the numbers behind the figures, and the provenance.

    A summary is ``{"mean", "sd", "n"}``, a paired difference ``{"mean", "low", "high", "p_value", "n",
    "confidence"}``; a value that is missing is null, or ``{"value": null, "reason"}`` where a reason was given.
    """
    return {
        "format_version": FORMAT_VERSION,
        "title": report.title,
        "subtitle": report.subtitle,
        "verdict": report.verdict,
        "highlights": [asdict(item) for item in report.highlights],
        "sections": [
            {"title": section.title, "blocks": [_block(block) for block in section.blocks]}
            for section in report.sections
        ],
        "provenance": plain(asdict(report.provenance)),
    }


def results_json(report: Report) -> bytes:
    """``report_results`` as indented UTF-8 JSON that holds no NaN."""
    return (json.dumps(report_results(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _block(block: Block) -> dict[str, Any]:
    if isinstance(block, Table):
        columns = [asdict(column) for column in block.columns]
        rows = [[plain(cell) for cell in row] for row in block.rows]
        return {"kind": "table", "caption": block.caption, "columns": columns, "rows": rows, "note": block.note}
    if isinstance(block, Figure):
        return {"kind": "figure", "caption": block.caption, "alt": block.alt, "data": plain(block.data)}
    if isinstance(block, Sheet):
        rows_shown = [row.label for row in block.rows]
        return {"kind": "sheet", "caption": block.caption, "columns": list(block.columns), "rows": rows_shown}
    if isinstance(block, Gallery):
        cards = [card.text for card in block.cards]
        return {"kind": "gallery", "caption": block.caption, "headings": list(block.headings), "cards": cards}
    if isinstance(block, Paragraph):
        return {"kind": "paragraph", "text": block.text, "tone": block.tone}
    assert isinstance(block, Code)
    return {"kind": "code", "text": block.text, "caption": block.caption}


def plain(value: Any) -> Any:
    """Nested values as JSON knows them; what is not finite becomes null, an unknown object its text."""
    if isinstance(value, Missing):
        return {"value": None, "reason": value.reason}
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
