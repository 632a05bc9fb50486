"""Errors of pretraining: one line that names the offending values and the remedy."""

from __future__ import annotations

from semaug.artifacts.errors import SemaugError


class TrainingDiverged(SemaugError, ArithmeticError):
    """The loss became NaN or infinite; the checkpoint before it is kept."""


class WeightsMismatch(SemaugError, ValueError):
    """Encoder weights that do not fit their card."""


class RunStopped(SemaugError, RuntimeError):
    """A signal ended the run after a checkpoint; the same command goes on. Commands exit with EX_TEMPFAIL."""

    exit_code = 75


class PeerLost(SemaugError, RuntimeError):
    """One of several processes that share a run is gone, or did not answer in time; the same command goes on."""
