"""Errors a user can act on: each is one line that names the offending values and the remedy."""

from __future__ import annotations

LONGEST = 2000
"""Characters of an error's text."""


class SemaugError(Exception):
    """Base of every error semaug raises on purpose; the command line prints it without a traceback.

    ``exit_code`` is that of a command which ends with it.
    """

    exit_code = 1

    def __str__(self) -> str:
        text = super().__str__()  # what a file holds is told, but not all of it
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


class InvalidOption(SemaugError, ValueError):
    """An option, or a combination of options, that cannot be honoured."""


class SourceError(SemaugError, ValueError):
    """An image source that cannot be opened or that contradicts itself."""


class UnreadableImage(SemaugError, ValueError):
    """One image that cannot be decoded; steps list it in ``skipped.csv`` and go on."""


class ArtifactError(SemaugError, ValueError):
    """An artifact that is missing, incomplete, of another kind, or damaged."""


class ArtifactMismatch(ArtifactError):
    """A rerun whose configuration or inputs differ from those of the artifact it would resume."""


class ArtifactLocked(SemaugError, RuntimeError):
    """Another process is writing the artifact."""


class MissingDependency(SemaugError, ImportError):
    """An optional package that is not installed."""


class MissingWeights(SemaugError, FileNotFoundError):
    """A weight file that is not where it was looked for; nothing is ever downloaded silently."""


class OutputError(SemaugError, OSError):
    """A write that failed: a full disk, or a folder that cannot be written."""


class StoreError(SemaugError, OSError):
    """An object store that does not answer, lacks what is needed, or refuses it."""


class WorkerDied(SemaugError, RuntimeError):
    """A worker process that ended without an answer (killed, or out of memory)."""
