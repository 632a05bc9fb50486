"""Support vector machines on frozen features (spec S4.7): stratified folds, or trained on one set and scored on
another.

The scaler and the cost C belong to the training part alone: the columns are standardised by its mean and deviation,
and C is chosen on a selection split inside it. The spread over folds uses Nadeau and Bengio's correction, since the
training sets of folds overlap (Nadeau and Bengio 2003, "Inference for the Generalization Error").
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.measures import Measure
from semaug.eval.splits import labelled_pair, selection_split
from semaug.eval.statistics import PairedDifference, corrected_resampled_difference, summarise
from semaug.eval.subsets import overlap_warning, stratified_subset

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

LINEAR_COSTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RBF_COSTS = (0.1, 1.0, 10.0)
LINEAR_FOLDS, RBF_FOLDS = 10, 5
FOLD_LIMIT, RBF_LIMIT = 10_000, 5_000
SELECTION_LIMIT = 5_000
_KERNELS = {
    "linear": (LINEAR_COSTS, LINEAR_FOLDS, FOLD_LIMIT),
    "rbf": (RBF_COSTS, RBF_FOLDS, RBF_LIMIT),
}


@dataclass(frozen=True, slots=True)
class SvmSettings:
    """``linear`` is P4's protocol: 10 folds, squared hinge loss, one class against the rest. ``rbf`` is the form of
    P4's public code: 5 folds of at most 5,000 images, gamma 1 / (columns x variance).

    None takes the kernel's own: ``costs`` to choose C from, the number of ``folds``, and ``limit``, the images that
    the folds are made of (a stratified draw of more). C is chosen on at most ``selection_limit`` training images.
    """

    kernel: str = "linear"
    costs: tuple[float, ...] | None = None
    folds: int | None = None
    limit: int | None = None
    selection_limit: int = SELECTION_LIMIT
    iterations: int = 2000

    def __post_init__(self) -> None:
        if self.kernel not in _KERNELS:
            raise EvaluationError(f"kernel {self.kernel!r} is not known; choose one of {', '.join(_KERNELS)}")
        for name, value in zip(("costs", "folds", "limit"), _KERNELS[self.kernel], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if min(self.costs or (), default=0.0) <= 0:
            raise EvaluationError(f"costs {self.costs}; give at least one, all above 0")
        if (self.folds or 0) < 2 or (self.limit or 0) < 4 or self.selection_limit < 4:
            raise EvaluationError(
                f"{self.folds} folds of at most {self.limit} images, {self.selection_limit} to select on; "
                "give at least 2 folds and 4 images"
            )

    @property
    def prefix(self) -> str:
        """What the names of its measures begin with."""
        return "svm" if self.kernel == "linear" else f"svm-{self.kernel}"


@dataclass(frozen=True, slots=True)
class SvmResult:
    """Accuracy on the test set of the machine fitted on the training set.

    ``cost`` is the chosen C, ``selection_accuracy`` that of each C on the selection split (empty for a single C).
    """

    settings: SvmSettings
    top1: float
    n: int
    cost: float
    selection_accuracy: dict[float, float]
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        yield Measure(f"{self.settings.prefix}/top1", self.top1, self.n)


@dataclass(frozen=True, slots=True)
class SvmFolds:
    """Accuracies of the folds and the C of each; none where ``reason`` says why there are no folds.

    ``n`` counts the images, each scored once. The interval is Nadeau and Bengio's at 95% and may reach beyond 0 or 1.
    """

    settings: SvmSettings
    accuracies: tuple[float, ...]
    costs: tuple[float, ...]
    n: int
    reason: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def interval(self) -> PairedDifference:
        """Mean and corrected interval of the accuracy."""
        folds = len(self.accuracies)
        return corrected_resampled_difference(self.accuracies, [0.0] * folds, 1 / folds)

    def __iter__(self) -> Iterator[Measure]:
        names = [f"{self.settings.prefix}/folds/top1{end}" for end in ("", "_std", "_interval_low", "_interval_high")]
        if self.reason:
            yield from (Measure(name, None, self.n, self.reason) for name in names)
            return
        summary, interval = summarise(self.accuracies), self.interval
        for name, value in zip(names, (summary.mean, summary.sd, interval.low, interval.high), strict=True):
            yield Measure(name, value, self.n)


def evaluate_svm(
    train: Features,
    test: Features,
    settings: SvmSettings | None = None,
    *,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> SvmResult:
    """Fit on the training features, score on the test features once.

    Unlabelled images take no part; test images of a class without training images count as wrong. Raises
    ``EvaluationError`` and its kin.
    """
    settings = settings or SvmSettings()
    pair = labelled_pair(train, test)
    with _no_convergence_warnings():
        machine, cost, scores, notes = _fit(pair.train.features, pair.train.labels, settings, seed)
        on_progress(Progress("svm", 1, 1, unit="fits"))
    top1 = float((machine.predict(pair.test.features) == pair.test.labels).mean())
    found = pair.warnings + overlap_warning(pair) + notes
    return SvmResult(settings, top1, len(pair.test), cost, scores, found)


def cross_validate_svm(
    features: Features,
    settings: SvmSettings | None = None,
    *,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> SvmFolds:
    """Stratified folds over one labelled set; scaler and C are fitted anew inside each fold's training part.

    With fewer images in a class than folds, there are as many folds as the smallest class has images, and a warning;
    a class with one image gives no folds, and the reason. Raises ``EvaluationError`` and its kin.
    """
    settings = settings or SvmSettings()
    labelled = labelled_pair(features, features).train
    rows, notes = _limited(labelled.labels, settings, seed)
    x, y = labelled.features[rows], labelled.labels[rows]
    folds, more = _folds(y, settings, labelled.class_names)
    if folds < 2:
        return SvmFolds(settings, (), (), len(y), more, notes)
    with _no_convergence_warnings():
        scored = _score_folds(x, y, folds, settings, seed, on_progress)
    told = tuple(dict.fromkeys(note for _, _, found in scored for note in found))
    accuracies, costs = tuple(a for a, _, _ in scored), tuple(c for _, c, _ in scored)
    return SvmFolds(settings, accuracies, costs, len(y), "", notes + ((more,) if more else ()) + told)


def _limited(labels: NDArray[np.int64], settings: SvmSettings, seed: int) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    limit = settings.limit or len(labels)
    if len(labels) <= limit:
        return np.arange(len(labels)), ()
    rows = stratified_subset(labels, limit / len(labels), seed, purpose="svm-limit")
    return rows, (f"folds of {len(rows):,} of {len(labels):,} images, drawn class by class (the limit is {limit:,})",)


def _folds(labels: NDArray[np.int64], settings: SvmSettings, names: tuple[str, ...]) -> tuple[int, str]:
    """How many folds the smallest class allows, and what to say where that is not what was asked for."""
    present, counts = np.unique(labels, return_counts=True)
    asked, smallest = settings.folds or 2, int(counts.min())
    name = names[present[counts.argmin()]]
    if smallest >= asked:
        return asked, ""
    if smallest < 2:
        return 0, f"class {name} has 1 image, which cannot be trained on and scored; leave it out or add images"
    return smallest, f"{smallest} folds instead of {asked}: class {name} has {smallest} images"


def _score_folds(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    folds: int,
    settings: SvmSettings,
    seed: int,
    on_progress: OnProgress,
) -> list[tuple[float, float, tuple[str, ...]]]:
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(folds, shuffle=True, random_state=int(generator(seed, "svm-folds").integers(2**31)))

    def score(part: tuple[NDArray[np.intp], NDArray[np.intp]]) -> tuple[float, float, tuple[str, ...]]:
        fit, held = part
        machine, cost, _, notes = _fit(x[fit], y[fit], settings, seed)
        return float((machine.predict(x[held]) == y[held]).mean()), cost, notes

    scored = []
    with ThreadPoolExecutor(min(folds, torch.get_num_threads())) as pool:  # the libraries release the lock
        for found in pool.map(score, splitter.split(x, y)):
            scored.append(found)
            on_progress(Progress("svm", len(scored), folds, unit="folds"))
    return scored


def _fit(
    x: NDArray[np.float32], y: NDArray[np.int64], settings: SvmSettings, seed: int
) -> tuple[Pipeline, float, dict[float, float], tuple[str, ...]]:
    """The machine of the best C (the smallest of equals), that C, all selection accuracies, and notes."""
    costs = sorted(settings.costs or ())
    scores: dict[float, float] = {}
    if len(costs) > 1:
        rows = np.arange(len(y))
        if len(y) > settings.selection_limit:
            rows = stratified_subset(y, settings.selection_limit / len(y), seed, purpose="svm-selection")
        fit, selection = (rows[part] for part in selection_split(y[rows], seed=seed))
        for cost in costs:
            predicted = _machine(settings, cost).fit(x[fit], y[fit]).predict(x[selection])
            scores[cost] = float((predicted == y[selection]).mean())
    chosen = max(costs, key=lambda cost: scores.get(cost, 0.0))
    machine = _machine(settings, chosen).fit(x, y)
    return machine, chosen, scores, _unconverged(machine, settings, chosen)


def _machine(settings: SvmSettings, cost: float) -> Pipeline:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC, LinearSVC

    if settings.kernel == "rbf":
        classifier: Any = SVC(C=cost, kernel="rbf", gamma="scale")
    else:
        classifier = LinearSVC(C=cost, dual="auto", tol=1e-3, max_iter=settings.iterations, random_state=0)
    return make_pipeline(StandardScaler(), classifier)


def _unconverged(machine: Pipeline, settings: SvmSettings, cost: float) -> tuple[str, ...]:
    if settings.kernel != "linear" or int(np.max(machine[-1].n_iter_)) < settings.iterations:
        return ()
    return (f"the solver stopped at {settings.iterations} iterations with C = {cost:g}: give smaller costs",)


def _no_convergence_warnings() -> Any:
    """Silence the library's own warning; ``_unconverged`` says it once, with the remedy."""
    from sklearn.exceptions import ConvergenceWarning

    return warnings.catch_warnings(action="ignore", category=ConvergenceWarning)
