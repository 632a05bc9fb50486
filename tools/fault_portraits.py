"""What a command left on the disk, without what two undisturbed runs differ in: times, memory, process numbers."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TIMES = frozenset({
    "costs", "created", "seconds", "seconds_per_1000", "warm_seconds", "peak_memory", "training/seconds",
    "training/memory_mb", "ran_on", "images_per_second", "cost",
})  # fmt: skip
"""Keys of JSON files, and columns of tables, whose values measure a run."""
MEASURED_IN = ("s", "MB", "x")
"""Units of columns that do."""

Portrait = Mapping[str, str]
"""Relative file name to what its content comes to."""


def portrait(folder: Path) -> dict[str, str]:
    """Every file below ``folder``, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            name, content = _seen(path.relative_to(folder), path)
            found[name] = content
    return found


def differences(expected: Portrait, found: Portrait) -> list[str]:
    """What is lacking, what is too much, and what differs, one line each."""
    lines = [f"{name} is lacking" for name in expected if name not in found]
    lines += [f"{name} should not be there" for name in found if name not in expected]
    return lines + [
        f"{n} differs: {expected[n]} / {found[n]}" for n in expected if n in found and expected[n] != found[n]
    ]


def _seen(name: Path, path: Path) -> tuple[str, str]:
    if path.name.startswith("events.out.tfevents."):  # one a start, with its time and process in its name
        return str(name.with_name("events.out.tfevents")), "there"
    for ending, look in LOOKS.items():
        if path.name.endswith(ending):
            return str(name), look(path)
    return str(name), _hash(path.read_bytes())


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _json(path: Path) -> str:
    try:
        return _hash(json.dumps(_timeless(json.loads(path.read_text()))).encode())
    except ValueError:
        return f"torn, {path.stat().st_size} bytes"


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "columns" in value and "rows" in value:  # a table of a report
            value = {**value, "rows": _unmeasured(value["columns"], value["rows"])}
        return {k: _timeless(v) for k, v in value.items() if k not in TIMES}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _unmeasured(columns: list[Any], rows: list[list[Any]]) -> list[list[Any]]:
    """A table's rows without the cells that tell times, costs and memory."""
    kept = [i for i, c in enumerate(columns) if c["unit"] not in MEASURED_IN and c["name"] not in TIMES]
    return [[row[i] for i in kept] for row in rows]


def _costs(path: Path) -> str:
    return f"images {json.loads(path.read_text())['images']}"


def _curves(path: Path) -> str:
    """Rows without speeds: none is lost or there twice."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if name not in TIMES]
    return _hash(json.dumps([[row[i] for i in kept] for row in rows]).encode())


def _checkpoint(path: Path) -> str:
    with zipfile.ZipFile(path) as file:
        return "whole" if file.testzip() is None else "torn"


def _there(path: Path) -> str:
    return "there" if path.stat().st_size else "empty"


LOOKS: dict[str, Callable[[Path], str]] = {
    "costs.json": _costs,
    ".json": _json,
    "metrics.csv": _curves,
    ".ckpt": _checkpoint,
    ".html": _there,  # shows times
    "results.csv": _there,
    "results.tex": _there,
}
"""The end of a file's name to how it is looked at; the first that fits. Other files count by their bytes."""
