"""SDI's adaptive oracle: boxes, masks, or masks in boxes, as each image's route asks (spec S1.2, S1.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import Guidance, Rle, Scale
from semaug.oracles.errors import OracleError
from semaug.oracles.protocols import (
    NO_BOXES,
    AnyDetector,
    AnySegmenter,
    Boxes,
    Image,
    KeyedDetector,
    KeyedSegmenter,
    Mask,
)
from semaug.oracles.selection import rank_masks, usable_boxes


class Routing(Protocol):
    """Chooses the scale of each image."""

    def route(self, keys: Sequence[str], images: Sequence[Image]) -> list[Scale]:
        """``object`` (S1), ``pixel`` (S2) or ``hybrid`` (S3) for every image."""
        ...


class FixedScale:
    """The routing that gives every image the same scale."""

    def __init__(self, scale: Scale) -> None:
        self._scale: Scale = scale

    def route(self, keys: Sequence[str], images: Sequence[Image]) -> list[Scale]:
        return [self._scale] * len(keys)


class DeferredDetector:
    """A detector that is built at its first use; ``load_seconds`` is what that took."""

    def __init__(self, build: Callable[[], AnyDetector], name: str = "detector") -> None:
        self._build, self.name = build, name
        self._oracle: AnyDetector | None = None
        self.load_seconds = 0.0

    def open(self) -> AnyDetector:
        """The detector itself, built now if it was not yet."""
        if self._oracle is None:
            started = time.perf_counter()
            self._oracle = self._build()
            self.load_seconds = time.perf_counter() - started
        return self._oracle

    def detect_keyed(self, keys: Sequence[str], images: Sequence[Image]) -> list[Boxes]:
        oracle = self.open()
        if isinstance(oracle, KeyedDetector):
            return oracle.detect_keyed(keys, images)
        return oracle.detect(images)


class DeferredSegmenter:
    """A segmenter that is built at its first use; ``load_seconds`` is what that took."""

    def __init__(self, build: Callable[[], AnySegmenter], name: str = "segmenter") -> None:
        self._build, self.name = build, name
        self._oracle: AnySegmenter | None = None
        self.load_seconds = 0.0

    def open(self) -> AnySegmenter:
        """The segmenter itself, built now if it was not yet."""
        if self._oracle is None:
            started = time.perf_counter()
            self._oracle = self._build()
            self.load_seconds = time.perf_counter() - started
        return self._oracle

    def segment_keyed(
        self, keys: Sequence[str], images: Sequence[Image], boxes: Sequence[Boxes] | None
    ) -> list[list[Mask]]:
        oracle = self.open()
        if isinstance(oracle, KeyedSegmenter):
            return oracle.segment_keyed(keys, images, boxes)
        return oracle.segment(images, boxes)


class AdaptiveOracle:
    """Guidance of images by the oracles that their routes need, and by no other.

    ``object`` gives boxes; ``pixel`` gives masks of the segmenter alone, between 1% and 90% of the image, largest
    first; ``hybrid`` gives boxes and one mask inside each. What misses falls back: a hybrid image whose masks are all
    empty keeps its boxes as ``object``; an image without anything usable is marked ``fallback``.

    >>> from semaug.oracles.saliency import CentreDetector
    >>> from semaug.oracles.grabcut import GrabCutSegmenter
    >>> oracle = AdaptiveOracle(CentreDetector(), GrabCutSegmenter(), FixedScale("object"))
    >>> oracle.guide(["a.jpg"], [np.zeros((20, 20, 3), np.uint8)])[0].boxes.tolist()
    [[3.0, 3.0, 17.0, 17.0]]
    """

    def __init__(
        self, detector: AnyDetector, segmenter: AnySegmenter, routing: Routing, *, max_boxes: int | None = None
    ) -> None:
        """``max_boxes``: keep at most so many of the best boxes of an image."""
        self._detector, self._segmenter, self._routing, self._max_boxes = detector, segmenter, routing, max_boxes

    def guide(self, keys: Sequence[str], images: Sequence[Image]) -> list[Guidance]:
        """The guidance of a batch of images.

        Raises ``OracleError`` when an oracle returns anything but one well-formed result an image.
        """
        scales = self._routing.route(keys, images)
        boxes = self._boxes(keys, images, [i for i, s in enumerate(scales) if s != "pixel"])
        masks = self._masks_alone(keys, images, [i for i, s in enumerate(scales) if s == "pixel"])
        hybrid = [i for i, s in enumerate(scales) if s == "hybrid" and len(boxes[i])]
        inside = self._masks_inside(keys, images, boxes, hybrid)
        rows = []
        for i, (key, image, scale) in enumerate(zip(keys, images, scales, strict=True)):
            if i in inside:
                scale, boxes[i], masks[i] = _combine(boxes[i], inside[i])
            rows.append(_guidance(key, image, scale, boxes.get(i, NO_BOXES), masks.get(i, [])))
        return rows

    def _boxes(self, keys: Sequence[str], images: Sequence[Image], chosen: list[int]) -> dict[int, Boxes]:
        if not chosen:
            return {}
        names, pictures = [keys[i] for i in chosen], [images[i] for i in chosen]
        if isinstance(self._detector, KeyedDetector):
            found = self._detector.detect_keyed(names, pictures)
        else:
            found = self._detector.detect(pictures)
        _require_count(self._detector, found, len(chosen))
        checked = zip(chosen, found, pictures, strict=True)
        return {i: _checked_boxes(self._detector, rows, image)[: self._max_boxes] for i, rows, image in checked}

    def _masks_alone(self, keys: Sequence[str], images: Sequence[Image], chosen: list[int]) -> dict[int, list[Mask]]:
        return {i: rank_masks(masks) for i, masks in self._segment(keys, images, chosen, None).items()}

    def _masks_inside(
        self, keys: Sequence[str], images: Sequence[Image], boxes: dict[int, Boxes], chosen: list[int]
    ) -> dict[int, list[Mask]]:
        found = self._segment(keys, images, chosen, boxes)
        return {i: [_clip(mask, box) for mask, box in zip(found[i], boxes[i], strict=True)] for i in chosen}

    def _segment(
        self, keys: Sequence[str], images: Sequence[Image], chosen: list[int], boxes: dict[int, Boxes] | None
    ) -> dict[int, list[Mask]]:
        if not chosen:
            return {}
        names, pictures = [keys[i] for i in chosen], [images[i] for i in chosen]
        prompts = None if boxes is None else [boxes[i] for i in chosen]
        if isinstance(self._segmenter, KeyedSegmenter):
            found = self._segmenter.segment_keyed(names, pictures, prompts)
        else:
            found = self._segmenter.segment(pictures, prompts)
        _require_count(self._segmenter, found, len(chosen))
        for j, masks in enumerate(found):
            _check_masks(self._segmenter, masks, pictures[j], None if prompts is None else len(prompts[j]))
        return dict(zip(chosen, found, strict=True))


def _combine(boxes: Boxes, masks: list[Mask]) -> tuple[Scale, Boxes, list[Mask]]:
    kept = [i for i, mask in enumerate(masks) if mask.any()]
    if not kept:
        return "object", boxes, []
    return "hybrid", boxes[kept], [masks[i] for i in kept]


def _guidance(key: str, image: Image, scale: Scale, boxes: Boxes, masks: list[Mask]) -> Guidance:
    codes: tuple[Rle, ...] = tuple(encode_mask(mask) for mask in masks)
    missed = len(boxes) == 0 and not codes
    return Guidance(key, image.shape[0], image.shape[1], scale=scale, boxes=boxes, masks=codes, fallback=missed)


def _clip(mask: Mask, box: np.ndarray) -> Mask:
    """The mask without the pixels that lie outside the box, to which partly covered pixels belong."""
    x1, y1 = np.floor(box[:2]).astype(int)
    x2, y2 = np.ceil(box[2:]).astype(int)
    inside = np.zeros_like(mask)
    inside[y1:y2, x1:x2] = mask[y1:y2, x1:x2]
    return inside


def _name(oracle: object) -> str:
    return str(getattr(oracle, "name", type(oracle).__name__))


def _require_count(oracle: object, found: Sequence[object], wanted: int) -> None:
    if len(found) != wanted:
        raise OracleError(f"{_name(oracle)} returned {len(found)} results for {wanted} images; return one each")


def _checked_boxes(oracle: object, boxes: Boxes, image: Image) -> Boxes:
    boxes = np.asarray(boxes)
    if boxes.size == 0:
        return NO_BOXES
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise OracleError(f"{_name(oracle)} returned boxes of shape {boxes.shape}; return (n, 4) xyxy pixels")
    return usable_boxes(boxes, *image.shape[:2])


def _check_masks(oracle: object, masks: list[Mask], image: Image, wanted: int | None) -> None:
    if wanted is not None and len(masks) != wanted:
        raise OracleError(f"{_name(oracle)} returned {len(masks)} masks for {wanted} boxes; return one each")
    for mask in masks:
        if mask.shape != image.shape[:2] or mask.dtype != bool:
            raise OracleError(
                f"{_name(oracle)} returned a mask of {mask.dtype} {mask.shape} for an image of "
                f"{image.shape[:2]}; return bool masks at the image's size"
            )
