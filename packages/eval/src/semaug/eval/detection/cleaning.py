"""What every reader of annotations does with an object: clip it to the image, leave out what has no area, say so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.schemas import Rle
from semaug.eval.detection.data import DetectionDataError, Objects, Outline, Polygon

THINNEST = 0.01
"""Boxes with a side below this many pixels have no area: in float32 their corners may meet."""


@dataclass(frozen=True, slots=True)
class RawObject:
    """One object as its file says: ``box`` is xyxy in pixels; ``polygons`` may hold some of under three points."""

    box: tuple[float, float, float, float]
    label: int
    difficult: bool = False
    crowd: bool = False
    area: float | None = None
    polygons: tuple[Polygon, ...] = ()
    mask: Rle | None = None

    @property
    def outline(self) -> Outline | None:
        """Its mask, or its polygons of three points or more; None without either."""
        return self.mask or tuple(p for p in self.polygons if len(p) >= 3) or None


@dataclass(slots=True)
class Cleaner:
    """Turns raw objects into ``Objects`` and counts what it leaves out.

    ``outlines`` keeps the shapes, and only objects that have one; without it shapes give areas alone.
    """

    outlines: bool
    _left_out: dict[str, list[str]] = field(default_factory=dict)

    def objects(self, origin: str, size: tuple[int, int], raw: Iterable[RawObject]) -> Objects:
        """The objects of an image of ``size`` (height, width); raises ``DetectionDataError`` for a box that cannot be.

        A box may reach over the border and is clipped; one wholly outside, or with its corners swapped, is an error.
        """
        kept, boxes = [], []
        for one in raw:
            box = _clipped(origin, one.box, size)
            if min(box[2:] - box[:2]) < THINNEST:
                self._leave_out("without area", origin)
            elif self.outlines and one.outline is None:
                self._leave_out("without an outline of three points or more", origin)
            else:
                kept.append(one)
                boxes.append(box)
        return self._assembled(kept, boxes)

    def notes(self) -> tuple[str, ...]:
        """What was left out and where first, one sentence a reason."""
        found = self._left_out.items()
        return tuple(
            f"{len(where)} objects {reason} were left out (the first in {where[0]})" for reason, where in found
        )

    def _leave_out(self, reason: str, origin: str) -> None:
        self._left_out.setdefault(reason, []).append(origin)

    def _assembled(self, raw: Sequence[RawObject], boxes: Sequence[NDArray[np.float64]]) -> Objects:
        corners = np.asarray(boxes, np.float64).reshape(-1, 4)
        return Objects(
            corners.astype(np.float32),
            np.asarray([o.label for o in raw], np.int64),
            np.asarray([o.difficult for o in raw], bool),
            np.asarray([o.crowd for o in raw], bool),
            np.asarray([_area(o, box) for o, box in zip(raw, corners, strict=True)], np.float64),
            tuple(o.outline for o in raw if o.outline is not None) if self.outlines else (),
        )


def polygon_area(polygon: Polygon) -> float:
    """The area a polygon encloses, square pixels (shoelace formula).

    >>> polygon_area(np.array([[0, 0], [4, 0], [4, 3.0]]))
    6.0
    """
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _area(raw: RawObject, box: NDArray[np.float64]) -> float:
    if raw.area is not None:
        return raw.area
    outlined = sum(polygon_area(p) for p in raw.polygons if len(p) >= 3)
    return outlined or float((box[2] - box[0]) * (box[3] - box[1]))


def _clipped(origin: str, box: tuple[float, float, float, float], size: tuple[int, int]) -> NDArray[np.float64]:
    height, width = size
    x1, y1, x2, y2 = box
    told = ", ".join(f"{v:g}" for v in box)
    if not np.isfinite(box).all() or x2 < x1 or y2 < y1:
        raise DetectionDataError(f"{origin}: box ({told}) does not run from its upper left to its lower right; mend it")
    if x1 > width or y1 > height or x2 < 0 or y2 < 0:
        raise DetectionDataError(
            f"{origin}: box ({told}) lies outside of its image of {width} x {height} pixels; use the annotated images"
        )
    return np.clip(np.asarray(box, np.float64), 0, [width, height, width, height])
