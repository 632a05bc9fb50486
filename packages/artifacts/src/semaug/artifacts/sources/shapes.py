"""Outlines of the shape classes of the generated ``scenes:`` set, as polygons around the origin."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]


def _closed(points: list[tuple[float, float]]) -> Outline:
    """Points with shape (n, 2), moved so that their box is centred, scaled to an area of one."""
    polygon = np.array(points, np.float64)
    polygon -= (polygon.max(0) + polygon.min(0)) / 2
    x, y = polygon.T
    area = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    return polygon / math.sqrt(area)


def _round(points: int, radius: float = 1.0) -> list[tuple[float, float]]:
    angles = [2 * math.pi * i / points for i in range(points)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _star() -> list[tuple[float, float]]:
    corners = []
    for i in range(10):
        radius, angle = (1.0, 0.42)[i % 2], math.pi * i / 5 - math.pi / 2
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


def _crescent() -> list[tuple[float, float]]:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.9, 2 * math.pi - 0.9, 28).tolist()]
    tip_x, tip_y = outer[0]
    inner_x = 0.75
    radius = math.hypot(tip_x - inner_x, tip_y)
    start = math.atan2(tip_y, tip_x - inner_x)
    angles = np.linspace(2 * math.pi - start, start, 24).tolist()
    return outer + [(inner_x + radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _heart() -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * math.pi, 36, endpoint=False).tolist()
    return [
        (
            16 * math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
        )
        for t in angles
    ]


def _cross(arm: float = 0.32) -> list[tuple[float, float]]:
    a = arm
    return [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]


def _ring() -> list[tuple[float, float]]:
    """Two circles joined by a cut of no width, so that one polygon has a hole."""
    outer, inner = _round(32), _round(32, 0.55)
    return [*outer, outer[0], inner[0], *reversed(inner)]


OUTLINES: dict[str, Outline] = {
    "arrow": _closed([(-1, -0.28), (0.1, -0.28), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, 0.28), (-1, 0.28)]),
    "crescent": _closed(_crescent()),
    "cross": _closed(_cross()),
    "disc": _closed(_round(36)),
    "heart": _closed(_heart()),
    "hourglass": _closed([(-0.8, -1), (0.8, -1), (0.12, 0), (0.8, 1), (-0.8, 1), (-0.12, 0)]),
    "ring": _closed(_ring()),
    "square": _closed([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "star": _closed(_star()),
    "triangle": _closed([(0, -1), (1, 0.8), (-1, 0.8)]),
}
"""Class name to outline, in label order; every outline has area one."""
