"""Losses: one paper, one file; each a pure function that declares how it gathers across processes."""

from __future__ import annotations

from semaug.ssl_methods.losses.simclr import nt_xent

__all__ = ["nt_xent"]
