"""How results depend on the quality score: accuracy over its quantiles, and over the named configurations (SDI)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from semaug.eval.errors import EvaluationError
from semaug.eval.figures.style import INK, MUTED, ImageFormat, colour, new_figure, render, styled
from semaug.eval.measures import Measure
from semaug.eval.statistics import summarise


@dataclass(frozen=True, slots=True)
class QualityBin:
    """Images whose quality lies from ``low`` to ``high``: their mean quality, their accuracy with its Wilson interval,
    and how many they are."""

    low: float
    high: float
    centre: float
    accuracy: float
    interval: tuple[float, float]
    n: int


@dataclass(frozen=True, slots=True)
class QualitySensitivity:
    """Accuracy over bins of equal numbers of images, and Kendall's tau-b between quality and being right."""

    bins: tuple[QualityBin, ...]
    overall: float
    tau: float | None
    n: int

    def __iter__(self) -> Iterator[Measure]:
        for number, row in enumerate(self.bins, start=1):
            yield Measure(f"quality/bin{number}/top1", row.accuracy, row.n)
            yield Measure(f"quality/bin{number}/top1_interval_low", row.interval[0], row.n)
            yield Measure(f"quality/bin{number}/top1_interval_high", row.interval[1], row.n)
        reason = "" if self.tau is not None else "quality or being right is the same for all images"
        yield Measure("quality/tau", self.tau, self.n, reason)


def quality_sensitivity(
    quality: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 5, confidence: float = 0.95
) -> QualitySensitivity:
    """Split images by quality (n,) into ``bins`` of equal size (ties stay together) and take the accuracy in each.

    ``correct`` bool (n,) says which images were classified rightly. Fewer bins come back where qualities are equal.
    Raises ``EvaluationError`` for no images, other lengths, or qualities that are not finite.
    """
    from scipy import stats

    if len(quality) != len(correct) or not len(quality):
        raise EvaluationError(f"{len(quality)} qualities and {len(correct)} answers; give one of each an image")
    if not np.isfinite(quality).all():
        raise EvaluationError(f"{int((~np.isfinite(quality)).sum())} of {len(quality)} qualities are not finite")
    if bins < 1:
        raise EvaluationError(f"{bins} bins; give at least 1")
    edges = np.unique(np.quantile(quality, np.linspace(0, 1, bins + 1)))
    places = np.clip(np.searchsorted(edges, quality, side="right") - 1, 0, max(len(edges) - 2, 0))
    rows = [_bin(quality[places == p], correct[places == p], confidence) for p in np.unique(places)]
    varied = len(np.unique(quality)) > 1 and len(np.unique(correct)) > 1
    tau = float(stats.kendalltau(quality, correct).statistic) if varied else None
    return QualitySensitivity(tuple(rows), float(correct.mean()), tau, len(quality))


def _bin(quality: NDArray[np.floating], correct: NDArray[np.bool_], confidence: float) -> QualityBin:
    n, hits = len(correct), int(correct.sum())
    low, high = float(quality.min()), float(quality.max())
    return QualityBin(low, high, float(quality.mean()), hits / n, wilson_interval(hits, n, confidence), n)


def wilson_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share ``hits`` of ``n``: inside [0, 1] for any counts.

    >>> [round(v, 4) for v in wilson_interval(0, 10)]
    [0.0, 0.2775]
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, scale = hits / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def quality_curve(
    found: QualitySensitivity,
    thresholds: Mapping[str, float] | None = None,
    image_format: ImageFormat = "svg",
) -> bytes:
    """Accuracy over quality: a dot a bin with its interval, bars under it as wide as the bin, the mean as a line.

    ``thresholds`` (name to quality) are drawn where they lie among the images.
    """
    with styled():
        figure, (axes,) = new_figure(6.2, 3.6)
        axes.axhline(100 * found.overall, color=MUTED, linestyle="--", linewidth=1.2)
        right = (1.01, 100 * found.overall)
        axes.text(*right, "all", color=INK, fontsize=9, transform=axes.get_yaxis_transform(), va="center")
        x = [row.centre for row in found.bins]
        y = [100 * row.accuracy for row in found.bins]
        for row in found.bins:
            axes.plot([row.low, row.high], [100 * row.accuracy] * 2, color=colour(0), lw=7, alpha=0.25, zorder=1)
            axes.plot([row.centre] * 2, [100 * v for v in row.interval], color=colour(0), lw=1.6, zorder=2)
        axes.plot(x, y, color=colour(0), marker="o", ms=6, lw=1.2, zorder=3)
        low, high = axes.get_xlim()
        for name, value in (thresholds or {}).items():
            if low < value < high:
                axes.axvline(value, color=colour(1), linewidth=1.2)
                where = axes.get_xaxis_transform()
                axes.annotate(name, (value, 0.03), (4, 0), where, "offset points", color=INK, fontsize=9)
        axes.set(xlabel="quality score Q", ylabel="top-1 accuracy, %")
        return render(figure, image_format)


def preset_sensitivity(
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    baselines: Mapping[str, float] | None = None,
    ylabel: str = "top-1 accuracy, %",
    image_format: ImageFormat = "svg",
) -> bytes:
    """Accuracy of each configuration of the quality score: ``scores[data set][configuration]`` are the seeds' values.

    The mean as a dot, the seeds' standard deviation as a line; a data set's baseline (without guidance) is dashed.
    Values are shares and shown in per cent.
    """
    names = list(dict.fromkeys(name for rows in scores.values() for name in rows))
    if not names:
        raise EvaluationError("no configuration has a score; give at least one")
    with styled():
        figure, (axes,) = new_figure(6.2, 3.6)
        for index, (data, rows) in enumerate(scores.items()):
            shift = 0.12 * (index - (len(scores) - 1) / 2)
            found = {names.index(name): summarise(values) for name, values in rows.items() if len(values)}
            places = [place + shift for place in found]
            means = [100 * s.mean for s in found.values()]
            spread = [100 * (s.sd or 0.0) for s in found.values()]
            axes.errorbar(places, means, yerr=spread, fmt="o", ms=6, lw=1.6, color=colour(index), label=data)
            if baselines and data in baselines:
                axes.axhline(100 * baselines[data], color=colour(index), linestyle="--", linewidth=1.2)
        axes.set_xticks(range(len(names)), names)
        axes.set(ylabel=ylabel, xlim=(-0.6, len(names) - 0.4))
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.14), ncols=min(4, len(scores)), borderaxespad=0)
        return render(figure, image_format)
