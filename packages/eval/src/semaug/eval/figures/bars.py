"""Bars and intervals: routing histograms and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from semaug.eval.figures.style import MUTED, ImageFormat, colour, new_figure, render, styled
from semaug.eval.statistics import PairedDifference

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def routing_histogram(
    counts: Mapping[str, Mapping[str, int]],
    routes: Sequence[str] = ("object", "pixel", "hybrid"),
    image_format: ImageFormat = "svg",
) -> bytes:
    """The share of images on each route, one stacked bar a data set: ``counts[data set][route]``."""
    with styled():
        figure, (axes,) = new_figure(6.2, 1.0 + 0.5 * len(counts))
        names = list(counts)
        left = np.zeros(len(names))
        totals = np.asarray([max(1, sum(counts[name].values())) for name in names])
        for index, route in enumerate(routes):
            shares = 100 * np.asarray([counts[name].get(route, 0) for name in names]) / totals
            axes.barh(names, shares, left=left, color=colour(index), height=0.62, label=route)
            for row, share in enumerate(shares):
                if share >= 6:
                    axes.text(left[row] + share / 2, row, f"{share:.0f}%", ha="center", va="center", color="#ffffff")
            left += shares
        axes.set(xlim=(0, 100), xlabel="share of images, %")
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=len(routes))
        return render(figure, image_format)


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    """One comparison: its name, the paired difference, and the differences of the single pairs (may be empty)."""

    name: str
    difference: PairedDifference
    pairs: Sequence[float] = ()


def difference_bars(
    rows: Sequence[DifferenceRow], xlabel: str, scale: float = 100.0, image_format: ImageFormat = "svg"
) -> bytes:
    """Mean paired differences with their intervals, and the single pairs as small dots, about a line at zero.

    Values are multiplied by ``scale`` (100: accuracies become percentage points). A comparison whose interval leaves
    zero out is drawn in colour, the others in grey.
    """
    with styled():
        figure, (axes,) = new_figure(6.2, 1.0 + 0.55 * len(rows))
        axes.axvline(0, color=MUTED, linewidth=1)
        for place, row in enumerate(rows):
            _draw_difference(axes, place, row, scale)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
        axes.grid(axis="y", visible=False)
        return render(figure, image_format)


def _draw_difference(axes: Axes, place: int, row: DifferenceRow, scale: float) -> None:
    found = row.difference
    tone = MUTED if not found.separated else colour(2 if found.mean > 0 else 7)
    if found.low is not None and found.high is not None:
        axes.plot(
            [scale * found.low, scale * found.high],
            [place, place],
            color=tone,
            lw=6,
            alpha=0.35,
            solid_capstyle="round",
        )
    if row.pairs:
        dots = scale * np.asarray(row.pairs)
        axes.scatter(dots, np.full(len(dots), place + 0.22), s=10, color=MUTED, linewidths=0)
    axes.scatter([scale * found.mean], [place], s=55, color=tone, zorder=3)
