"""Reports: plain values in, one self-contained HTML page and ``results.json`` out."""

from semaug.eval.report.html import render_html, write_report
from semaug.eval.report.model import (
    Block,
    Card,
    Cell,
    Code,
    Column,
    Figure,
    Gallery,
    Highlight,
    Missing,
    Paragraph,
    Provenance,
    Report,
    Section,
    Sheet,
    SheetRow,
    Table,
)
from semaug.eval.report.results import report_results
from semaug.eval.report.stored import load_section, store_section

__all__ = [
    "Block",
    "Card",
    "Cell",
    "Code",
    "Column",
    "Figure",
    "Gallery",
    "Highlight",
    "Missing",
    "Paragraph",
    "Provenance",
    "Report",
    "Section",
    "Sheet",
    "SheetRow",
    "Table",
    "load_section",
    "render_html",
    "report_results",
    "store_section",
    "write_report",
]
