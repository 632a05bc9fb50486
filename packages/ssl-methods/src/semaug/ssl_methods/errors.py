"""Errors of pretraining: one line that names the offending values and the remedy."""

from __future__ import annotations

from semaug.artifacts.errors import SemaugError


class TrainingDiverged(SemaugError, ArithmeticError):
    """The loss became NaN or infinite; the checkpoint before it is kept."""


class WeightsMismatch(SemaugError, ValueError):
    """Encoder weights that do not fit their card."""
