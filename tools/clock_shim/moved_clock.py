"""A clock that is ahead, or behind, by the seconds that a file holds."""

from __future__ import annotations

import time
from pathlib import Path


def move(file: str) -> None:
    """Let ``time.time`` and ``time.time_ns`` follow ``file``; clocks that only count on stay as they are."""
    now, now_ns = time.time, time.time_ns

    def ahead() -> float:
        try:
            return float(Path(file).read_text())
        except (OSError, ValueError):  # it is being written
            return 0.0

    time.time = lambda: now() + ahead()
    time.time_ns = lambda: now_ns() + int(ahead() * 1e9)
