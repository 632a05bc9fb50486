"""Errors of the oracles; each is one line that names the offending values and the remedy."""

from __future__ import annotations

from semaug.artifacts.errors import SemaugError


class AnnotationError(SemaugError, ValueError):
    """An annotation file that cannot be read, or that contradicts itself."""


class OracleError(SemaugError, ValueError):
    """An oracle that broke the protocol: a wrong number of results, or boxes and masks of the wrong shape."""
