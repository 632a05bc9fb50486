"""One look for every figure, readable on a light and on a dark page.

An SVG carries its own style: ink and grid colours are variables that follow the reader's colour scheme, text stays
text, and the background is clear. A PNG is drawn in the light scheme on white.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ImageFormat = Literal["svg", "png"]

# Middle tones that keep at least 3:1 against white and against near-black.
PALETTE = (
    "#2f7ed8", "#d9722e", "#2a9d77", "#b85aa0", "#8a6fd8",
    "#a8862a", "#2f9fae", "#d04f5f", "#76879a", "#6b9a34",
)  # fmt: skip
INK = "#1f2833"
MUTED = "#5d6b7a"
GRID = "#d9dee4"
_DARK = {INK: "#e4e9ef", MUTED: "#9aa8b7", GRID: "#39434e"}
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5"
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 2.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "semaug",
}


def colour(index: int) -> str:
    """Colour of series ``index``; it repeats after ten."""
    return PALETTE[index % len(PALETTE)]


@contextmanager
def styled() -> Iterator[None]:
    """Draw with the look of this module, and leave matplotlib's settings as they were."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, _RC)):
        yield


def new_figure(width: float = 7.2, height: float = 4.0, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with a row of axes; sizes in inches. Call it inside ``styled()``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)
    return figure, list(axes[0])


def render(figure: Figure, image_format: ImageFormat = "svg") -> bytes:
    """The figure as SVG bytes that follow the reader's colour scheme, or as PNG bytes (144 dots an inch)."""
    buffer = io.BytesIO()
    if image_format == "png":
        figure.savefig(buffer, format="png", dpi=144, facecolor="white")
        return buffer.getvalue()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue().decode()).encode()


def _themed(svg: str) -> str:
    for value, name in _VARIABLES.items():
        svg = svg.replace(value, f"var({name})")
    svg = svg.replace("'DejaVu Sans'", _FONT)
    light = "".join(f"{name}:{value};" for value, name in _VARIABLES.items())
    dark = "".join(f"{name}:{_DARK[value]};" for value, name in _VARIABLES.items())
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    start = svg.index(">", svg.index("<svg")) + 1
    return svg[:start] + style + svg[start:]
