"""Linear probes of frozen features: multinomial logistic regression, solved in one of two ways.

``lbfgs`` (the default on CPU) minimises the mean cross-entropy with an L2 penalty over the whole training set, on
standardised features. ``sgd`` is the papers' setting (spec S1.9 a): 100 epochs, batch 256, momentum 0.9, learning
rate divided by 10 after 60 and 80 epochs, no weight decay, raw features. Penalty and learning rate are chosen on a
selection split of the training set; then the probe is fitted again on all of it and the test set is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from semaug.artifacts.draws import generator
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.measures import Measure
from semaug.eval.splits import LabelledPair, labelled_pair, selection_split

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
LEARNING_RATES = (0.1, 0.3, 1.0, 3.0)
PAPER_LEARNING_RATE = 0.3


@dataclass(frozen=True, slots=True)
class Classifier:
    """Logits are ``features @ weight + bias``: weight float32 (d, classes), bias float32 (classes,)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, classes)."""
        return features @ self.weight + self.bias


@dataclass(frozen=True, slots=True)
class LbfgsSettings:
    """Full-batch logistic regression: L2 ``penalties`` to choose from (lambda of lambda/2 |W|^2 beside the mean
    cross-entropy over standardised features; the bias is free), and the limits of each solution."""

    penalties: tuple[float, ...] = PENALTIES
    iterations: int = 300
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if not self.penalties or min(self.penalties) <= 0:
            raise EvaluationError(f"penalties {self.penalties}; give at least one, all above 0")

    @property
    def choices(self) -> tuple[float, ...]:
        return self.penalties


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
    chosen, scores, notes = _choose(pair, settings.choices, solve, seed)
    classifier = solve(pair.train.features, pair.train.labels, (chosen,))[0]
    top1, top5, per_class = _score(classifier, pair)
    n, solver = len(pair.test), solve.name
    return LinearResult(
        solver, top1, top5, n, chosen, scores, per_class, pair.train.class_names, classifier, pair.warnings + notes
    )


def _choose(
    pair: LabelledPair, choices: tuple[float, ...], solve: _Solver, seed: int
) -> tuple[float, dict[float, float], tuple[str, ...]]:
    """The choice with the best selection accuracy (the first of equals), all accuracies, and notes."""
    if len(choices) == 1:
        return choices[0], {}, ()
    fit, selection = selection_split(pair.train.labels, seed=seed)
    features, labels = pair.train.features, pair.train.labels
    classifiers = solve(features[fit], labels[fit], choices)
    scores = {
        choice: float((classifier.logits(features[selection]).argmax(1) == labels[selection]).mean())
        for choice, classifier in zip(choices, classifiers, strict=True)
    }
    chosen = max(choices, key=lambda choice: scores[choice])
    edge = chosen in (choices[0], choices[-1]) and list(scores.values()).count(scores[chosen]) == 1
    note = f"the chosen setting {chosen:g} is at the end of the list {choices}: a wider list may do better"
    return chosen, scores, (note,) if edge else ()


def _score(classifier: Classifier, pair: LabelledPair) -> tuple[float, float | None, NDArray[np.float64]]:
    logits, labels = classifier.logits(pair.test.features), pair.test.labels
    right = logits.argmax(1) == labels
    counts = np.bincount(labels, minlength=pair.classes)
    hits = np.bincount(labels, weights=right, minlength=pair.classes)
    per_class = np.divide(hits, counts, out=np.full(pair.classes, np.nan), where=counts > 0)
    top5 = None
    if pair.classes > 5:
        best = np.argpartition(-logits, 5, axis=1)[:, :5]
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
        self, features: NDArray[np.float32], labels: NDArray[np.int64], choices: Sequence[float]
    ) -> list[Classifier]:
        present, places = np.unique(labels, return_inverse=True)
        x, y = torch.from_numpy(features).to(self.device), torch.from_numpy(places).to(self.device)
        if isinstance(self.settings, SgdSettings):
            solved = fit_sgd(x, y, len(present), self.settings, choices, seed=self.seed, on_progress=self.on_progress)
        else:
            solved = fit_lbfgs(x, y, len(present), self.settings, choices, on_progress=self.on_progress)
        return [_widen(classifier, present, self.classes) for classifier in solved]


def _widen(classifier: Classifier, present: NDArray[np.int64], classes: int) -> Classifier:
    """The classifier over all classes; one without training images gets a logit of minus infinity."""
    if len(present) == classes:
        return classifier
    weight = np.zeros((len(classifier.weight), classes), dtype=np.float32)
    bias = np.full(classes, -np.inf, dtype=np.float32)
    weight[:, present], bias[present] = classifier.weight, classifier.bias
    return Classifier(weight, bias)


def fit_lbfgs(
    x: torch.Tensor,
    y: torch.Tensor,
    classes: int,
    settings: LbfgsSettings,
    penalties: Sequence[float],
    *,
    on_progress: OnProgress = ignore_progress,
) -> list[Classifier]:
    """One solution a penalty, each started from the one before: x float (n, d), y int64 (n,).

    The columns are standardised by their own mean and deviation (a constant column is left out), which is folded
    back into the classifiers returned, so that these take raw features.
    """
    mean, deviation = x.mean(0), x.std(0, correction=0)
    scale = torch.where(deviation > 1e-6 * (mean.abs() + 1e-6), 1 / deviation.clamp_min(1e-30), 0 * deviation)
    standardised = (x - mean) * scale
    parameters = np.zeros((x.shape[1] + 1) * classes)
    solutions = []
    for done, penalty in enumerate(penalties):
        objective = _cross_entropy(standardised, y, classes, penalty)
        options = {
            "maxiter": settings.iterations,
            "gtol": settings.tolerance,
            "ftol": 1e-4 * settings.tolerance,
            "maxcor": 20,
        }
        parameters = minimize(objective, parameters, jac=True, method="L-BFGS-B", options=options).x
        matrix = parameters.reshape(-1, classes)
        weight = matrix[:-1] * scale.cpu().double().numpy()[:, None]
        bias = matrix[-1] - mean.cpu().double().numpy() @ weight
        solutions.append(Classifier(weight.astype(np.float32), bias.astype(np.float32)))
        on_progress(Progress("linear probe", done + 1, len(penalties), unit="penalties"))
    return solutions


def _cross_entropy(
    x: torch.Tensor, y: torch.Tensor, classes: int, penalty: float
) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
    """Mean cross-entropy plus penalty/2 |W|^2 and its gradient, as a function of the flat (d + 1, classes) matrix."""
    rows = torch.arange(len(y), device=y.device)

    def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        matrix = torch.from_numpy(parameters).to(x.device, x.dtype).view(-1, classes)
        log_p = torch.log_softmax(torch.addmm(matrix[-1], x, matrix[:-1]), dim=1)
        loss = -log_p[rows, y].double().mean() + penalty / 2 * matrix[:-1].double().square().sum()
        residual = log_p.exp_()
        residual[rows, y] -= 1
        residual /= len(y)
        gradient = torch.cat([x.T @ residual + penalty * matrix[:-1], residual.sum(0, keepdim=True)])
        return float(loss), gradient.double().cpu().numpy().ravel()

    return objective


def fit_sgd(
    x: torch.Tensor,
    y: torch.Tensor,
    classes: int,
    settings: SgdSettings,
    learning_rates: Sequence[float],
    *,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> list[Classifier]:
    """SGD with momentum from zero weights, every learning rate on the same shuffled batches: x float32 (n, d)."""
    several = len(learning_rates)
    rates = torch.tensor(learning_rates, device=x.device, dtype=x.dtype).view(several, 1, 1)
    weight = x.new_zeros(several, x.shape[1] + 1, classes)
    velocity = torch.zeros_like(weight)
    augmented = torch.cat([x, x.new_ones(len(x), 1)], 1)
    rng = generator(seed, "linear-probe")
    for epoch in range(settings.epochs):
        drop = 0.1 ** sum(epoch >= share * settings.epochs for share in settings.milestones)
        order = torch.from_numpy(rng.permutation(len(x))).to(x.device)
        for batch in order.split(settings.batch_size):
            gradient = _gradient(augmented[batch], y[batch], weight)
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
