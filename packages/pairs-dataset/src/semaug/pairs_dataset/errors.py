"""Errors of pairs-dataset."""

from __future__ import annotations

from semaug.artifacts.errors import InvalidOption, SemaugError, SourceError

__all__ = ["InvalidOption", "NoPairs", "SemaugError", "SourceError"]


class NoPairs(SemaugError, ValueError):
    """A pair source that would have no items."""
