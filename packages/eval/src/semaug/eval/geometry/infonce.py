"""What an InfoNCE loss says about mutual information (van den Oord, Li and Vinyals 2018, "Representation learning with
contrastive predictive coding", Eq. 5; Poole et al. 2019; spec S1.9 l).

With N candidates a query, one of them its positive, I(x; x+) >= log N - L. The bound can never exceed log N, its
ceiling, however much information there is: a value near the ceiling says that N is too small, not how large I is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from semaug.artifacts.draws import generator
from semaug.eval.errors import EvaluationError
from semaug.eval.geometry.results import GeometryResult, finite_mean, undefined, unit_rows, why_unusable, with_error
from semaug.eval.measures import Measure

TEMPERATURES = (0.05, 0.07, 0.1, 0.2, 0.5, 1.0)
CANDIDATES = 256
_FEW = 16
METRICS = ("infonce_bound", "infonce_ceiling", "infonce_temperature")


def infonce_bound(loss: float, candidates: int) -> tuple[float, float]:
    """(log N - loss, log N) in nats, for a loss over ``candidates`` logits a query, its positive among them.

    SimCLR with a batch of B images has N = 2 B - 1, MoCo with a queue of K has K + 1.

    >>> bound, ceiling = infonce_bound(1.5, 256)
    >>> round(bound, 3), round(ceiling, 3)
    (4.045, 5.545)
    """
    if candidates < 2:
        raise EvaluationError(f"{candidates} candidates; the bound needs a positive and at least one negative")
    if not math.isfinite(loss):
        raise EvaluationError(f"a loss of {loss}; the bound needs a finite one")
    return math.log(candidates) - loss, math.log(candidates)


def infonce_losses(queries: NDArray[np.float64], keys: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """-log softmax of each query's own key among all N keys, averaged over both directions: float64 (N,).

    ``queries`` and ``keys`` are unit rows (N, d), similarities are divided by ``temperature``.
    """
    logits = queries @ keys.T / temperature
    own = np.diag(logits)
    forth, back = logsumexp(logits, axis=1), logsumexp(logits, axis=0)
    return np.asarray(0.5 * (forth + back) - own, dtype=np.float64)


def evaluate_infonce(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    candidates: int = CANDIDATES,
    temperatures: tuple[float, ...] = TEMPERATURES,
    *,
    seed: int = 0,
) -> GeometryResult:
    """``infonce_bound`` between two views' features (n, d), its standard error over batches, ceiling and temperature.

    Images are dealt at random into batches of ``candidates``, or of a quarter of them where there are fewer than four
    batches' worth. Any temperature gives a valid bound; the tightest is chosen on half of the batches and the bound
    taken on the rest, so that the choice does not flatter it. Below 16 images there is one batch, the middle
    temperature, and no error.
    """
    if first.shape != second.shape:
        raise EvaluationError(f"views of shapes {first.shape} and {second.shape}; give two views of the same images")
    if candidates < 2 or not temperatures or min(temperatures) <= 0:
        raise EvaluationError(f"{candidates} candidates, temperatures {temperatures}; give 2 or more, all above 0")
    n = len(first)
    if reason := why_unusable(first, 2) or why_unusable(second, 2):
        return undefined(METRICS, n, reason)
    units = unit_rows(first), unit_rows(second)
    size = min(candidates, n // 4 if n >= _FEW else n)
    order = generator(seed, "infonce-batches").permutation(n)
    batches = [order[start : start + size] for start in range(0, n - size + 1, size)]
    choosing, scoring = batches[: len(batches) // 2], batches[len(batches) // 2 :]
    temperature = _tightest(units, choosing, temperatures)
    bounds = math.log(size) - _batch_losses(units, scoring, temperature)
    value, error = finite_mean(bounds)
    used = size * len(scoring)
    bound = with_error("infonce_bound", value, error, used) if len(bounds) > 1 else [Measure(METRICS[0], value, used)]
    ceiling, chosen = Measure(METRICS[1], math.log(size), size), Measure(METRICS[2], temperature, size * len(choosing))
    return GeometryResult((*bound, ceiling, chosen), _near_ceiling(value, size))


def _tightest(
    units: tuple[NDArray[np.float64], NDArray[np.float64]], batches: list[NDArray[np.intp]], choices: tuple[float, ...]
) -> float:
    if not batches:
        return sorted(choices)[len(choices) // 2]
    losses = [_batch_losses(units, batches, t).mean() for t in choices]
    return choices[int(np.argmin(losses))]


def _batch_losses(
    units: tuple[NDArray[np.float64], NDArray[np.float64]], batches: list[NDArray[np.intp]], temperature: float
) -> NDArray[np.float64]:
    return np.array([infonce_losses(units[0][b], units[1][b], temperature).mean() for b in batches])


def _near_ceiling(bound: float, size: int) -> tuple[str, ...]:
    if bound < 0.95 * math.log(size):
        return ()
    return (f"the InfoNCE bound is within 5% of its ceiling log {size}: more candidates could raise it",)
