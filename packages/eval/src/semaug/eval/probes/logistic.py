"""Multinomial logistic regression over a whole training set, by preconditioned L-BFGS.

The mean cross-entropy with an L2 penalty is minimised in coordinates in which a bound of its Hessian,
1/2 X'X/n + lambda I (Boehning 1992, "Multinomial logistic regression algorithm"), is the identity: columns of a
network's features are so correlated that plain L-BFGS takes several times as many passes to the same minimum. A pass
reads the features in blocks; a matrix mapped from files is never held whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from semaug.artifacts.joined import release_rows
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
BLOCK = 4096
HELD = 1 << 29
"""Standardised rows are held in memory up to so many bytes; beyond, each pass standardises them again."""
_SCORED = 16_384
SHORT_PASS = 50_000_000
"""Products of a pass (rows by columns by classes) up to which one thread does it, in some milliseconds."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """Logits are ``features @ weight + bias``: weight float32 (d, classes), bias float32 (classes,)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, classes)."""
        return features @ self.weight + self.bias

    def predict(self, features: NDArray[np.float32], rows: NDArray[np.intp] | None = None) -> NDArray[np.int64]:
        """The class with the largest logit of each row (of ``rows`` alone): int64 (n,), a block at a time."""
        return np.concatenate([logits.argmax(1) for logits in self._blocks(features, rows)])

    def best(self, features: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """The ``count`` classes with the largest logits of each row, in no order: int64 (n, count)."""
        parts = [np.argpartition(-logits, count, axis=1)[:, :count] for logits in self._blocks(features, None)]
        return np.concatenate(parts)

    def _blocks(self, features: NDArray[np.float32], rows: NDArray[np.intp] | None) -> Iterator[NDArray[np.float32]]:
        total = len(features) if rows is None else len(rows)
        for start in range(0, total, _SCORED):
            stop = min(start + _SCORED, total)
            yield self.logits(np.asarray(features[start:stop] if rows is None else features[rows[start:stop]]))
            if rows is None:
                release_rows(features, start, stop)


@dataclass(frozen=True, slots=True)
class LbfgsSettings:
    """L2 ``penalties`` to choose from (lambda of lambda/2 |W|^2 beside the mean cross-entropy over standardised
    features; the bias is free), and the limits of each solution: at most so many ``iterations``, fewer once no entry
    of the gradient is larger than ``tolerance``."""

    penalties: tuple[float, ...] = PENALTIES
    iterations: int = 300
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if not self.penalties or min(self.penalties) <= 0:
            raise EvaluationError(f"penalties {self.penalties}; give at least one, all above 0")

    @property
    def choices(self) -> tuple[float, ...]:
        return self.penalties


def fit_lbfgs(
    x: torch.Tensor | NDArray[np.floating],
    y: torch.Tensor | NDArray[np.int64],
    classes: int,
    settings: LbfgsSettings,
    penalties: Sequence[float],
    *,
    rows: NDArray[np.intp] | None = None,
    start: Classifier | None = None,
    device: str | torch.device | None = None,
    on_progress: OnProgress = ignore_progress,
) -> list[Classifier]:
    """One solution a penalty, each started from the one before: x float (n, d), y int64 (n,).

    With ``rows`` only those rows of ``x`` take part, and ``y`` is theirs. The columns are standardised by their own
    mean and deviation (a constant column is left out), which is folded back into the classifiers returned, so that
    these take raw features. The first solution starts from ``start``, or from zero. Arithmetic is in x's own
    precision, sums over the rows in float64.
    """
    with _few_threads(len(y) * x.shape[1] * classes):
        standard = Standardised(x, rows, device)
        objective = CrossEntropy(standard, torch.as_tensor(y).to(standard.device), classes)
        gram = standard.gram()
        matrix = np.zeros((standard.width + 1, classes)) if start is None else standard.folded(start)
        solutions = []
        for done, penalty in enumerate(penalties):
            matrix = _minimise(objective, gram, matrix, penalty, settings)
            solutions.append(standard.unfolded(matrix))
            on_progress(Progress("linear probe", done + 1, len(penalties), unit="penalties"))
        return solutions


@contextmanager
def _few_threads(products: int) -> Iterator[None]:
    """One thread where a pass is so short that threads would wait for each other longer than they work."""
    if products > SHORT_PASS:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


class Standardised:
    """Rows of a matrix with mean 0 and deviation 1 in every column, in blocks on a device.

    Up to ``held`` bytes are standardised once and kept; beyond, each pass does it anew as it reads.
    """

    def __init__(
        self,
        values: torch.Tensor | NDArray[np.floating],
        rows: NDArray[np.intp] | None = None,
        device: str | torch.device | None = None,
        *,
        held: int = HELD,
    ) -> None:
        self.values, self.rows = values, rows
        self.width, self.count = values.shape[1], len(values) if rows is None else len(rows)
        first = torch.as_tensor(values[:1])
        self.device, self.dtype = torch.device(device or first.device), first.dtype
        self.mean, self.scale = self._moments()
        self._kept: list[torch.Tensor] | None = None
        if self.count * self.width * first.element_size() <= held:
            self._kept = [block for _, block in self._made()]

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Blocks of at most ``BLOCK`` rows, each with its place."""
        if self._kept is None:
            yield from self._made()
            return
        for place, block in enumerate(self._kept):
            yield slice(place * BLOCK, place * BLOCK + len(block)), block

    def _made(self) -> Iterator[tuple[slice, torch.Tensor]]:
        mean, scale = self.mean.to(self.dtype), self.scale.to(self.dtype)
        for place, block in self._raw():
            yield place, (block - mean).mul_(scale)

    def _raw(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for start in range(0, self.count, BLOCK):
            stop = min(start + BLOCK, self.count)
            chosen = slice(start, stop) if self.rows is None else self.rows[start:stop]
            yield slice(start, stop), torch.as_tensor(self.values[chosen]).to(self.device)
            if isinstance(self.values, np.ndarray):
                first, last = (start, stop - 1) if self.rows is None else self.rows[[start, stop - 1]].tolist()
                release_rows(self.values, first, last + 1)

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and inverse deviations (0 for a constant column), float64; one pass around the first block's mean."""
        shift: torch.Tensor | None = None
        total, squares = torch.zeros(2, self.width, dtype=torch.float64, device=self.device)
        for _, block in self._raw():
            wide = block.double()
            shift = wide.mean(0) if shift is None else shift
            wide = wide - shift
            total, squares = total + wide.sum(0), squares + wide.square().sum(0)
        assert shift is not None
        offset = total / self.count
        mean, deviation = shift + offset, (squares / self.count - offset.square()).clamp_min(0).sqrt()
        varies = deviation > 1e-6 * (mean.abs() + 1e-6)
        return mean, torch.where(varies, 1 / deviation.clamp_min(1e-30), 0 * deviation)

    def gram(self) -> NDArray[np.float64]:
        """X'X/n of the standardised rows, of evenly spaced ones where there are many more than columns: (d, d)."""
        wanted = max(2 * BLOCK, 8 * self.width)
        step = max(1, self.count // wanted)
        total, used = torch.zeros(self.width, self.width, dtype=torch.float64, device=self.device), 0
        for place, block in self:
            part = block[-place.start % step :: step]
            total += (part.T @ part).double()
            used += len(part)
        return (total / max(1, used)).cpu().numpy()

    def folded(self, classifier: Classifier) -> NDArray[np.float64]:
        """The weights that give a classifier's logits on standardised rows, the biases last: (d + 1, classes)."""
        mean, scale = self.mean.cpu().numpy(), self.scale.cpu().numpy()
        weight = classifier.weight.astype(np.float64)
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        return np.vstack([weight * inverse[:, None], classifier.bias + mean @ weight])

    def unfolded(self, matrix: NDArray[np.float64]) -> Classifier:
        """The classifier of raw rows that ``matrix`` (d + 1, classes) is of standardised ones."""
        weight = matrix[:-1] * self.scale.cpu().numpy()[:, None]
        bias = matrix[-1] - self.mean.cpu().numpy() @ weight
        return Classifier(weight.astype(np.float32), bias.astype(np.float32))


class CrossEntropy:
    """Mean cross-entropy and its gradient with respect to (d + 1, classes) weights, the biases last."""

    def __init__(self, x: Standardised, y: torch.Tensor, classes: int) -> None:
        self.x, self.y, self.classes = x, y, classes

    def __call__(self, matrix: NDArray[np.float64], penalty: float) -> tuple[float, NDArray[np.float64]]:
        """The loss plus penalty/2 |W|^2 (biases left out) and the gradient: float64, float64 (d + 1, classes)."""
        x = self.x
        wide = torch.from_numpy(matrix).to(x.device)
        narrow = wide.to(x.dtype)
        gradient, loss = torch.zeros_like(wide), torch.zeros((), dtype=torch.float64, device=x.device)
        for place, block in x:
            target = self.y[place, None]
            log_p = torch.log_softmax(torch.addmm(narrow[-1], block, narrow[:-1]), dim=1)
            loss -= log_p.gather(1, target).sum(dtype=torch.float64)
            residual = log_p.exp_()
            residual.scatter_add_(1, target, torch.full_like(target, -1, dtype=x.dtype))
            gradient[:-1] += block.T @ residual
            gradient[-1] += residual.sum(0)
        gradient /= x.count
        gradient[:-1] += penalty * wide[:-1]
        value = loss / x.count + penalty / 2 * wide[:-1].square().sum()
        return float(value), gradient.cpu().numpy()


def _minimise(
    objective: CrossEntropy,
    gram: NDArray[np.float64],
    start: NDArray[np.float64],
    penalty: float,
    settings: LbfgsSettings,
) -> NDArray[np.float64]:
    """The minimum's (d + 1, classes), found in coordinates V with W = T V, T T' the inverse of the Hessian's bound."""
    bound = gram / 2
    bound[np.diag_indices_from(bound)] += penalty
    factor = np.linalg.cholesky(bound)
    inverse = np.linalg.inv(factor)
    largest = np.inf

    def weights(v: NDArray[np.float64]) -> NDArray[np.float64]:
        v = v.reshape(start.shape)
        return np.vstack([inverse.T @ v[:-1], v[-1:] * np.sqrt(2)])

    def value(v: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal largest
        loss, gradient = objective(weights(v), penalty)
        largest = float(np.abs(gradient).max())
        return loss, np.vstack([inverse @ gradient[:-1], gradient[-1:] * np.sqrt(2)]).ravel()

    def finished(_: NDArray[np.float64]) -> None:
        if largest <= settings.tolerance:
            raise StopIteration

    options = {"maxiter": settings.iterations, "gtol": 0.0, "ftol": 1e-4 * settings.tolerance, "maxcor": 20}
    first = np.vstack([factor.T @ start[:-1], start[-1:] / np.sqrt(2)]).ravel()
    found = minimize(value, first, jac=True, method="L-BFGS-B", options=options, callback=finished)
    return weights(found.x)
