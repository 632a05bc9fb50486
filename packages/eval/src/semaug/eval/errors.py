"""Errors of evaluation: one line each, with the offending values and the remedy."""

from __future__ import annotations

from semaug.artifacts.errors import SemaugError


class EvaluationError(SemaugError, ValueError):
    """Features, labels or settings that cannot be evaluated."""


class LabelsMissing(EvaluationError):
    """A probe was given features without labels."""


class OneClass(EvaluationError):
    """A probe was given a training set of fewer than two classes."""


class NonFiniteFeatures(EvaluationError):
    """Features that hold NaN or infinity."""


class ReportError(SemaugError, ValueError):
    """A report that contradicts itself (a row longer than its header, an image without alternative text)."""
