"""k-means on frozen features, scored against the classes (spec S4.7): Hungarian accuracy, NMI and ARI.

*Inductive* fits the centres on the training set and scores the test set; *transductive* fits and scores all images
at once. Labels give the number of clusters and the score, never the clusters. The accuracy is that of the best
one-to-one match of clusters and classes on the scored images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.measures import Measure
from semaug.eval.splits import LabelledPair, labelled_pair
from semaug.eval.statistics import summarise
from semaug.eval.subsets import overlap_warning

SEEDS = 5
STARTS = 10
PER_CLUSTER = 1000
METRICS = ("accuracy", "nmi", "ari")


@dataclass(frozen=True, slots=True)
class KmeansSettings:
    """``starts`` initialisations (the one of least inertia counts) in each of ``seeds`` repetitions.

    ``clusters`` None is the number of classes; ``normalise`` scales features to length 1 first; ``transductive``
    clusters and scores all images at once. Inductive centres are fitted on a draw of at most ``per_cluster`` training
    images a cluster (None: all), as more change them little and take longer.
    """

    seeds: int = SEEDS
    starts: int = STARTS
    clusters: int | None = None
    normalise: bool = False
    transductive: bool = False
    per_cluster: int | None = PER_CLUSTER

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.starts < 1:
            raise EvaluationError(f"{self.seeds} seeds of {self.starts} starts; give at least 1 of each")
        if self.per_cluster is not None and self.per_cluster < 1:
            raise EvaluationError(f"{self.per_cluster} training images a cluster; give at least 1, or none for all")
        if self.clusters is not None and self.clusters < 2:
            raise EvaluationError(f"{self.clusters} clusters; give at least 2, or none for the number of classes")

    @property
    def setting(self) -> str:
        """``inductive`` or ``transductive``."""
        return "transductive" if self.transductive else "inductive"


@dataclass(frozen=True, slots=True)
class ClusterScores:
    """Scores in one space (``backbone`` or ``projector``), one a seed: ``values`` maps each of ``METRICS`` to them.

    ``reason`` says why there are none.
    """

    space: str
    setting: str
    clusters: int
    n: int
    values: dict[str, tuple[float, ...]]
    reason: str = ""

    def __iter__(self) -> Iterator[Measure]:
        for metric in METRICS:
            name = f"kmeans/{self.space}/{self.setting}/{metric}"
            if self.reason:
                yield Measure(name, None, self.n, self.reason)
                yield Measure(f"{name}_std", None, self.n, self.reason)
                continue
            summary = summarise(self.values[metric])
            yield Measure(name, summary.mean, self.n)
            yield Measure(f"{name}_std", summary.sd, self.n, "" if summary.sd is not None else "one seed")


@dataclass(frozen=True, slots=True)
class KmeansResult:
    """Scores of both spaces; ``projector`` is None without projections."""

    backbone: ClusterScores
    projector: ClusterScores | None
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        for scores in (self.backbone, self.projector):
            if scores is not None:
                yield from scores


def evaluate_kmeans(
    train: Features,
    test: Features,
    settings: KmeansSettings | None = None,
    *,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> KmeansResult:
    """Cluster backbone features and projections, as many clusters as there are classes, and score the clusters.

    Unlabelled images take no part. Fewer distinct points than clusters give None with the reason. Raises
    ``EvaluationError`` and its kin.
    """
    settings = settings or KmeansSettings()
    pair = labelled_pair(train, test)
    clusters = settings.clusters or len(np.union1d(pair.train.labels, pair.test.labels))
    warnings = _warnings(pair, settings)
    pair, drawn = _limited(pair, clusters, settings, seed)
    spaces = ["backbone"]
    if pair.train.projections is not None and pair.test.projections is not None:
        spaces.append("projector")
    runs = _Runs(settings, seed, settings.seeds * len(spaces), on_progress)
    scores = [_score_space(pair, space, clusters, settings, runs) for space in spaces]
    return KmeansResult(scores[0], scores[1] if len(scores) > 1 else None, warnings + drawn)


def hungarian_accuracy(clusters: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Share of images whose cluster is matched to their class, under the best one-to-one match (Kuhn 1955).

    Clusters beyond the number of classes are matched to none, and their images count as wrong; and the reverse.

    >>> hungarian_accuracy(np.asarray([5, 5, 2, 2]), np.asarray([0, 0, 1, 0]))
    0.75
    """
    from scipy.optimize import linear_sum_assignment

    if len(clusters) != len(labels) or not len(labels):
        raise EvaluationError(f"{len(clusters)} clusters and {len(labels)} labels; give one of each an image")
    _, rows = np.unique(clusters, return_inverse=True)
    _, columns = np.unique(labels, return_inverse=True)
    counts = np.zeros((rows.max() + 1, columns.max() + 1), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    matched = linear_sum_assignment(counts, maximize=True)
    return float(counts[matched].sum()) / len(labels)


class _Runs:
    """Fits k-means, once a seed, and tells how many of all runs are done."""

    def __init__(self, settings: KmeansSettings, seed: int, total: int, on_progress: OnProgress) -> None:
        self.settings, self.seed, self.total, self.on_progress, self.done = settings, seed, total, on_progress, 0

    def __call__(
        self, fit: NDArray[np.float32], scored: NDArray[np.float32], clusters: int
    ) -> Iterator[tuple[NDArray[np.int32], int]]:
        """For each seed the cluster of each row of ``scored``, and how many clusters hold a row of ``fit``."""
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        for repetition in range(self.settings.seeds):
            state = int(generator(self.seed, "k-means", epoch=repetition).integers(2**31))
            means = KMeans(clusters, n_init=self.settings.starts, random_state=state)
            with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # told as a reason below
                means.fit(fit)
            self.done += 1
            self.on_progress(Progress("k-means", self.done, self.total, unit="runs"))
            yield (means.labels_ if scored is fit else means.predict(scored)), len(np.unique(means.labels_))


def _limited(
    pair: LabelledPair, clusters: int, settings: KmeansSettings, seed: int
) -> tuple[LabelledPair, tuple[str, ...]]:
    """Fewer training images where there are many for each cluster, drawn without a look at their labels; and a note."""
    total, limit = len(pair.train), clusters * (settings.per_cluster or len(pair.train))
    if settings.transductive or total <= limit:
        return pair, ()
    rows = np.sort(generator(seed, "k-means-limit").permutation(total)[:limit])
    return replace(pair, train=pair.train.take(rows)), (f"centres of {limit:,} of {total:,} training images",)


def _score_space(pair: LabelledPair, space: str, clusters: int, settings: KmeansSettings, runs: _Runs) -> ClusterScores:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    fit, scored = _values(pair.train, space, settings), _values(pair.test, space, settings)
    labels = pair.test.labels
    if settings.transductive:
        fit = scored = np.concatenate([fit, scored])
        labels = np.concatenate([pair.train.labels, labels])
    reason = f"{len(fit)} images, fewer than {clusters} clusters" if len(fit) < clusters else ""
    values: dict[str, tuple[float, ...]] = dict.fromkeys(METRICS, ())
    for found, filled in runs(fit, scored, clusters) if not reason else ():
        if filled < clusters:
            distinct = len(np.unique(fit, axis=0))
            reason = f"{distinct} distinct points of {len(fit)}, and {clusters} clusters: features repeat"
            break
        pairs = (hungarian_accuracy(found, labels), normalized_mutual_info_score(labels, found))
        for metric, value in zip(METRICS, (*pairs, adjusted_rand_score(labels, found)), strict=True):
            values[metric] += (float(value),)
    return ClusterScores(space, settings.setting, clusters, len(labels), {} if reason else values, reason)


def _values(features: Features, space: str, settings: KmeansSettings) -> NDArray[np.float32]:
    values = features.features if space == "backbone" else features.projections
    assert values is not None
    if not settings.normalise:
        return values
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _warnings(pair: LabelledPair, settings: KmeansSettings) -> tuple[str, ...]:
    unseen = np.setdiff1d(pair.test.labels, pair.train.labels)
    found: tuple[str, ...] = ()
    if len(unseen) and not settings.transductive:
        found = (f"{len(unseen)} test classes have no training images: the clusters were found without them",)
    return found + overlap_warning(pair)
