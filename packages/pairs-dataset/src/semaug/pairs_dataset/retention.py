# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions carry no annotations: numba infers their types; docstrings say what they take.
"""Retention, the paper's rho: how much of the annotated objects the crops of a pair source keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.pairs_dataset.sources import InflatedPairs, PairSource


@dataclass(frozen=True, slots=True)
class Retention:
    """Shares in [0, 1] over ``images`` annotated images and ``draws`` pairs of each.

    ``keeps``: views that keep at least half of some object. ``filled``: views of which some object fills at least
    30%. ``same``: pairs whose two views both keep at least half of one and the same object. ``area``: mean share of
    the image that a view shows.
    """

    keeps: float
    filled: float
    same: float
    area: float
    images: int
    draws: int


@njit(cache=True, nogil=True)
def _overlap(crop, box):
    """Area that a crop (top, left, height, width) shares with a box (x0, y0, x1, y1)."""
    dx = min(box[2], float(crop[1] + crop[3])) - max(box[0], float(crop[1]))
    dy = min(box[3], float(crop[0] + crop[2])) - max(box[1], float(crop[0]))
    return max(dx, 0.0) * max(dy, 0.0)


@njit(cache=True, nogil=True)
def _judge(crops, boxes, kept_share, filled_share):
    """Whether each of two crops keeps, and is filled by, some object; and whether both keep the same one."""
    keeps, filled = np.zeros(2), np.zeros(2)
    same = 0.0
    for j in range(boxes.shape[0]):
        both = True
        area = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
        for v in range(2):
            shared = _overlap(crops[v], boxes[j])
            if shared >= kept_share * area:
                keeps[v] = 1.0
            else:
                both = False
            if shared >= filled_share * crops[v, 2] * crops[v, 3]:
                filled[v] = 1.0
        if both:
            same = 1.0
    return keeps.mean(), filled.mean(), same


def measure_retention(
    pairs: PairSource,
    truth: GuidanceTable,
    *,
    draws: int = 20,
    min_area: float = 0.02,
    kept_share: float = 0.5,
    filled_share: float = 0.3,
    on_progress: OnProgress = ignore_progress,
) -> Retention:
    """Draw ``draws`` epochs of crops (no pixels are read) and hold them against the true boxes.

    ``truth`` has the annotated boxes by key; only objects over ``min_area`` of their image count, and only images
    that have one. Image sizes are those of the annotation. Raises ``InvalidOption`` when no image is annotated, and for
    inflated pairs, half of whose crops are of crops: boxes of the originals do not fit those.
    """
    if isinstance(pairs, InflatedPairs):
        raise InvalidOption("retention of inflated pairs is not defined: true boxes do not fit crops; take `cross`")
    annotated = [(i, boxes, size) for i in range(len(pairs.images)) if (found := _truth(pairs, truth, i, min_area))
                 for boxes, size in [found]]  # fmt: skip
    if not annotated or draws < 1:
        raise InvalidOption(
            f"{len(annotated)} of {len(pairs.images)} images have a true object over {min_area:.0%} of their area and "
            f"draws is {draws}; give annotations of these images and draws of 1 or more"
        )
    sums, epoch = np.zeros(4), pairs.epoch
    for draw in range(draws):
        pairs.set_epoch(draw)
        for item, boxes, (height, width) in annotated:
            crops = pairs.plan(item, height, width).crops
            area = (crops[:, 2] * crops[:, 3]).mean() / (height * width)
            sums += (*_judge(crops, boxes, kept_share, filled_share), area)
        on_progress(Progress("retention", draw + 1, draws, "draws"))
    pairs.set_epoch(epoch)
    keeps, filled, same, area = (sums / (len(annotated) * draws)).tolist()
    return Retention(keeps, filled, same, area, len(annotated), draws)


def _truth(
    pairs: PairSource, truth: GuidanceTable, item: int, min_area: float
) -> tuple[NDArray[np.float64], tuple[int, int]] | None:
    found = truth.get(pairs.source.key(int(pairs.images[item])))
    if found is None:
        return None
    boxes = found.boxes.astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    boxes = boxes[areas > min_area * found.height * found.width]
    return (boxes, (found.height, found.width)) if len(boxes) else None
