"""Methods by id: one paper, one file; `base` says what each must do."""

from __future__ import annotations

from semaug.ssl_methods.methods.base import Method, ViewCount
from semaug.ssl_methods.methods.simclr import SimCLR

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
}

__all__ = ["METHODS", "Method", "SimCLR", "ViewCount"]
