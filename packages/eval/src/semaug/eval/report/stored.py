"""A section of a report on disk, so that a protocol's part of a report outlives the process that made it.

The folder holds ``section.json`` and the images as files of their own: figures as ``.svg`` or ``.png``, the photographs
of contact sheets and galleries as ``.png``. Reading it back gives an equal section.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from semaug.artifacts.decode import decode_image
from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.files import write_atomic, writing
from semaug.artifacts.outside import DAMAGE, parse_json
from semaug.artifacts.roots import inside
from semaug.eval.report.model import (
    Block,
    Card,
    Cell,
    Code,
    Column,
    Figure,
    Gallery,
    Missing,
    Paragraph,
    Section,
    Sheet,
    SheetRow,
    Table,
)
from semaug.eval.report.results import plain
from semaug.eval.statistics import PairedDifference, Summary

SECTION = "section.json"
_CELLS: dict[str, Any] = {"Missing": Missing, "Summary": Summary, "PairedDifference": PairedDifference}


def store_section(section: Section, folder: Path) -> list[Path]:
    """Write a section into ``folder``, which is emptied first; returns the images' files, in order.

    ``section.json`` is written last, so that a folder with it is whole. Raises ``OutputError``.
    """
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    files: list[Path] = []
    blocks = [_stored(block, number, folder, files) for number, block in enumerate(section.blocks, start=1)]
    text = json.dumps({"title": section.title, "blocks": blocks}, indent=1, ensure_ascii=False)
    write_atomic(folder / SECTION, text.encode())
    return files


def load_section(folder: Path) -> Section:
    """The section that ``store_section`` wrote; raises ``ArtifactError`` where it cannot be read."""
    try:
        kept = parse_json((folder / SECTION).read_bytes())
        return Section(kept["title"], tuple(_loaded(block, folder) for block in kept["blocks"]))
    except DAMAGE as error:
        raise ArtifactError(f"{folder / SECTION} cannot be read ({error}); remove the folder and run again") from error


def _stored(block: Block, number: int, folder: Path, files: list[Path]) -> dict[str, Any]:
    kind = type(block).__name__
    if isinstance(block, Figure):
        suffix = "png" if block.image.startswith(b"\x89PNG") else "svg"
        name = f"{number:02d}-{_slug(block.alt)}.{suffix}"
        files.append(_write(folder / name, block.image))
        return {"kind": kind, "file": name, "caption": block.caption, "alt": block.alt, "data": plain(block.data),
                "wide": block.wide}  # fmt: skip
    if isinstance(block, Sheet):
        rows = [
            {"label": row.label, "images": _stored_images(row.images, f"{number:02d}-row{place:02d}", folder, files)}
            for place, row in enumerate(block.rows)
        ]
        return {"kind": kind, "caption": block.caption, "columns": list(block.columns), "rows": rows}
    if isinstance(block, Gallery):
        cards = [
            {"text": card.text, "images": _stored_images(card.images, f"{number:02d}-card{place:02d}", folder, files)}
            for place, card in enumerate(block.cards)
        ]
        return {"kind": kind, "caption": block.caption, "headings": list(block.headings), "cards": cards}
    if isinstance(block, Table):
        cells = [[_stored_cell(cell) for cell in row] for row in block.rows]
        columns = [asdict(column) for column in block.columns]
        return {"kind": kind, "caption": block.caption, "columns": columns, "rows": cells, "note": block.note}
    return {"kind": kind, **asdict(block)}


def _stored_images(
    images: Sequence[Image.Image | None], prefix: str, folder: Path, files: list[Path]
) -> list[str | None]:
    names: list[str | None] = []
    for place, image in enumerate(images):
        if image is None:
            names.append(None)
            continue
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG")
        names.append(f"{prefix}-{place}.png")
        files.append(_write(folder / f"{prefix}-{place}.png", buffer.getvalue()))
    return names


def _stored_cell(cell: Cell) -> Any:
    if isinstance(cell, Missing | Summary | PairedDifference):
        return {"kind": type(cell).__name__, **asdict(cell)}
    return plain(cell)


def _loaded(block: dict[str, Any], folder: Path) -> Block:
    values = {name: value for name, value in block.items() if name != "kind"}
    match block["kind"]:
        case "Figure":
            image = inside(folder, values.pop("file")).read_bytes()
            return Figure(image, **values)
        case "Sheet":
            rows = tuple(SheetRow(row["label"], tuple(_loaded_images(row["images"], folder))) for row in values["rows"])
            return Sheet(values["caption"], tuple(values["columns"]), rows)
        case "Gallery":
            cards = tuple(
                Card(card["text"], tuple(image for image in _loaded_images(card["images"], folder) if image))
                for card in values["cards"]
            )
            return Gallery(values["caption"], tuple(values["headings"]), cards)
        case "Table":
            table_rows = tuple(tuple(_loaded_cell(cell) for cell in row) for row in values["rows"])
            columns = tuple(Column(**column) for column in values["columns"])
            return Table(values["caption"], columns, table_rows, values["note"])
        case "Paragraph":
            return Paragraph(**values)
        case "Code":
            return Code(**values)
    raise ValueError(f"no block is called {block['kind']!r}")


def _loaded_images(names: Sequence[str | None], folder: Path) -> list[Image.Image | None]:
    images: list[Image.Image | None] = []
    for name in names:
        if name is None:
            images.append(None)
            continue
        images.append(Image.fromarray(decode_image(inside(folder, name).read_bytes())))
    return images


def _loaded_cell(cell: Any) -> Cell:
    if isinstance(cell, dict):
        return _CELLS[cell["kind"]](**{name: value for name, value in cell.items() if name != "kind"})  # type: ignore[no-any-return]
    return cell  # type: ignore[no-any-return]


def _write(path: Path, data: bytes) -> Path:
    write_atomic(path, data)
    return path


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48] or "figure"
