"""Write or check ``requirements.lock``: the resolved versions with hashes and without addresses.

``uv.lock`` spells out a package index and is not committed; ``exclude-newer`` in pyproject.toml makes every
resolution come out alike, and this file lets a reader and ``make lint`` see that it did. That date lies a week or more
back, since indexes get new files late. Versions and hashes are compared; how markers are spelled changes with uv.
"""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parent.parent / "requirements.lock"
COMMAND = [
    "uv", "export", "--quiet", "--all-groups", "--no-emit-workspace", "--no-header", "--no-annotate",
    "--format", "requirements-txt",
]  # fmt: skip


def resolved() -> str:
    """The export of the current resolution, without lines that name an index."""
    text = subprocess.run(COMMAND, check=True, capture_output=True, text=True, cwd=LOCK.parent).stdout
    return "".join(line for line in text.splitlines(keepends=True) if "://" not in line and not line.startswith("--"))


def pins(text: str) -> list[str]:
    """``name==version`` and its hashes, one line each, sorted; markers left out."""
    entries = text.replace("\\\n", " ").splitlines()
    found = {}
    for name, _, rest in (entry.partition(" ") for entry in entries):
        found[name] = " ".join([name, *sorted(word for word in rest.split() if word.startswith("--hash="))])
    return sorted(found.values())


def main() -> int:
    """``--check`` compares; without it the file is written."""
    if "--check" not in sys.argv:
        # an older uv.lock would keep its versions; a fresh clone has none
        subprocess.run(["uv", "lock", "--quiet", "--upgrade"], check=True, cwd=LOCK.parent)
        LOCK.write_text(resolved())
        return 0
    wanted = resolved()
    found = LOCK.read_text() if LOCK.exists() else ""
    if pins(found) == pins(wanted):
        return 0
    for line in list(difflib.unified_diff(pins(found), pins(wanted), lineterm="", n=0))[:40]:
        print(line[:100])
    print("requirements.lock is out of date; run `make lock`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
