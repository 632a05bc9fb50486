"""How alike original and synthetic images are: a histogram of similarities with the normal fitted to it (LMM-MPA)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semaug.eval.errors import EvaluationError
from semaug.eval.figures.style import INK, MUTED, ImageFormat, colour, new_figure, render, styled
from semaug.eval.measures import Measure

THRESHOLD = 0.6
"""Below it LMM-MPA puts the original image in the synthetic one's place (spec S2.7)."""


@dataclass(frozen=True, slots=True)
class SimilarityFit:
    """The normal of largest likelihood over n similarities (``sd`` divides by n), the share below ``threshold`` (equal
    ones are not below), and the Kolmogorov-Smirnov distance: the largest gap between the two distribution functions."""

    mean: float
    sd: float
    n: int
    threshold: float
    below: float
    distance: float | None

    def __iter__(self) -> Iterator[Measure]:
        yield Measure("similarity/mean", self.mean, self.n)
        yield Measure("similarity/sd", self.sd, self.n)
        yield Measure(f"similarity/below_{self.threshold:g}", self.below, self.n)
        reason = "" if self.distance is not None else "all similarities are equal"
        yield Measure("similarity/normal_distance", self.distance, self.n, reason)


def fit_similarities(values: ArrayLike, threshold: float = THRESHOLD) -> SimilarityFit:
    """Fit a normal to similarities of shape (n,).

    Raises ``EvaluationError`` for none, for NaN or infinity, and for cosines outside [-1, 1].

    >>> fit = fit_similarities([0.5, 0.7, 0.6, 0.8])
    >>> round(fit.mean, 6), fit.below
    (0.65, 0.25)
    """
    from scipy import stats

    found = _checked(values)
    mean, sd = float(found.mean()), float(found.std())
    distance = float(stats.kstest(found, "norm", args=(mean, sd)).statistic) if sd > 0 else None
    return SimilarityFit(mean, sd, len(found), threshold, float((found < threshold).mean()), distance)


def similarity_histogram(
    values: ArrayLike,
    threshold: float = THRESHOLD,
    xlabel: str = "CLIP similarity of original and synthetic image",
    image_format: ImageFormat = "svg",
) -> bytes:
    """The histogram of similarities (n,), the fitted normal, and the threshold below which images are replaced."""
    from scipy import stats

    found, fit = _checked(values), fit_similarities(values, threshold)
    with styled():
        figure, (axes,) = new_figure(6.2, 3.6)
        bins = np.histogram_bin_edges(found, bins="auto" if fit.sd > 0 else 10)
        bins = bins if len(bins) <= 81 else np.linspace(found.min(), found.max(), 81)
        axes.hist(found, bins=bins.tolist(), density=True, color=colour(0), alpha=0.45, linewidth=0)
        if fit.sd > 0:
            x = np.linspace(min(found.min(), fit.mean - 3 * fit.sd), max(found.max(), fit.mean + 3 * fit.sd), 240)
            label = f"normal: mean {fit.mean:.3f}, sd {fit.sd:.3f}"
            axes.plot(x, stats.norm.pdf(x, fit.mean, fit.sd), color=colour(1), label=label)
        axes.axvline(threshold, color=MUTED, linestyle="--", linewidth=1.2)
        below, where = f"{fit.below:.1%} below {threshold:g}", axes.get_xaxis_transform()
        axes.annotate(below, (threshold, 0.97), (5, 0), where, "offset points", color=INK, fontsize=9, va="top")
        axes.set(xlabel=xlabel, ylabel="density")
        axes.grid(axis="x", visible=False)
        if fit.sd > 0:
            axes.legend(loc="upper left", bbox_to_anchor=(0, 1.14), borderaxespad=0)
        return render(figure, image_format)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64).ravel()
    if not len(found):
        raise EvaluationError("no similarities; give at least one")
    broken = ~np.isfinite(found) | (np.abs(found) > 1 + 1e-6)
    if broken.any():
        raise EvaluationError(
            f"{int(broken.sum())} of {len(found)} similarities are no cosines, the first is {found[broken][0]:g}; "
            "give values from -1 to 1"
        )
    return found
