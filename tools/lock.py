"""Write or check ``requirements.lock``: the resolved versions with hashes and without addresses.

``uv.lock`` spells out a package index and is not committed; ``exclude-newer`` in pyproject.toml makes every
resolution come out alike, and this file lets a reader and ``make lint`` see that it did.
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


def main() -> int:
    """``--check`` compares; without it the file is written."""
    wanted = resolved()
    if "--check" not in sys.argv:
        LOCK.write_text(wanted)
        return 0
    found = LOCK.read_text() if LOCK.exists() else ""
    if found == wanted:
        return 0
    sys.stdout.writelines(list(difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), n=0))[:40])
    print("requirements.lock is out of date; run `make lock`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
