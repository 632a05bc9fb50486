"""Which boxes and masks are usable, and which one is taken where only one can be (SDI, spec S1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.oracles.protocols import Boxes, Mask

BoxChoice = Literal["largest", "random", "union", "all"]
BOX_CHOICES: tuple[BoxChoice, ...] = ("largest", "random", "union", "all")
MIN_SIDE = 2.0
"""Pixels: a box that is thinner after clipping is a miss."""
MIN_AREA = 0.01
"""Share of the image: smaller objects are not chosen while there is a larger one."""
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


def select_boxes(
    boxes: Boxes, height: int, width: int, choice: BoxChoice, *, draw: float = 0.0, min_area: float = MIN_AREA
) -> Boxes:
    """The chosen box (or, for ``all``, boxes): float32, shape (1, 4), (n, 4), or (0, 4) where there is none.

    Boxes under ``min_area`` of the image are left out. ``draw`` in [0, 1) decides ``random``; ``largest`` takes the
    first of equals. Raises ``InvalidOption`` for another choice.

    >>> boxes = np.array([[0, 0, 2, 2], [0, 0, 8, 8]], np.float32)
    >>> select_boxes(boxes, 10, 10, "largest").tolist()
    [[0.0, 0.0, 8.0, 8.0]]
    """
    if choice not in BOX_CHOICES:
        raise InvalidOption(f"box choice {choice!r} is not one of {', '.join(BOX_CHOICES)}")
    areas = box_areas(boxes)
    large = boxes[areas >= min_area * height * width]
    if len(large) == 0 or choice == "all":
        return large
    if choice == "union":
        return np.concatenate([large[:, :2].min(axis=0), large[:, 2:].max(axis=0)])[None]
    if choice == "random":
        return large[int(draw * len(large))][None]
    return large[int(np.argmax(box_areas(large)))][None]


def rank_masks(masks: Sequence[Mask], min_area: float = MIN_AREA, max_area: float = MAX_AREA) -> list[Mask]:
    """Masks that are neither specks nor background, largest first and more central first among equals.

    A mask is kept when its share of the image lies between ``min_area`` and ``max_area``.
    """
    kept = [m for m in masks if min_area <= float(m.mean()) <= max_area] if masks else []
    return sorted(kept, key=lambda m: (-int(m.sum()), _off_centre(m)))


def select_mask(masks: Sequence[Mask], min_area: float = MIN_AREA, max_area: float = MAX_AREA) -> Mask | None:
    """The largest mask that is not background, the more central of equals; None where there is none."""
    ranked = rank_masks(masks, min_area, max_area)
    return ranked[0] if ranked else None


def _off_centre(mask: Mask) -> float:
    """Distance of the mask's centroid from the image's centre, in units of the half sides."""
    height, width = mask.shape
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    y = float(rows @ (np.arange(height) + 0.5)) / float(rows.sum())
    x = float(columns @ (np.arange(width) + 0.5)) / float(columns.sum())
    return float(np.hypot(2 * y / height - 1, 2 * x / width - 1))
