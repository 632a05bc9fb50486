"""Uniformity and alignment on the unit sphere (Wang and Isola 2020, "Understanding contrastive representation learning
through alignment and uniformity on the hypersphere"; spec S1.9 h).

Uniformity is log E exp(-t |u - v|^2) over distinct pairs, t = 2: 0 where all features coincide, about -4 at best in
high dimension, and -8 for two opposite points. Alignment is E |f(x) - f(x+)|^2 over positive pairs: 0 where both views
have one feature, 4 where they are opposite. Both have to be read together, and alignment only means something on views
that do not depend on what is compared: a run's own guided crops are alike by construction.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.geometry.results import (
    GeometryResult,
    directed,
    finite_mean,
    undefined,
    unit_rows,
    why_unusable,
    with_error,
)

BLOCK = 2048
LARGEST_T = 20.0  # exp(-4 t) is then still a float32


def evaluate_uniformity(
    features: NDArray[np.floating], t: float = 2.0, *, device: str = "cpu", on_progress: OnProgress = ignore_progress
) -> GeometryResult:
    """``uniformity`` of features (n, d) over all n (n - 1) / 2 pairs, with its standard error over images.

    The error is Hoeffding's for a mean over pairs, carried through the logarithm: its first-order term, which needs
    images that were drawn independently. Features of length 0 are left out and counted. Raises ``EvaluationError`` for
    t outside (0, 20].
    """
    if not 0 < t <= LARGEST_T:
        raise EvaluationError(f"t of {t}; give more than 0 and at most {LARGEST_T:g} (the paper's is 2)")
    if reason := why_unusable(features, 2):
        return undefined(["uniformity"], len(features), reason)
    rows, warnings = directed(features)
    n = len(rows)
    if n < 2:
        reason = f"{n} of {len(features)} features have a direction, at least 2 are needed"
        return GeometryResult(undefined(["uniformity"], n, reason).measures, warnings)
    parts = (unit_rows(features[rows[start : start + BLOCK]]) for start in range(0, n, BLOCK))
    blocks = [torch.from_numpy(part).to(device, torch.float32) for part in parts]
    value, error = _log_mean_potential(blocks, t, on_progress)
    return GeometryResult(tuple(with_error("uniformity", value, error, n)), warnings)


def evaluate_alignment(first: NDArray[np.floating], second: NDArray[np.floating], alpha: float = 2.0) -> GeometryResult:
    """``alignment``: the mean of |u - v|^alpha over positive pairs, with its standard error over images.

    ``first`` and ``second`` are the features (n, d) of two views of the same n images. A pair with a feature of length
    0 is left out and counted. Raises ``EvaluationError`` for shapes that differ or alpha <= 0.
    """
    if first.shape != second.shape:
        raise EvaluationError(f"views of shapes {first.shape} and {second.shape}; give two views of the same images")
    if alpha <= 0:
        raise EvaluationError(f"alpha of {alpha}; give more than 0 (the paper's is 2)")
    if reason := why_unusable(first, 1) or why_unusable(second, 1):
        return undefined(["alignment"], len(first), reason)
    kept = np.any(first != 0, axis=1) & np.any(second != 0, axis=1)
    lost = int((~kept).sum())
    warnings = (f"{lost} of {len(first)} pairs hold a feature without direction: left out",) if lost else ()
    if not kept.any():
        return GeometryResult(undefined(["alignment"], 0, "no pair has two directions").measures, warnings)
    apart = np.linalg.norm(unit_rows(first[kept]) - unit_rows(second[kept]), axis=1)
    value, error = finite_mean(apart**alpha)
    return GeometryResult(tuple(with_error("alignment", value, error, int(kept.sum()))), warnings)


def _log_mean_potential(blocks: list[torch.Tensor], t: float, on_progress: OnProgress) -> tuple[float, float]:
    """log of the mean of exp(-t |u - v|^2) over distinct pairs of unit rows, and its standard error."""
    n, done = sum(map(len, blocks)), 0
    of_point = [torch.zeros(len(block), dtype=torch.float64, device=block.device) for block in blocks]
    with torch.inference_mode():
        for i, rows in enumerate(blocks):
            for j in range(i, len(blocks)):
                potential = torch.mm(rows, blocks[j].T).clamp_(-1, 1).sub_(1).mul_(2 * t).exp_()
                if i == j:
                    potential.fill_diagonal_(0)
                else:
                    of_point[j] += potential.sum(0, dtype=torch.float64)
                of_point[i] += potential.sum(1, dtype=torch.float64)
            done += len(rows)
            on_progress(Progress("uniformity", done, n))
    means = torch.cat(of_point).cpu().numpy() / (n - 1)
    mean, error = finite_mean(means)
    return float(np.log(mean)), 2 * error / mean
