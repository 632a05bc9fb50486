"""Write the example notebooks from their scripts; ``--check`` compares.

    python tools/notebooks.py [--check]

The scripts of ``examples/notebooks`` are the source: cells begin with ``# %%``, text with ``# %% [markdown]``. The
notebooks beside them hold no output, so that they are the same wherever they are made.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from docs_site import cells, notebooks


def as_notebook(script: str) -> str:
    """A script in the percent format as a notebook, JSON of nbformat 4.5."""
    found = [_cell(number, kind, text) for number, (kind, text) in enumerate(cells(script))]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook = {"cells": found, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": _lines(text)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def stale() -> list[Path]:
    """The notebooks that differ from their scripts, or are missing."""
    pairs = [(script, script.with_suffix(".ipynb")) for script in notebooks()]
    return [n for s, n in pairs if not n.exists() or n.read_text() != as_notebook(s.read_text())]


def main() -> int:
    """``--check`` compares; without it the notebooks are written."""
    if "--check" in sys.argv:
        for path in stale():
            print(f"{path} is out of date; run `uv run python tools/notebooks.py`")
        return int(bool(stale()))
    for script in notebooks():
        script.with_suffix(".ipynb").write_text(as_notebook(script.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
