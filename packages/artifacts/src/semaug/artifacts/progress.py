"""Progress as events: packages report, the command line draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Work done so far in one stage; ``done`` and ``total`` count ``unit``s (images unless told)."""

    stage: str
    done: int
    total: int
    unit: str = "images"
    note: str = ""


OnProgress = Callable[[Progress], None]


def ignore_progress(event: Progress) -> None:
    """The listener that draws nothing."""
