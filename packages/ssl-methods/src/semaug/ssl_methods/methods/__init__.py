"""Methods by id: one paper, one file. A builder takes built parts and keyword hyperparameters."""

from __future__ import annotations

from collections.abc import Callable

from semaug.ssl_methods.methods.base import Method
from semaug.ssl_methods.methods.simclr import SimCLR

METHODS: dict[str, Callable[..., Method]] = {"simclr": SimCLR}

__all__ = ["METHODS", "Method", "SimCLR"]
