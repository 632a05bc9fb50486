"""Which boxes and masks are usable, and in which order (SDI, spec S1.3); pair sources choose among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semaug.oracles.protocols import Boxes, Mask

MIN_SIDE = 2.0
"""Pixels: a box that is thinner after clipping is a miss."""
MIN_AREA = 0.01
"""Share of the image: a smaller mask is a speck."""
MAX_AREA = 0.9
"""Share of the image: a larger mask is background."""


def box_areas(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Areas of xyxy boxes in square pixels: float64, shape (n,)."""
    sides = np.asarray(boxes, np.float64)[:, 2:] - np.asarray(boxes, np.float64)[:, :2]
    return np.prod(np.maximum(sides, 0.0), axis=1)


def usable_boxes(boxes: NDArray[np.floating], height: int, width: int, min_side: float = MIN_SIDE) -> Boxes:
    """Boxes clipped to the image, in their order, without those that are then thinner than ``min_side`` pixels.

    >>> usable_boxes(np.array([[-5, -5, 4, 4], [7, 0, 8, 8]], np.float32), height=8, width=8).tolist()
    [[0.0, 0.0, 4.0, 4.0]]
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    sides = clipped[:, 2:] - clipped[:, :2]
    return clipped[(sides >= min_side).all(axis=1)]


def rank_masks(masks: Sequence[Mask], min_area: float = MIN_AREA, max_area: float = MAX_AREA) -> list[Mask]:
    """Masks that are neither specks nor background, largest first and more central first among equals.

    A mask is kept when its share of the image lies between ``min_area`` and ``max_area``.
    """
    kept = [m for m in masks if min_area <= float(m.mean()) <= max_area] if masks else []
    return sorted(kept, key=lambda m: (-int(m.sum()), _off_centre(m)))


def _off_centre(mask: Mask) -> float:
    """Distance of the mask's centroid from the image's centre, in units of the half sides."""
    height, width = mask.shape
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    y = float(rows @ (np.arange(height) + 0.5)) / float(rows.sum())
    x = float(columns @ (np.arange(width) + 0.5)) / float(columns.sum())
    return float(np.hypot(2 * y / height - 1, 2 * x / width - 1))
