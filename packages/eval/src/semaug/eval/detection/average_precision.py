"""Average precision of detections: VOC's, with 11 points (2007) or the area (2010), and COCO's, judged by pycocotools.

Boxes are xyxy in pixels with an exclusive end, so that no pixel is added to widths; VOC's "+ 1" on inclusive corners
comes to the same.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.masks import mask_area
from semaug.artifacts.schemas import Rle
from semaug.eval.detection.data import AnnotatedImage
from semaug.eval.detection.masks import outline_code

Floats = NDArray[np.float64]
IOU_THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))


@dataclass(frozen=True, slots=True)
class Detections:
    """The n answers for one image: ``boxes`` float32 (n, 4), ``scores`` float32 (n,), ``labels`` int64 (n,) that index
    the class names, and maybe ``masks``, one run-length code each, at the image's size."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: tuple[Rle, ...] = ()


@dataclass(frozen=True, slots=True)
class VocPrecision:
    """VOC's average precision: float64 (thresholds, classes), NaN for classes without objects to find.

    ``eleven`` is the mean of the best precision at recall 0, 0.1, ..., 1 and above; ``area`` the area below the
    precision made monotone.
    """

    eleven: Floats
    area: Floats


@dataclass(frozen=True, slots=True)
class CocoPrecision:
    """COCO's average precision: the mean over IoU 0.5 to 0.95, at 0.5 and 0.75, of small (below 32x32 pixels), medium
    (below 96x96) and large objects; None where there are no objects. ``per_class`` is float64 (classes,), NaN for
    classes without objects."""

    mean: float | None
    at50: float | None
    at75: float | None
    small: float | None
    medium: float | None
    large: float | None
    per_class: Floats


def eleven_point(recall: Floats, precision: Floats) -> float:
    """VOC 2007: the mean over recalls 0, 0.1, ..., 1 of the best precision at that recall or above (0 if none).

    >>> eleven_point(np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])).__round__(4)
    0.8485
    """
    best = [precision[recall >= point - 1e-12].max(initial=0.0) for point in np.arange(11) / 10]
    return float(np.mean(best))


def area_under(recall: Floats, precision: Floats) -> float:
    """VOC 2010 on: the area below the curve whose precision is the best at that recall or above.

    >>> area_under(np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])).__round__(4)
    0.8333
    """
    if not len(recall):
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def precision_recall(scores: Floats, correct: NDArray[np.bool_], positives: int) -> tuple[Floats, Floats]:
    """(recall, precision) after each detection, best score first; equal scores keep their order."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(correct[order], dtype=np.float64)
    return hits / positives, hits / np.arange(1, len(order) + 1)


def voc_precision(
    truths: Sequence[AnnotatedImage],
    found: Sequence[Detections],
    classes: int,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> VocPrecision:
    """VOC's average precision of every class at every threshold.

    A detection is held against the object of its class that it overlaps most. It is right where their IoU exceeds the
    threshold and no better-scored detection claimed the object before, wrong otherwise; where that object is difficult
    (or a crowd) it is left out of the count.
    """
    shape = (len(thresholds), classes)
    eleven, area = np.full(shape, np.nan), np.full(shape, np.nan)
    for label in range(classes):
        claims = [_claims(t, f, label, thresholds) for t, f in zip(truths, found, strict=True)]
        positives = sum(c.positives for c in claims)
        if not positives:
            continue
        scores = np.concatenate([c.scores for c in claims])
        correct = np.concatenate([c.correct for c in claims], axis=1)
        counted = np.concatenate([c.counted for c in claims], axis=1)
        for row in range(len(thresholds)):
            kept = counted[row]
            curve = precision_recall(scores[kept], correct[row, kept], positives)
            eleven[row, label], area[row, label] = eleven_point(*curve), area_under(*curve)
    return VocPrecision(eleven, area)


@dataclass(frozen=True, slots=True)
class _Claims:
    """Detections of one class in one image: right and counted, bool (thresholds, n)."""

    positives: int
    scores: Floats
    correct: NDArray[np.bool_]
    counted: NDArray[np.bool_]


def _claims(truth: AnnotatedImage, found: Detections, label: int, thresholds: Sequence[float]) -> _Claims:
    objects, mine = truth.objects.labels == label, found.labels == label
    ignored = (truth.objects.difficult | truth.objects.crowd)[objects]
    order = np.argsort(-found.scores[mine], kind="stable")
    scores = found.scores[mine][order].astype(np.float64)
    positives, n = int((~ignored).sum()), len(scores)
    limits = np.asarray(thresholds, np.float64)[:, None]
    if not (n and len(ignored)):
        shape = (len(thresholds), n)
        return _Claims(positives, scores, np.zeros(shape, bool), np.ones(shape, bool))
    overlap = box_overlaps(found.boxes[mine][order], truth.objects.boxes[objects])
    nearest, best = overlap.argmax(1), overlap.max(1)
    over = best[None] > limits
    ahead = np.tril(nearest[:, None] == nearest[None], k=-1)  # [i, j]: j scores better and wants the same object
    first = ~((ahead[None] & over[:, None, :]).any(2))
    return _Claims(positives, scores, over & first & ~ignored[nearest], ~(over & ignored[nearest]))


def box_overlaps(first: NDArray[np.floating], second: NDArray[np.floating]) -> Floats:
    """Intersection over union of every pair of xyxy boxes: float64 (len(first), len(second)); 0 for empty boxes.

    >>> box_overlaps(np.array([[0, 0, 2, 2.0]]), np.array([[0, 0, 2, 2.0], [1, 0, 3, 2]])).round(3).tolist()
    [[1.0, 0.333]]
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    start = np.maximum(a[:, None, :2], b[None, :, :2])
    end = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(end - start, 0), axis=2)
    union = _area(a)[:, None] + _area(b)[None] - shared
    return np.where(union > 0, shared / np.maximum(union, 1e-12), 0.0)


def coco_precision(
    truths: Sequence[AnnotatedImage], found: Sequence[Detections], classes: int, *, masks: bool = False
) -> CocoPrecision:
    """COCO's average precision of boxes, or of masks, by pycocotools.

    Crowds are ignored as COCO does; difficult objects are ignored too. At most 100 detections of a
    class count in an image.
    """
    from pycocotools.cocoeval import COCOeval

    class Judge(COCOeval):
        def _prepare(self) -> None:
            super()._prepare()  # which forgets every mark but that of crowds
            for rows in self._gts.values():
                for row in rows:
                    row["ignore"] = int(row["iscrowd"] or row["difficult"])

    with contextlib.redirect_stdout(io.StringIO()):  # the judge prints as it goes
        truth, answers = _coco_sets(truths, found, classes, masks)
        judge = Judge(truth, answers, "segm" if masks else "bbox")
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., -1]  # (thresholds, recalls, classes, areas)
    return CocoPrecision(
        mean=_mean(precision[..., 0]),
        at50=_mean(precision[0, :, :, 0]),
        at75=_mean(precision[5, :, :, 0]),
        small=_mean(precision[..., 1]),
        medium=_mean(precision[..., 2]),
        large=_mean(precision[..., 3]),
        per_class=np.asarray([_none_to_nan(_mean(precision[:, :, label, 0])) for label in range(classes)]),
    )


def _mean(values: Floats) -> float | None:
    """The mean of what is defined (the judge writes -1 for classes without objects)."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _none_to_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _coco_sets(
    truths: Sequence[AnnotatedImage], found: Sequence[Detections], classes: int, masks: bool
) -> tuple[Any, Any]:
    images = [{"id": n, "height": t.size[0], "width": t.size[1]} for n, t in enumerate(truths)]
    categories = [{"id": label} for label in range(classes)]
    rows = [_truth_rows(n, t, masks) for n, t in enumerate(truths)], [_answer_rows(n, f) for n, f in enumerate(found)]
    return _indexed(images, categories, rows[0]), _indexed(images, categories, rows[1])


def _indexed(images: list[Any], categories: list[Any], rows: list[list[dict[str, Any]]]) -> Any:
    from pycocotools.coco import COCO

    annotations = [row | {"id": n} for n, row in enumerate((r for part in rows for r in part), 1)]
    made = COCO()
    made.dataset = {"images": images, "categories": categories, "annotations": annotations}
    made.createIndex()
    return made


def _truth_rows(number: int, truth: AnnotatedImage, masks: bool) -> list[dict[str, Any]]:
    objects = truth.objects
    rows = [
        {"image_id": number, "category_id": int(label), "bbox": _xywh(box), "area": float(area),
         "iscrowd": int(crowd), "difficult": int(difficult)}
        for box, label, area, crowd, difficult in zip(
            objects.boxes, objects.labels, objects.areas, objects.crowd, objects.difficult, strict=True
        )
    ]  # fmt: skip
    if masks:
        for row, outline in zip(rows, objects.outlines, strict=True):
            row["segmentation"] = _code(outline_code(outline, truth.size))
    return rows


def _answer_rows(number: int, found: Detections) -> list[dict[str, Any]]:
    rows = [
        {"image_id": number, "category_id": int(label), "bbox": _xywh(box), "area": float(area), "score": float(score),
         "iscrowd": 0}
        for box, label, area, score in zip(
            found.boxes, found.labels, _area(found.boxes.astype(np.float64)), found.scores, strict=True
        )
    ]  # fmt: skip
    if found.masks:
        for row, mask in zip(rows, found.masks, strict=True):
            row.update(segmentation=_code(mask), area=mask_area(mask))
    return rows


def _code(rle: Rle) -> dict[str, Any]:
    return {"size": list(rle.size), "counts": rle.counts}


def _xywh(box: NDArray[np.floating]) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]


def _area(boxes: Floats) -> Floats:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
