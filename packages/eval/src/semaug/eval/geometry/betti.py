"""Area under the Betti curves of an embedding's Vietoris-Rips filtration (spec S1.9 j).

The Betti number beta_0(t) counts the connected components when all pairs of points within distance t are joined, and
beta_1(t) the loops. The papers give no formula; here the area under beta(t) / (n - 1) over t from 0 to the largest
death is divided by that death. The component that never dies is left out, so for beta_0 the area is exactly the mean
edge of the minimum spanning tree over its longest: 1 where all merge at once, small where a few clusters merge late.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import MissingDependency
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.geometry.results import GeometryResult, directed, undefined, unit_rows, why_unusable
from semaug.eval.measures import Measure
from semaug.eval.statistics import summarise

SUBSAMPLE, DRAWS = 500, 5
_LEAST = 3


def evaluate_betti(
    features: NDArray[np.floating],
    *,
    subsample: int = SUBSAMPLE,
    draws: int = DRAWS,
    loops: bool = False,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> GeometryResult:
    """``betti0_auc``, and with ``loops`` ``betti1_auc``, of unit features (n, d), over random subsamples.

    Mean and standard deviation over ``draws``. ``n`` of a measure is the size of a subsample; a set no larger is taken
    whole, once. ``betti1_auc`` is null where no subsample has a loop, and the mean over those that have one otherwise.
    ``loops`` needs the extra `tda` and raises ``MissingDependency`` without it.
    """
    if subsample < _LEAST or draws < 1:
        raise EvaluationError(f"{draws} draws of {subsample} points; give at least 1 draw of {_LEAST}")
    metrics = ["betti0_auc", "betti1_auc"] if loops else ["betti0_auc"]
    if loops:
        _ripser()
    if reason := why_unusable(features, _LEAST):
        return undefined(metrics, len(features), reason)
    directions, warnings = directed(features)
    size = min(subsample, len(directions))
    if size < _LEAST:
        reason = f"{size} of {len(features)} features have a direction, at least {_LEAST} are needed"
        return GeometryResult(undefined(metrics, size, reason).measures, warnings)
    draws = draws if len(directions) > size else 1
    found: dict[str, list[float | None]] = {metric: [] for metric in metrics}
    for draw in range(draws):
        rows = generator(seed, "betti-subsample", draw).permutation(directions)[:size]
        distances = squareform(pdist(unit_rows(features[rows])))
        found["betti0_auc"].append(betti0_auc(distances))
        if loops:
            found["betti1_auc"].append(betti1_auc(distances))
        on_progress(Progress("Betti curves", draw + 1, draws, "subsamples"))
    reasons = {"betti0_auc": "all points coincide", "betti1_auc": "no subsample has a loop"}
    return GeometryResult(
        tuple(m for name in metrics for m in _over_draws(name, found[name], size, reasons[name])), warnings
    )


def betti0_auc(distances: NDArray[np.float64]) -> float | None:
    """Area under beta_0 of a distance matrix (n, n): the mean over the largest edge of the minimum spanning tree.

    None where all points coincide.
    """
    edges = spanning_edges(distances)
    longest = float(edges.max(initial=0))
    return float(edges.mean()) / longest if longest > 0 else None


def betti1_auc(distances: NDArray[np.float64]) -> float | None:
    """Area under beta_1 / (n - 1) of a distance matrix (n, n) up to the last loop's death; None without loops.

    The sum of the loops' lifetimes over (n - 1) times the largest death. Raises ``MissingDependency`` without ripser.
    """
    loops = _ripser()(distances, maxdim=1, distance_matrix=True)["dgms"][1]
    if not len(loops):
        return None
    lifetimes = loops[:, 1].astype(np.float64) - loops[:, 0]
    return float(lifetimes.sum() / ((len(distances) - 1) * loops[:, 1].max()))


def spanning_edges(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lengths of the edges of the minimum spanning tree of a distance matrix (n, n): float64 (n - 1,), sorted.

    Prim's algorithm on the full matrix, for which edges of length 0 are edges like others.
    """
    n = len(distances)
    reach = distances[0].copy()
    outside = np.ones(n, dtype=bool)
    outside[0] = False
    edges = np.empty(n - 1)
    for step in range(n - 1):
        nearest = int(np.where(outside, reach, np.inf).argmin())
        edges[step] = reach[nearest]
        outside[nearest] = False
        np.minimum(reach, distances[nearest], out=reach)
    return np.sort(edges)


def _over_draws(metric: str, values: list[float | None], size: int, reason: str) -> list[Measure]:
    known = [value for value in values if value is not None]
    if not known:
        return [Measure(metric, None, size, reason)]
    summary = summarise(known)
    measures = [Measure(metric, summary.mean, size)]
    if len(values) > 1:
        why = "" if summary.sd is not None else "one subsample has a value"
        measures.append(Measure(f"{metric}_std", summary.sd, size, why))
    return measures


def _ripser():  # type: ignore[no-untyped-def]
    try:
        from ripser import ripser
    except ImportError as error:
        raise MissingDependency(
            "loops (beta_1) need ripser; run `pip install 'semaug-eval[tda]'`, or leave them out"
        ) from error
    return ripser
