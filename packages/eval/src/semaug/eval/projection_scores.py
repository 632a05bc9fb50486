"""How a projection of labelled rows to two dimensions is scored (P4, Table 2; spec S4.7).

A support vector machine on stratified folds, and k-means with as many clusters as classes. *Inductive*: the projection
was fitted on a fold's training part alone, and so are the scaler, the machine and the centres; the held-out part is
scored. *Transductive*: the projection was fitted on all rows, as the paper's figures are, and only the machine is
fitted on training parts; k-means clusters and scores all rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.measures import Measure
from semaug.eval.probes.kmeans import ClusterScores, KmeansSettings, evaluate_kmeans
from semaug.eval.probes.svm import SvmSettings, evaluate_svm
from semaug.eval.statistics import PairedDifference, Summary, corrected_resampled_difference, summarise

FOLDS = 10
METRICS = ("svm", "svm-rbf", "kmeans")
SETTINGS = ("inductive", "transductive")


@dataclass(frozen=True, slots=True)
class FoldRows:
    """One fold: indices of the rows to fit on and of the rows held out, int64, sorted."""

    number: int
    fit: NDArray[np.int64]
    held: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FoldScore:
    """Shares in [0, 1] of one fold of one seed, by metric of ``METRICS``; ``setting`` is one of ``SETTINGS``.

    ``reason`` says why there is no ``kmeans`` where a fold cannot give it.
    """

    setting: str
    seed: int
    fold: int
    values: Mapping[str, float]
    held: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FoldSummary:
    """One metric over folds and seeds: mean, spread over all of them, spread of the seeds' means, and an interval.

    ``interval`` is Nadeau and Bengio's for folds whose training parts overlap; None for k-means of all rows, which
    has one value a seed.
    """

    metric: str
    setting: str
    over_all: Summary
    over_seeds: Summary
    interval: PairedDifference | None

    def __iter__(self) -> Iterator[Measure]:
        name, n = f"{self.metric}/{self.setting}", self.over_all.n
        yield Measure(name, self.over_all.mean, n)
        for end, value in (("std", self.over_all.sd), ("seed_std", self.over_seeds.sd)):
            yield Measure(f"{name}_{end}", value, n, "" if value is not None else "one run")


def fold_rows(labels: NDArray[np.int64], folds: int = FOLDS, seed: int = 0) -> list[FoldRows]:
    """Stratified folds, shuffled by ``seed``, of all rows; ``labels`` is int64 (n,) without -1.

    A class of fewer rows than folds is held out in as many folds as it has rows. Raises ``EvaluationError`` for
    fewer rows than folds, one class, or unlabelled rows.
    """
    from sklearn.model_selection import StratifiedKFold

    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2 or present[0] < 0:
        raise EvaluationError(f"labels {present[:3].tolist()}; folds need labelled rows of at least 2 classes")
    if not 2 <= folds <= counts.max():
        raise EvaluationError(f"{folds} folds, and the largest class has {counts.max()} rows; give 2 to {counts.max()}")
    splitter = StratifiedKFold(folds, shuffle=True, random_state=int(generator(seed, "fold-rows").integers(2**31)))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # small classes: see above
        parts = list(splitter.split(np.zeros(len(labels)), labels))
    return [FoldRows(number, fit, held) for number, (fit, held) in enumerate(parts)]


def small_classes(labels: NDArray[np.int64], names: Sequence[str], folds: int = FOLDS) -> tuple[str, ...]:
    """A note for each class with fewer rows than folds."""
    present, counts = np.unique(labels, return_counts=True)
    small = [(label, count) for label, count in zip(present, counts, strict=True) if count < folds]
    return tuple(f"class {names[label]} has {count} rows: no fold holds more than one" for label, count in small)


def score_inductive(fit: Features, held: Features, fold: FoldRows, *, seed: int = 0) -> FoldScore:
    """Scores of ``held`` rows by machine and centres fitted on ``fit`` rows, both in a space fitted on the latter.

    Raises ``EvaluationError`` and its kin.
    """
    clusters = _clusters(fit, held, seed, transductive=False)
    return _score("inductive", seed, fold, _machines(fit, held, seed), clusters)


def score_transductive(features: Features, folds: Sequence[FoldRows], *, seed: int = 0) -> list[FoldScore]:
    """A score for each fold of a space fitted on all rows; k-means, which has no folds here, stands in the first.

    Raises ``EvaluationError`` and its kin.
    """
    scores = []
    for fold in folds:
        fit, held = features.take(fold.fit), features.take(fold.held)
        clusters = _clusters(fit, held, seed, transductive=True) if fold.number == folds[0].number else None
        scores.append(_score("transductive", seed, fold, _machines(fit, held, seed), clusters))
    return scores


def summarise_folds(scores: Iterable[FoldScore]) -> list[FoldSummary]:
    """Every metric of every setting over its folds and seeds, in the order of ``SETTINGS`` and ``METRICS``."""
    groups: dict[tuple[str, str], list[FoldScore]] = {(s, m): [] for s in SETTINGS for m in METRICS}
    for score in scores:
        for metric in score.values:
            groups[score.setting, metric].append(score)
    return [_summary(metric, setting, kept) for (setting, metric), kept in groups.items() if kept]


def _summary(metric: str, setting: str, scores: list[FoldScore]) -> FoldSummary:
    ordered = sorted(scores, key=lambda score: (score.seed, score.fold))
    values = [score.values[metric] for score in ordered]
    seeds = [[s.values[metric] for s in group] for _, group in groupby(ordered, key=lambda score: score.seed)]
    interval = None
    if len(seeds[0]) > 1:
        interval = corrected_resampled_difference(values, [0.0] * len(values), 1 / len(seeds[0]))
    return FoldSummary(metric, setting, summarise(values), summarise([float(np.mean(v)) for v in seeds]), interval)


def _machines(fit: Features, held: Features, seed: int) -> dict[str, float]:
    """Accuracy of the linear machine and of the one with the radial kernel, C chosen within ``fit``."""
    kernels = {"svm": SvmSettings("linear"), "svm-rbf": SvmSettings("rbf")}
    return {name: evaluate_svm(fit, held, settings, seed=seed).top1 for name, settings in kernels.items()}


def _clusters(fit: Features, held: Features, seed: int, *, transductive: bool) -> ClusterScores:
    return evaluate_kmeans(fit, held, KmeansSettings(seeds=1, transductive=transductive), seed=seed).backbone


def _score(
    setting: str, seed: int, fold: FoldRows, values: dict[str, float], clusters: ClusterScores | None
) -> FoldScore:
    if clusters is not None and not clusters.reason:
        values = values | {"kmeans": clusters.values["accuracy"][0]}
    return FoldScore(setting, seed, fold.number, values, len(fold.held), clusters.reason if clusters else "")
