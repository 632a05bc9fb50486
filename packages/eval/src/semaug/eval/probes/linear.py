"""Linear probes of frozen features: multinomial logistic regression, solved in one of two ways.

``lbfgs`` (the default) minimises the mean cross-entropy with an L2 penalty over the whole training set, on
standardised features (``logistic``). ``sgd`` is the papers' setting (spec S1.9 a): 100 epochs, batch 256, momentum
0.9, learning rate divided by 10 after 60 and 80 epochs, no weight decay, raw features. Penalty and learning rate are
chosen on a selection split of the training set; then the probe is fitted again on all of it, starting from there, and
the test set is read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.measures import Measure
from semaug.eval.probes.logistic import HELD, PENALTIES, Classifier, LbfgsSettings, fit_lbfgs
from semaug.eval.splits import LabelledPair, labelled_pair, selection_split
from semaug.eval.subsets import overlap_warning

LEARNING_RATES = (0.1, 0.3, 1.0, 3.0)
PAPER_LEARNING_RATE = 0.3
__all__ = [
    "LEARNING_RATES",
    "PAPER_LEARNING_RATE",
    "PENALTIES",
    "Classifier",
    "LbfgsSettings",
    "LinearResult",
    "SgdSettings",
    "evaluate_linear",
    "fit_lbfgs",
    "fit_sgd",
]


@dataclass(frozen=True, slots=True)
class SgdSettings:
    """The papers' probe; all ``learning_rates`` are trained side by side on the same batches."""

    learning_rates: tuple[float, ...] = LEARNING_RATES
    epochs: int = 100
    batch_size: int = 256
    milestones: tuple[float, ...] = (0.6, 0.8)
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise EvaluationError(f"learning rates {self.learning_rates}; give at least one, all above 0")
        if self.epochs < 1 or self.batch_size < 1:
            raise EvaluationError(f"{self.epochs} epochs of batch {self.batch_size}; both must be at least 1")

    @property
    def choices(self) -> tuple[float, ...]:
        return self.learning_rates


@dataclass(frozen=True, slots=True)
class LinearResult:
    """Accuracy on the test set; ``top5`` is None with five classes or fewer.

    ``chosen`` is the penalty or learning rate, ``selection_accuracy`` the accuracy on the selection split of each
    choice, ``per_class`` top-1 of each class (NaN without test images).
    """

    solver: str
    top1: float
    top5: float | None
    n: int
    chosen: float
    selection_accuracy: dict[float, float]
    per_class: NDArray[np.float64]
    class_names: tuple[str, ...]
    classifier: Classifier = field(repr=False)
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        yield Measure("linear/top1", self.top1, self.n)
        yield Measure("linear/top5", self.top5, self.n, "" if self.top5 is not None else "five classes or fewer")


def evaluate_linear(
    train: Features,
    test: Features,
    settings: LbfgsSettings | SgdSettings | None = None,
    *,
    device: str = "cpu",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> LinearResult:
    """Fit a linear classifier on the training features and score it on the test features.

    Unlabelled images take no part; a class without training images is never predicted, so its test images count
    as wrong. Raises ``EvaluationError`` and its kin.
    """
    settings = settings or LbfgsSettings()
    pair = labelled_pair(train, test)
    solve = _Solver(settings, pair.classes, device, seed, on_progress)
    chosen, scores, start, notes = _choose(pair, settings.choices, solve, seed)
    classifier = solve(pair.train.features, pair.train.labels, (chosen,), start=start)[0]
    top1, top5, per_class = _score(classifier, pair)
    n, solver, notes = len(pair.test), solve.name, pair.warnings + overlap_warning(pair) + notes
    return LinearResult(solver, top1, top5, n, chosen, scores, per_class, pair.train.class_names, classifier, notes)


def _choose(
    pair: LabelledPair, choices: tuple[float, ...], solve: _Solver, seed: int
) -> tuple[float, dict[float, float], Classifier | None, tuple[str, ...]]:
    """The choice with the best selection accuracy (the first of equals), all accuracies, its classifier, and notes."""
    if len(choices) == 1:
        return choices[0], {}, None, ()
    fit, selection = selection_split(pair.train.labels, seed=seed)
    features, labels = pair.train.features, pair.train.labels
    classifiers = solve(features, labels[fit], choices, rows=fit)
    wanted = labels[selection]
    right = [classifier.predict(features, selection) == wanted for classifier in classifiers]
    scores = {choice: float(hits.mean()) for choice, hits in zip(choices, right, strict=True)}
    chosen = max(choices, key=lambda choice: scores[choice])
    edge = chosen in (choices[0], choices[-1]) and list(scores.values()).count(scores[chosen]) == 1
    note = f"the chosen setting {chosen:g} is at the end of the list {choices}: a wider list may do better"
    return chosen, scores, classifiers[choices.index(chosen)], (note,) if edge else ()


def _score(classifier: Classifier, pair: LabelledPair) -> tuple[float, float | None, NDArray[np.float64]]:
    labels = pair.test.labels
    right = classifier.predict(pair.test.features) == labels
    counts = np.bincount(labels, minlength=pair.classes)
    hits = np.bincount(labels, weights=right, minlength=pair.classes)
    per_class = np.divide(hits, counts, out=np.full(pair.classes, np.nan), where=counts > 0)
    top5 = None
    if pair.classes > 5:
        best = classifier.best(pair.test.features, 5)
        top5 = float((best == labels[:, None]).any(1).mean())
    return float(right.mean()), top5, per_class


class _Solver:
    """Fits one classifier for each choice of the penalty or the learning rate."""

    def __init__(
        self,
        settings: LbfgsSettings | SgdSettings,
        classes: int,
        device: str,
        seed: int,
        on_progress: OnProgress,
    ) -> None:
        self.settings, self.classes, self.device, self.seed = settings, classes, device, seed
        self.on_progress = on_progress
        self.name = "lbfgs" if isinstance(settings, LbfgsSettings) else "sgd"

    def __call__(
        self,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        choices: Sequence[float],
        *,
        rows: NDArray[np.intp] | None = None,
        start: Classifier | None = None,
    ) -> list[Classifier]:
        """Fit to all features, or to ``rows`` of them, whose labels are given; ``start`` is a classifier near by."""
        present, places = np.unique(labels, return_inverse=True)
        several, near = len(present), None if start is None else _narrow(start, present)
        if isinstance(self.settings, SgdSettings):
            x, y = torch.from_numpy(np.asarray(features)), torch.from_numpy(places)
            solved = fit_sgd(
                x, y, several, self.settings, choices, rows=rows, device=self.device, seed=self.seed,
                on_progress=self.on_progress,
            )  # fmt: skip
        else:
            solved = fit_lbfgs(
                features, places, several, self.settings, choices, rows=rows, start=near, device=self.device,
                on_progress=self.on_progress,
            )  # fmt: skip
        return [_widen(classifier, present, self.classes) for classifier in solved]


def _narrow(classifier: Classifier, present: NDArray[np.int64]) -> Classifier:
    """The classifier of the classes present; one it was not fitted to starts from a bias of 0."""
    bias = classifier.bias[present]
    return Classifier(classifier.weight[:, present], np.where(np.isfinite(bias), bias, np.float32(0)))


def _widen(classifier: Classifier, present: NDArray[np.int64], classes: int) -> Classifier:
    """The classifier over all classes; one without training images gets a logit of minus infinity."""
    if len(present) == classes:
        return classifier
    weight = np.zeros((len(classifier.weight), classes), dtype=np.float32)
    bias = np.full(classes, -np.inf, dtype=np.float32)
    weight[:, present], bias[present] = classifier.weight, classifier.bias
    return Classifier(weight, bias)


def fit_sgd(
    x: torch.Tensor,
    y: torch.Tensor,
    classes: int,
    settings: SgdSettings,
    learning_rates: Sequence[float],
    *,
    rows: NDArray[np.intp] | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> list[Classifier]:
    """SGD with momentum from zero weights, every learning rate on the same shuffled batches: x float32 (n, d).

    With ``rows`` only those rows of ``x`` take part, and ``y`` is theirs. Rows are gathered batch by batch, so that a
    mapped matrix is read as it is needed. Raises ``EvaluationError`` where the weights diverge.
    """
    several, where = len(learning_rates), torch.device(device or x.device)
    rates = torch.tensor(learning_rates, device=where, dtype=x.dtype).view(several, 1, 1)
    weight = torch.zeros(several, x.shape[1] + 1, classes, device=where, dtype=x.dtype)
    velocity, one = torch.zeros_like(weight), torch.ones(settings.batch_size, 1, device=where, dtype=x.dtype)
    chosen = torch.arange(len(x)) if rows is None else torch.from_numpy(rows)
    if x.nbytes <= HELD:
        x, chosen = x.to(where), chosen.to(where)
    y, rng = y.to(where), generator(seed, "linear-probe")
    for epoch in range(settings.epochs):
        drop = 0.1 ** sum(epoch >= share * settings.epochs for share in settings.milestones)
        order = torch.from_numpy(rng.permutation(len(chosen)))
        for batch in order.split(settings.batch_size):
            inputs = torch.cat([x[chosen[batch.to(chosen.device)]].to(where), one[: len(batch)]], 1)
            gradient = _gradient(inputs, y[batch.to(where)], weight)
            velocity.mul_(settings.momentum).add_(gradient).add_(weight, alpha=settings.weight_decay)
            weight.sub_(drop * rates * velocity)
        on_progress(Progress("linear probe", epoch + 1, settings.epochs, unit="epochs"))
    if not bool(torch.isfinite(weight).all()):
        raise EvaluationError(f"SGD diverged at learning rates {tuple(learning_rates)}; lower them or use lbfgs")
    arrays = weight.float().cpu().numpy()
    return [Classifier(np.ascontiguousarray(matrix[:-1]), matrix[-1].copy()) for matrix in arrays]


def _gradient(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Gradient of the mean cross-entropy for each learning rate's weights: (several, d + 1, classes)."""
    residual = torch.softmax(x @ weight, dim=2)
    residual[:, torch.arange(len(y), device=y.device), y] -= 1
    return x.T @ residual / len(y)
