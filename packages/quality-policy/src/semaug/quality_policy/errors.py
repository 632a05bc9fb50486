"""Errors of semaug.quality_policy."""

from __future__ import annotations

from semaug.artifacts.errors import SemaugError


class InvalidImage(SemaugError, ValueError):
    """An array that is not a uint8 RGB image."""


class InvalidWeights(SemaugError, ValueError):
    """Weights of R, C and D that are negative or do not sum to 1."""


class InvalidThresholds(SemaugError, ValueError):
    """Thresholds that are out of order, or outside [0, 1]."""


class UnknownName(SemaugError, KeyError):
    """A preset, a normaliser or a policy that is in no registry."""

    def __str__(self) -> str:
        return str(self.args[0])
