"""Curves over training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from semaug.eval.errors import EvaluationError
from semaug.eval.figures.style import ImageFormat, colour, new_figure, render, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEGEND_LETTERS, _HANDLE_LETTERS = 84, 9
"""Letters that fit above the axes, and what a line's sample and the space around it take."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One series: ``steps`` of length s, ``runs`` one sequence of s values a seed (NaN where not measured)."""

    name: str
    steps: Sequence[float]
    runs: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        for run in self.runs:
            if len(run) != len(self.steps):
                raise EvaluationError(f"curve {self.name}: {len(self.steps)} steps and {len(run)} values; give as many")
        if not self.runs:
            raise EvaluationError(f"curve {self.name} has no run; leave it out")


def learning_curves(
    curves: Sequence[Curve], ylabel: str, xlabel: str = "step", image_format: ImageFormat = "svg"
) -> bytes:
    """The mean over seeds as a line, the range over seeds as a band, and the name at the line's end."""
    with styled():
        figure, (axes,) = new_figure(6.2, 3.5)
        for index, curve in enumerate(curves):
            values = np.asarray(curve.runs, dtype=np.float64)
            shown = ~np.isnan(values).all(axis=0)
            steps, values = np.asarray(curve.steps)[shown], values[:, shown]
            marker = "o" if len(steps) <= 12 else None
            label = f"{curve.name} (n = {len(values)})" if len(values) > 1 else curve.name
            axes.plot(steps, np.nanmean(values, axis=0), color=colour(index), marker=marker, ms=4, label=label)
            if len(values) > 1:
                low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
                axes.fill_between(steps, low, high, color=colour(index), alpha=0.18, linewidth=0)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.margins(x=0.02)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=_columns(axes), borderaxespad=0)
        return render(figure, image_format)


def _columns(axes: Axes) -> int:
    """How many names fit side by side: at most four, fewer where they are long."""
    names = axes.get_legend_handles_labels()[1]
    longest = max((len(name) for name in names), default=0)
    return max(1, min(4, len(names), _LEGEND_LETTERS // (longest + _HANDLE_LETTERS)))
