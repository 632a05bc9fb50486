"""Surface patterns of the generated ``scenes:`` set, one a class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Grid:
    """Coordinates of a pattern: ``x`` and ``y`` in pixels, turned by a random angle, float32 (height, width)."""

    x: Field
    y: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, height: int, width: int) -> Grid:
        """Turned by any angle, scaled by up to a tenth, shifted by any phase."""
        angle, scale = rng.uniform(0, math.pi), rng.uniform(0.9, 1.1)
        shift_x, shift_y = rng.uniform(0, 64, 2).tolist()
        across = np.arange(width, dtype=np.float32) * scale + shift_x
        down = np.arange(height, dtype=np.float32)[:, None] * scale + shift_y
        turned_x = across * math.cos(angle) + down * math.sin(angle)
        turned_y = down * math.cos(angle) - across * math.sin(angle)
        return cls(turned_x.astype(np.float32), turned_y.astype(np.float32))


def _waves(values: Field, period: float) -> Field:
    return np.sin(values * np.float32(2 * math.pi / period))


def _checks(grid: Grid, period: float) -> Field:
    return _waves(grid.x, period) * _waves(grid.y, period)


def _dots(grid: Grid, period: float) -> Field:
    return _waves(grid.x, period) + _waves(grid.y, period) - np.float32(1.0)


TEXTURES: dict[str, Callable[[Grid], Field]] = {
    "arrow": lambda g: _waves(g.x, 36),
    "crescent": lambda g: _waves(g.x, 16),
    "cross": lambda g: _checks(g, 42),
    "disc": lambda g: _checks(g, 19),
    "heart": lambda g: np.maximum(_waves(g.x, 27), _waves(g.y, 27)) - np.float32(0.45),
    "hourglass": lambda g: _dots(g, 27),
    "ring": lambda g: _waves(g.x, 30) - np.float32(0.75),
    "square": lambda g: np.ones_like(g.x),
    "star": lambda g: _waves(g.x + 11 * _waves(g.y, 36), 25),
    "triangle": lambda g: -_dots(g, 46),
}
"""Class name to the field whose sign is the pattern: light where it is positive, dark elsewhere."""
