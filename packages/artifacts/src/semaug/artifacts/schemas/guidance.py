"""Class-agnostic guidance: where the objects of an image are, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Scale = Literal["object", "pixel", "hybrid"]
SCALES: tuple[Scale, ...] = ("object", "pixel", "hybrid")
"""S1 (boxes), S2 (masks), S3 (masks inside boxes), in the order of the stored codes."""


@dataclass(frozen=True, slots=True)
class Rle:
    """One mask in COCO's compressed run-length code: ``size`` is (height, width), ``counts`` its ASCII bytes."""

    size: tuple[int, int]
    counts: bytes


def _no_boxes() -> NDArray[np.float32]:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class Guidance:
    """Boxes (float32, shape (n, 4), xyxy pixels, best first) and masks of one image of ``height`` x ``width``.

    Masks follow the boxes' order where both exist. ``fallback`` marks an image whose oracles found nothing: it takes
    the standard augmentation. No class and no confidence can be written down here.
    """

    key: str
    height: int
    width: int
    scale: Scale = "object"
    boxes: NDArray[np.float32] = field(default_factory=_no_boxes)
    masks: tuple[Rle, ...] = ()
    fallback: bool = False

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes of {self.key!r} have shape {self.boxes.shape}, expected (n, 4) xyxy")
        for mask in self.masks:
            if tuple(mask.size) != (self.height, self.width):
                raise ValueError(
                    f"a mask of {self.key!r} is {mask.size}, its image {(self.height, self.width)}; "
                    "store masks at the image's own size"
                )


class GuidanceRecord(BaseModel):
    """Guidance as JSON (interchange): the schema forbids classes, scores and any other extra field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    height: int
    width: int
    scale: Scale
    boxes: list[tuple[float, float, float, float]]
    masks: list[str]
    fallback: bool = False
