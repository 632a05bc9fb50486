"""Pairs to and from JSON lines and CSV, without loss."""

from __future__ import annotations

import csv
import difflib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.files import write_atomic
from semaug.artifacts.outside import parse_json
from semaug.artifacts.schemas import PairRecord, SemanticPair
from semaug.pairs_dataset.pair_table import score_names

FileFormat = Literal["jsonl", "csv"]
FIELDS = ("pair_id", "class", "image_a", "image_b", "tags", "verdict", "curator", "time", "provenance")
_SCORE = "score:"


def write_pair_file(rows: Sequence[SemanticPair], path: str | os.PathLike[str], layout: FileFormat = "jsonl") -> int:
    """Write one line a pair; returns their number. Numbers keep every digit. Raises ``OutputError``."""
    write_atomic(Path(path), (_jsonl(rows) if layout == "jsonl" else _csv(rows)).encode())
    return len(rows)


def _jsonl(rows: Iterable[SemanticPair]) -> str:
    return "".join(PairRecord.of(row).model_dump_json(by_alias=True) + "\n" for row in rows)


def _csv(rows: Sequence[SemanticPair]) -> str:
    names, text = score_names(rows), io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow([*FIELDS, *(_SCORE + name for name in names)])
    for row in rows:
        plain = PairRecord.of(row).model_dump(by_alias=True)
        cells = [" ".join(row.tags) if name == "tags" else plain[name] for name in FIELDS]
        writer.writerow([*cells, *(repr(row.scores[name]) if name in row.scores else "" for name in names)])
    return text.getvalue()


def read_pairs(path: str | os.PathLike[str]) -> list[SemanticPair]:
    """The pairs of a ``.jsonl`` or ``.csv`` file; ``class``, ``image_a`` and ``image_b`` are needed, the rest is not.

    Raises ``InvalidOption`` that names the line for whatever is no pair, unknown fields included.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidOption(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidOption(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    rows = _read_csv(path, text) if path.suffix.lower() == ".csv" else _read_jsonl(path, text)
    return [_pair(path, line, plain) for line, plain in rows]


def _read_jsonl(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            plain = parse_json(content)
        except ValueError as error:
            raise InvalidOption(f"{path}, line {line} is not JSON: {error}; write one object a line") from error
        if not isinstance(plain, dict):
            raise InvalidOption(f"{path}, line {line} is no JSON object; write one object a line")
        rows.append((line, plain))
    return rows


def _read_csv(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        for cells in reader:
            if None in cells or None in cells.values():
                raise InvalidOption(
                    f"{path}, line {reader.line_num} has not the header's {len(reader.fieldnames or ())} cells; "
                    "quote cells that hold commas"
                )
            rows.append((reader.line_num, _from_cells(path, reader.line_num, cells)))
    except csv.Error as error:
        raise InvalidOption(f"{path}, line {reader.line_num} is not CSV: {error}; save it as CSV again") from error
    return rows


def _from_cells(path: Path, line: int, cells: Mapping[str, str]) -> dict[str, Any]:
    plain: dict[str, Any] = {k: v for k, v in cells.items() if not k.startswith(_SCORE)}
    if "tags" in plain:
        plain["tags"] = plain["tags"].split()
    scores = {k.removeprefix(_SCORE): v for k, v in cells.items() if k.startswith(_SCORE) and v}
    try:
        return plain | {"scores": {name: float(value) for name, value in scores.items()}}
    except ValueError as error:
        raise InvalidOption(f"{path}, line {line}: {error}; scores are numbers") from error


def _pair(path: Path, line: int, plain: dict[str, Any]) -> SemanticPair:
    known = {*FIELDS, "scores"}
    for name in plain:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise InvalidOption(f"{path}, line {line}: unknown field {name!r}; {hint}")
    try:
        return PairRecord.model_validate(plain).pair()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidOption(f"{path}, line {line}: {where}: {first['msg'].lower()}") from error
    except ValueError as error:
        raise InvalidOption(f"{path}, line {line}: {error}") from error
