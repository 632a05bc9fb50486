"""Accuracy of kNN over k and temperature (the papers' Tables 14 to 16 as a picture)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from semaug.eval.figures.style import INK, ImageFormat, colour, new_figure, render, styled
from semaug.eval.probes.knn import HEADLINE_K, HEADLINE_TEMPERATURE, KnnGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def knn_heatmap(grids: Sequence[tuple[str, KnnGrid]], image_format: ImageFormat = "svg") -> bytes:
    """A heatmap for each (name, grid) on one colour scale: rows k, columns T, top-1 accuracy in per cent."""
    low = min(float(np.nanmin(grid.accuracy)) for _, grid in grids)
    high = max(float(np.nanmax(grid.accuracy)) for _, grid in grids)
    with styled():
        figure, axes = new_figure(4.2 * len(grids) if len(grids) > 1 else 5.6, 3.7, len(grids))
        for plot, (name, grid) in zip(axes, grids, strict=True):
            plot.grid(False)
            plot.spines[:].set_visible(False)
            plot.pcolormesh(
                grid.accuracy, vmin=low, vmax=max(high, low + 1e-9), cmap="viridis", edgecolors="face", linewidth=0.2
            )
            _write_cells(plot, grid, low, high)
            plot.set_title(name)
            plot.set(xlabel="temperature T", ylabel="neighbours k")
            plot.set_xticks(np.arange(len(grid.temperatures)) + 0.5, [f"{t:g}" for t in grid.temperatures])
            plot.set_yticks(np.arange(len(grid.ks)) + 0.5, [str(k) for k in grid.ks])
        return render(figure, image_format)


def _write_cells(plot: Axes, grid: KnnGrid, low: float, high: float) -> None:
    # Fixed colours: a cell's own colour decides, not the page's scheme.
    for (row, column), value in np.ndenumerate(grid.accuracy):
        if np.isnan(value):
            plot.text(column + 0.5, row + 0.5, "–", ha="center", va="center", color=INK)
            continue
        ink = "#111111" if (value - low) / max(high - low, 1e-9) > 0.55 else "#fefefe"
        place = (column + 0.5, row + 0.5)
        plot.text(*place, f"{100 * value:.1f}", ha="center", va="center", color=ink, fontsize=8)


def knn_curves(
    grids: Sequence[tuple[str, KnnGrid]],
    temperature: float = HEADLINE_TEMPERATURE,
    image_format: ImageFormat = "svg",
) -> bytes:
    """Top-1 accuracy over k at one temperature, one line for each (name, grid)."""
    with styled():
        figure, (axes,) = new_figure(6.2, 3.4)
        for index, (name, grid) in enumerate(grids):
            column = grid.temperatures.index(temperature)
            axes.plot(grid.ks, 100 * grid.accuracy[:, column], marker="o", ms=4, color=colour(index), label=name)
        axes.set_xscale("log")
        ticks = sorted({k for _, grid in grids for k in grid.ks})
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.minorticks_off()
        axes.set(xlabel=f"neighbours k (T = {temperature:g})", ylabel="top-1 accuracy, %")
        axes.legend(loc="best")
        return render(figure, image_format)


def knn_temperature_curves(
    grids: Sequence[tuple[str, KnnGrid]], k: int = HEADLINE_K, image_format: ImageFormat = "svg"
) -> bytes:
    """Top-1 accuracy over the temperature at one k, one line for each (name, grid).

    Towards T = 0 kNN becomes the nearest neighbour's class, drawn as a dotted line (k = 1 does not depend on T).
    """
    with styled():
        figure, (axes,) = new_figure(6.2, 3.4)
        for index, (name, grid) in enumerate(grids):
            if k not in grid.ks:
                continue
            row = 100 * grid.accuracy[grid.ks.index(k)]
            axes.plot(grid.temperatures, row, marker="o", ms=4, color=colour(index), label=f"{name}, k = {k}")
            if 1 in grid.ks:
                nearest = 100 * grid.accuracy[grid.ks.index(1), 0]
                axes.axhline(nearest, color=colour(index), linestyle=":", lw=1.4, label=f"{name}, k = 1")
        axes.set_xscale("log")
        ticks = sorted({t for _, grid in grids for t in grid.temperatures})
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set(xlabel="temperature T", ylabel="top-1 accuracy, %")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(0, 1.2), ncols=2, borderaxespad=0)
        return render(figure, image_format)
