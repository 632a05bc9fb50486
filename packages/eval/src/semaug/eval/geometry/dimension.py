"""Intrinsic dimension of an embedding (spec S1.9 g): TwoNN and the maximum-likelihood estimator, from exact distances.

TwoNN (Facco, d'Errico, Rodriguez and Laio 2017, "Estimating the intrinsic dimension of datasets by a minimal
neighborhood information", Eq. 4 and 5): the ratio mu of a point's second to its first neighbour's distance has
F(mu) = 1 - mu^-d, so -log(1 - F) against log mu is a line through the origin of slope d; the top 10% is left out.

MLE (Levina and Bickel 2004, "Maximum likelihood estimation of intrinsic dimension", Eq. 8 and 9) with k = 20: the
inverse mean log ratio of the k-th to each nearer distance, averaged over the points; or, as MacKay and Ghahramani
(2005) correct it, the inverse of the averaged inverses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.geometry.neighbours import nearest_distances
from semaug.eval.geometry.results import GeometryResult, undefined, why_unusable, with_spread
from semaug.eval.measures import Measure

METRICS = ("twonn", "mle", "mle_inverse_mean")
_LEAST = 3


@dataclass(frozen=True, slots=True)
class DimensionSettings:
    """``neighbours`` of the MLE (at least 3), the share of ratios that TwoNN leaves out, bootstrap draws, and how often
    TwoNN is repeated on a random half of the points before: a dimension that grows with n is partly noise."""

    neighbours: int = 20
    discard: float = 0.1
    draws: int = 200
    halvings: int = 2

    def __post_init__(self) -> None:
        if self.neighbours < _LEAST:
            raise EvaluationError(f"{self.neighbours} neighbours; the MLE needs at least {_LEAST}")
        if not 0 <= self.discard < 1:
            raise EvaluationError(f"a share of {self.discard} left out; give 0 or more and less than 1")
        if self.draws < 2 or self.halvings < 0:
            raise EvaluationError(f"{self.draws} draws and {self.halvings} halvings; give at least 2 and 0")


def evaluate_dimension(
    features: NDArray[np.floating],
    settings: DimensionSettings | None = None,
    *,
    device: str = "cpu",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> GeometryResult:
    """``twonn``, ``mle`` and ``mle_inverse_mean`` of features (n, d), with bootstrap spread, and ``twonn/n=...`` of
    random halves.

    Of points that coincide one is kept, and a warning counts the others. The bootstrap draws points' distance ratios,
    so it says what another sample of ratios would give, not what another training would. With fewer than k + 1 distinct
    points the MLE has no value, with fewer than 3 nothing has.
    """
    settings = settings or DimensionSettings()
    reason = why_unusable(features, _LEAST)
    if reason:
        return undefined(METRICS, len(features), reason)
    points, warnings = _distinct(features)
    n = len(points)
    if n < _LEAST:
        return undefined(METRICS, n, f"{n} distinct points among {len(features)}, at least {_LEAST} are needed")
    k = min(settings.neighbours, n - 1)
    distances = nearest_distances(points, k, device=device, on_progress=on_progress)
    rng = generator(seed, "dimension-bootstrap")
    measures = [*_twonn_measures(distances, settings, rng), *_halves(points, settings, device, seed)]
    if k < settings.neighbours:
        few = f"{n} distinct points, the {settings.neighbours} neighbours of the MLE need {settings.neighbours + 1}"
        return GeometryResult((*measures, *undefined(METRICS[1:], n, few)), warnings)
    return GeometryResult((*measures, *_mle_measures(distances, settings, rng)), warnings)


def twonn(distances: NDArray[np.float64], discard: float = 0.1) -> float | None:
    """Slope of -log(1 - F) over log mu through the origin; None where every ratio that is kept is 1, or none is.

    ``distances`` float64 (n, 2 or more): distances to the nearest neighbours, nearest first, none of them 0.
    """
    return _slope(np.sort(_log_ratios(distances)), discard)


def levina_bickel(distances: NDArray[np.float64], *, inverse_mean: bool = False) -> float | None:
    """The maximum-likelihood dimension from ``distances`` float64 (n, k), nearest first, none of them 0.

    The mean of the points' estimates, or the inverse of the mean of their inverses. Points whose k distances are all
    equal have no estimate; None where no point has one.
    """
    inverses = _inverse_estimates(distances)
    return _combine(inverses, inverse_mean)


def _distinct(features: NDArray[np.floating]) -> tuple[NDArray[np.floating], tuple[str, ...]]:
    """One point of those that coincide, in the order given, and a warning that counts the rest."""
    rows = np.ascontiguousarray(features) + features.dtype.type(0)  # -0 becomes 0
    as_bytes = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    first = np.sort(np.unique(as_bytes, return_index=True)[1])
    lost = len(rows) - len(first)
    if not lost:
        return rows, ()
    return rows[first], (f"{lost} of {len(rows)} features equal an earlier one: left out of the dimension",)


def _log_ratios(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(distances[:, 1] / distances[:, 0])


def _slope(log_mu: NDArray[np.float64], discard: float) -> float | None:
    """Least squares through the origin; ``log_mu`` float64 (..., n) sorted along the last axis."""
    n = log_mu.shape[-1]
    kept = min(int(n * (1 - discard)), n - 1)  # of the largest ratio F is 1
    x = log_mu[:kept]
    power = float(x @ x)
    if power == 0:
        return None
    return float(x @ -np.log1p(-np.arange(1, kept + 1) / n)) / power


def _twonn_measures(
    distances: NDArray[np.float64], settings: DimensionSettings, rng: np.random.Generator
) -> Iterator[Measure]:
    log_mu, n = np.sort(_log_ratios(distances)), len(distances)
    value = _slope(log_mu, settings.discard)
    draws = [_slope(np.sort(rng.choice(log_mu, n)), settings.discard) for _ in range(settings.draws)]
    known = [draw for draw in draws if draw is not None]
    if value is None or len(known) < 2:
        yield Measure("twonn", None, n, "first and second neighbours are equally far: a lattice has no such dimension")
        return
    yield from with_spread("twonn", value, known, n)


def _halves(points: NDArray[np.floating], settings: DimensionSettings, device: str, seed: int) -> Iterator[Measure]:
    order = generator(seed, "dimension-halves").permutation(len(points))
    for halving in range(1, settings.halvings + 1):
        n = len(points) >> halving
        if n < _LEAST:
            return
        value = twonn(nearest_distances(points[np.sort(order[:n])], 2, device=device), settings.discard)
        yield Measure(f"twonn/n={n}", value, n, "" if value is not None else "neighbours are equally far")


def _inverse_estimates(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of log(T_k / T_j) over j < k, a point: float64 (n,), without points where it is 0."""
    logs = np.log(distances)
    inverses = logs[:, -1] - logs[:, :-1].mean(axis=1)
    return inverses[inverses > 0]


def _combine(inverses: NDArray[np.float64], inverse_mean: bool) -> float | None:
    if not len(inverses):
        return None
    return float(1 / inverses.mean()) if inverse_mean else float((1 / inverses).mean())


def _mle_measures(
    distances: NDArray[np.float64], settings: DimensionSettings, rng: np.random.Generator
) -> Iterator[Measure]:
    inverses = _inverse_estimates(distances)
    n = len(inverses)
    if not n:
        equal = f"the {settings.neighbours} nearest neighbours of every point are equally far"
        yield from undefined(METRICS[1:], len(distances), equal)
        return
    drawn = [rng.choice(inverses, n) for _ in range(settings.draws)]
    for metric, inverse_mean in zip(METRICS[1:], (False, True), strict=True):
        value = _combine(inverses, inverse_mean)
        assert value is not None  # n > 0
        yield from with_spread(metric, value, [_combine(d, inverse_mean) or 0.0 for d in drawn], n)
