"""Curves over training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semaug.eval.errors import EvaluationError
from semaug.eval.figures.style import ImageFormat, colour, new_figure, render, styled


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
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.14), ncols=min(4, len(curves)), borderaxespad=0)
        return render(figure, image_format)
