"""Semi-supervised evaluation (spec S2.8): few labels, drawn class by class; the backbone stays frozen.

Each draw labels a share of every class (at least one image), fits the linear probe on these images alone, its penalty
chosen on a selection split among them, and scores the test set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.measures import Measure
from semaug.eval.probes.linear import LbfgsSettings, LinearResult, evaluate_linear
from semaug.eval.splits import LabelledPair, labelled_pair
from semaug.eval.statistics import summarise
from semaug.eval.subsets import COLLAPSED, MEMORY, overlap_warning, stratified_subset

SHARES = (0.01, 0.1)
DRAWS = 5
FIXED_PENALTY = 1e-2


@dataclass(frozen=True, slots=True)
class SemiSettings:
    """``shares`` of the labels, each drawn ``draws`` times; ``probe`` fits the classifier.

    Where every class has one labelled image there is nothing to select on, and ``fixed_penalty`` is used.
    """

    shares: tuple[float, ...] = SHARES
    draws: int = DRAWS
    probe: LbfgsSettings = field(default_factory=LbfgsSettings)
    fixed_penalty: float = FIXED_PENALTY

    def __post_init__(self) -> None:
        if not self.shares or min(self.shares) <= 0 or max(self.shares) > 1:
            raise EvaluationError(f"shares {self.shares}; give at least one, above 0 and at most 1")
        if self.draws < 1:
            raise EvaluationError(f"{self.draws} draws; give at least 1")


@dataclass(frozen=True, slots=True)
class ShareScores:
    """Test accuracy at one share of the labels, one a draw; ``top5`` is empty with five classes or fewer.

    ``labelled`` is the number of labelled images, ``n`` that of test images.
    """

    share: float
    labelled: int
    top1: tuple[float, ...]
    top5: tuple[float, ...]
    n: int

    def __iter__(self) -> Iterator[Measure]:
        prefix = f"semi/{share_name(self.share)}"
        yield Measure(f"{prefix}/labelled", float(self.labelled), self.n)
        for metric, values in (("top1", self.top1), ("top5", self.top5)):
            name = f"{prefix}/frozen/{metric}"
            if not values:
                yield from (Measure(name + end, None, self.n, "five classes or fewer") for end in ("", "_std"))
                continue
            summary = summarise(values)
            yield Measure(name, summary.mean, self.n)
            yield Measure(f"{name}_std", summary.sd, self.n, "" if summary.sd is not None else "one draw")


@dataclass(frozen=True, slots=True)
class SemiResult:
    """Scores of each share."""

    scores: tuple[ShareScores, ...]
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        for scores in self.scores:
            yield from scores


def share_name(share: float) -> str:
    """As it stands in the names of measures.

    >>> share_name(0.01), share_name(0.125)
    ('1%', '12.5%')
    """
    return f"{100 * share:.10g}%"


def evaluate_semi(
    train: Features,
    test: Features,
    settings: SemiSettings | None = None,
    *,
    device: str = "cpu",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> SemiResult:
    """Linear accuracy from shares of the training labels, mean and standard deviation over draws of the share.

    Raises ``EvaluationError`` and its kin.
    """
    settings = settings or SemiSettings()
    pair = labelled_pair(train, test)
    warnings: tuple[str, ...] = pair.warnings + overlap_warning(pair)
    scores = []
    for position, share in enumerate(settings.shares):
        warnings += rounding_warning(pair, share)
        results = []
        for draw in range(settings.draws):
            labelled = pair.train.take(stratified_subset(pair.train.labels, share, seed, draw=draw))
            results.append(evaluate_linear(labelled, pair.test, _probe(labelled, settings), device=device, seed=seed))
            done = position * settings.draws + draw + 1
            on_progress(Progress("semi-supervised", done, len(settings.shares) * settings.draws, unit="draws"))
        scores.append(_scores(share, len(labelled), results))
        warnings += _selection_warning(labelled, share, settings)
        notes = [note for found in results for note in found.warnings if not note.endswith((MEMORY, COLLAPSED))]
        warnings += tuple(f"{share_name(share)}: {note}" for note in notes)
    return SemiResult(tuple(scores), tuple(dict.fromkeys(warnings)))


def rounding_warning(pair: LabelledPair, share: float) -> tuple[str, ...]:
    """A warning where a class is too small for the share, and one labelled image is more than it."""
    _, counts = np.unique(pair.train.labels, return_counts=True)
    short = int((counts * share < 0.5 - 1e-9).sum())
    if not short:
        return ()
    return (f"{share_name(share)}: one image each of {short} classes, which is more than the share of so few images",)


def _probe(labelled: Features, settings: SemiSettings) -> LbfgsSettings:
    if _selectable(labelled):
        return settings.probe
    return replace(settings.probe, penalties=(settings.fixed_penalty,))


def _selectable(labelled: Features) -> bool:
    return int(np.bincount(labelled.labels).max()) > 1


def _selection_warning(labelled: Features, share: float, settings: SemiSettings) -> tuple[str, ...]:
    if _selectable(labelled):
        return ()
    return (
        f"{share_name(share)}: every class has one labelled image, so the penalty is {settings.fixed_penalty:g}, "
        "not chosen",
    )


def _scores(share: float, labelled: int, results: list[LinearResult]) -> ShareScores:
    top5 = tuple(result.top5 for result in results if result.top5 is not None)
    return ShareScores(share, labelled, tuple(result.top1 for result in results), top5, results[0].n)
