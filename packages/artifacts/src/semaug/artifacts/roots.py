"""Names that come from outside (manifests, annotations, keys) stay below the folder they belong to."""

from __future__ import annotations

from pathlib import Path, PurePosixPath


def stays_inside(name: str) -> bool:
    """Whether ``folder / name`` lies below ``folder`` for every folder. Links are not looked at.

    >>> [stays_inside(n) for n in ("a/b.png", "..a/b", "a/../b.png", "../b.png", "a/../../b.png", "/b", "", "a\\0b")]
    [True, True, True, False, False, False, False, False]
    """
    if not name or "\0" in name or PurePosixPath(name).is_absolute():
        return False
    depth = 0
    for part in PurePosixPath(name).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return False
    return depth > 0


def inside(folder: Path, name: str) -> Path:
    """``folder / name``; raises ``ValueError``, in words that name both, where that leaves ``folder``."""
    if not stays_inside(name):
        raise ValueError(f"{name!r} leads out of {folder}")
    return folder / name
