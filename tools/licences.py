"""Write or check ``docs/reference/licences.md``: the licence of every distribution in ``requirements.lock``.

Licences are what the installed distributions say of themselves: an SPDX expression, else their classifiers, else the
first line of their licence field. ``KNOWN`` says it where they do not. One that is not installed on this machine (its
marker leaves it out) keeps its line.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
LOCK = REPOSITORY / "requirements.lock"
PAGE = REPOSITORY / "docs" / "reference" / "licences.md"
CORE = "semaug"
COPYLEFT = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)\b(?!.*-linking-exception)|\bA?GPL-")
KNOWN: Mapping[str, str] = {
    "appnope": "BSD-3-Clause",
    "atheris": "Apache-2.0",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "fast-array-utils": "MPL-2.0",
    "msgspec": "BSD-3-Clause",
    "segment-anything": "Apache-2.0",
}
"""What a distribution's metadata lack, from its LICENSE file."""
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_FIELDS = {
    "2-clause BSD License": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "BSD": "BSD License",
    "BSD 3-Clause License": "BSD-3-Clause",
    "FreeBSD": "BSD-2-Clause",
    "GNU General Public License Version 2": "GPL-2.0-only",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
}
_HEAD = """\
# Licences
semaug is under the Apache License 2.0; each of its distributions brings the text. What it depends on comes under licences of its own. `python tools/licences.py` writes this page from what the distributions in `requirements.lock` say of themselves; `make check` compares.

**Copyleft.** {copyleft} None comes with `pip install semaug` alone, and no package of semaug imports them before you ask for what they do; a clone of the repository installs every extra. Whoever passes on a program together with one of them has that licence's terms to keep.

"Comes with" names what asks for it: `semaug`, with all its packages; else the extras that do; else what only this repository's developers install.

| distribution | licence | comes with |
|---|---|---|
"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Row:
    """One distribution: its licence, and what asks for it."""

    name: str
    licence: str
    comes_with: tuple[str, ...]

    @property
    def is_copyleft(self) -> bool:
        """Whether it is under the GPL or AGPL, not the lesser one."""
        return bool(COPYLEFT.search(self.licence))


def locked(text: str) -> list[str]:
    """The names in a lock, in its order, each once."""
    return list(dict.fromkeys(re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)))


def licence_of(name: str) -> str | None:
    """The licence of an installed distribution in SPDX's words where there are any, None where it is not installed."""
    if name in KNOWN:
        return KNOWN[name]
    try:
        found: Any = metadata(name)  # an email.message.Message
    except PackageNotFoundError:
        return None
    if expression := found.get("License-Expression"):
        return str(expression)
    named = [c.rpartition(" :: ")[2] for c in found.get_all("Classifier") or () if c.startswith("License :: OSI")]
    named = [_CLASSIFIERS.get(name, name) for name in named if name != "OSI Approved"]
    field = str(found.get("License") or "").strip().partition("\n")[0]
    return " or ".join(sorted(named)) or _FIELDS.get(field, field) or "not said"


def extras() -> list[str]:
    """The extras of the distribution that brings the command line."""
    import tomllib

    project = tomllib.loads((REPOSITORY / "apps" / "cli" / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"])


def asked_for(*words: str) -> set[str]:
    """What uv's resolution installs for a choice of extras or groups."""
    command = ["uv", "export", "--quiet", "--frozen", "--no-emit-workspace", "--no-hashes", "--no-header", *words]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    return set(locked(text))


def origins() -> dict[str, tuple[str, ...]]:
    """distribution -> what asks for it: the core alone, else extras, else groups of developers."""
    only = ("--package", CORE, "--no-default-groups")
    core = asked_for(*only)
    by_extra = {f"`{extra}`": asked_for(*only, "--extra", extra) - core for extra in extras()}
    by_group = {group: asked_for("--only-group", group) for group in ("dev", "docs")}
    found: dict[str, tuple[str, ...]] = dict.fromkeys(core, (CORE,))
    for names in (by_extra, by_group):
        for name in sorted(set().union(*names.values()) - found.keys()):
            found[name] = tuple(origin for origin, brought in names.items() if name in brought)
    return found


def rows_of(page: str) -> dict[str, Row]:
    """The rows that a page has."""
    lines = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*) \|$", page, re.MULTILINE)
    rows = [Row(name, licence, tuple(origin.split(", "))) for name, licence, origin in lines[1:]]
    return {row.name: row for row in rows}


def rows(page: str) -> Iterator[Row]:
    """The rows as they should be; ``page`` is the present one, for what is not installed here."""
    before, origin = rows_of(page), origins()
    for name in locked(LOCK.read_text()):
        licence = licence_of(name) or (before[name].licence if name in before else "not said")
        yield Row(name, licence, origin.get(name, ("the workspace",)))


def written(found: list[Row]) -> str:
    """The page of rows."""
    ways: dict[tuple[str, ...], list[str]] = {}
    for row in found:
        if row.is_copyleft:
            ways.setdefault(row.comes_with, []).append(f"{row.name} ({row.licence})")
    copyleft = [f"{', '.join(names)} with {' or '.join(origin)}" for origin, names in ways.items()]
    body = "".join(f"| {row.name} | {row.licence} | {', '.join(row.comes_with)} |\n" for row in found)
    return _HEAD.format(copyleft=f"Under the GPL or AGPL are {'; '.join(copyleft)}.") + body


def main() -> int:
    """``--check`` compares; without it the page is written."""
    before = PAGE.read_text() if PAGE.exists() else ""
    page = written(list(rows(before)))
    if "--check" not in sys.argv:
        PAGE.write_text(page)
        return 0
    if page == before:
        return 0
    wanted, found = set(page.splitlines()), set(before.splitlines())
    for line in [*(f"+ {w}" for w in sorted(wanted - found)), *(f"- {f}" for f in sorted(found - wanted))][:20]:
        print(line[:160])
    print(f"{PAGE.relative_to(REPOSITORY)} is out of date; run `python tools/licences.py`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
