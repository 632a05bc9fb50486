"""Where guidance fails: images whose oracle found nothing, and images whose box is wrong (SDI's failure cases)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.masks import mask_box
from semaug.artifacts.schemas import Guidance
from semaug.eval.measures import Measure

LOW_OVERLAP = 0.3
"""A box that overlaps every true box by less is an error."""
WHOLE_IMAGE = 0.9
"""Without true boxes: a box over this share of the image says nothing about where the object is."""
TINY = 0.01
"""Without true boxes: a box under this share of the image hardly holds an object."""
Kind = Literal["miss", "error"]


@dataclass(frozen=True, slots=True)
class Failure:
    """One image that guidance fails on: ``why`` in a few words; the larger ``weight``, the worse."""

    key: str
    kind: Kind
    why: str
    weight: float


@dataclass(frozen=True, slots=True)
class FailureReport:
    """All failures of ``n`` images, the worst first. ``judged_by`` says what an error was told by; ``mean_overlap`` is
    the mean over the images with true boxes of their largest overlap (IoU) with a box of the guidance, 0 for a miss."""

    failures: tuple[Failure, ...]
    n: int
    judged_by: str
    overlaps: int = 0
    mean_overlap: float | None = None

    def of(self, kind: Kind) -> list[Failure]:
        """The failures of one kind, the worst first."""
        return [failure for failure in self.failures if failure.kind == kind]

    def __iter__(self) -> Iterator[Measure]:
        reason = "" if self.n else "no image has guidance"
        for kind in ("miss", "error"):
            share = len(self.of(kind)) / self.n if self.n else None  # type: ignore[arg-type]
            yield Measure(f"guidance/{kind}_rate", share, self.n, reason)
        why = "" if self.mean_overlap is not None else "no true boxes were given"
        yield Measure("guidance/mean_overlap", self.mean_overlap, self.overlaps, why)


def find_failures(guidance: GuidanceTable, truth: GuidanceTable | None = None) -> FailureReport:
    """Misses and errors of guidance.

    A miss is an image without a box. An error is an image whose boxes all overlap every true box by an IoU under 0.3,
    where ``truth`` holds annotated boxes; without them, an image whose best box covers over 90% of it, under 1% of it,
    or lies along one edge as a strip. Images without true boxes are not judged against the truth.
    """
    found, overlaps = [], []
    judged = 0
    for key, row in guidance.rows.items():
        true = None if truth is None else truth.get(key)
        if truth is not None and (true is None or not len(boxes_of(true))):
            continue
        judged += 1
        overlap = None if true is None else _best_overlap(row, true)
        overlaps += [] if overlap is None else [overlap]
        failure = _judge(row, overlap)
        found += [] if failure is None else [failure]
    found.sort(key=lambda failure: (-failure.weight, failure.key))
    how = "true boxes" if truth is not None else "the place and size of the box"
    mean = float(np.mean(overlaps)) if overlaps else None
    return FailureReport(tuple(found), judged, how, len(overlaps), mean)


def _judge(row: Guidance, overlap: float | None) -> Failure | None:
    boxes = boxes_of(row)
    if row.fallback or not len(boxes):
        return Failure(row.key, "miss", "no box: standard views", 1.0)
    if overlap is not None:
        why = f"overlap (IoU) with a true box {overlap:.2f}"
        return Failure(row.key, "error", why, 1 - overlap) if overlap < LOW_OVERLAP else None
    x0, y0, x1, y1 = (boxes[0] / [row.width, row.height, row.width, row.height]).tolist()
    area = (x1 - x0) * (y1 - y0)
    if area > WHOLE_IMAGE:
        return Failure(row.key, "error", f"the box covers {area:.0%} of the image", area)
    if area < TINY:
        return Failure(row.key, "error", f"the box covers {area:.1%} of the image", 1 - area)
    strip = min(x1 - x0, y1 - y0) < 0.15 and max(x1 - x0, y1 - y0) > 0.6
    at_edge = min(x0, y0) < 0.01 or max(x1, y1) > 0.99
    return Failure(row.key, "error", "the box is a strip along an edge", 0.5) if strip and at_edge else None


def boxes_of(row: Guidance) -> NDArray[np.float64]:
    """The boxes of an image's guidance, or those around its masks where it has masks alone; float64 (n, 4), xyxy."""
    if len(row.boxes) or not row.masks:
        return row.boxes.astype(np.float64)
    return np.stack([mask_box(mask) for mask in row.masks]).astype(np.float64)


def _best_overlap(row: Guidance, true: Guidance) -> float:
    """The largest IoU of a box of the guidance with a true box, in the true boxes' pixels; 0 for a miss."""
    ours, theirs = boxes_of(row), boxes_of(true)
    if row.fallback or not len(ours):
        return 0.0
    ours = ours * ([true.width / row.width, true.height / row.height] * 2)
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    shared = (high - low).clip(min=0).prod(2)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (ours, theirs)]
    return float((shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12)).max())
