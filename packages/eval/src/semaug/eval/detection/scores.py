"""What a fine-tuned detector is worth on test images: one measure for each way average precision is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from semaug.eval.detection.average_precision import (
    CocoPrecision,
    Detections,
    Floats,
    VocPrecision,
    coco_precision,
    voc_precision,
)
from semaug.eval.detection.data import DetectionSet
from semaug.eval.errors import EvaluationError
from semaug.eval.measures import Measure
from semaug.eval.statistics import summarise


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """Average precision, shares in [0, 1], over ``n`` test images; ``masks`` is None for a detector of boxes.

    Iterating gives COCO's measures (of boxes, and of masks where there are some), for boxes VOC's, and COCO's of every
    class, None for a class without test objects.
    """

    boxes: CocoPrecision
    voc: VocPrecision
    masks: CocoPrecision | None
    n: int
    class_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        verb = "detect" if self.masks is None else "segment"
        if self.masks is not None:
            yield from _coco_measures(f"{verb}/mask", self.masks, self.n)
        yield from _coco_measures(f"{verb}/box", self.boxes, self.n)
        if self.masks is None:
            for name, values in (("voc07", self.voc.eleven), ("voc-area", self.voc.area)):
                yield _voc_measure(f"{verb}/{name}/AP", values, self.n)
                yield _voc_measure(f"{verb}/{name}/AP50", values[:1], self.n)
                yield _voc_measure(f"{verb}/{name}/AP75", values[5:6], self.n)
        kind, judged = ("box", self.boxes) if self.masks is None else ("mask", self.masks)
        for name, value in zip(self.class_names, judged.per_class, strict=True):
            found = None if np.isnan(value) else float(value)
            reason = "" if found is not None else "no test objects of the class"
            yield Measure(f"{verb}/{kind}/AP/class={name}", found, self.n, reason)


@dataclass(frozen=True, slots=True)
class RepeatedDetection:
    """The same fine-tuning under several seeds: the mean of every measure and, from two on, its standard deviation."""

    runs: tuple[DetectionResult, ...]
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        for measures in zip(*self.runs, strict=True):
            first, values = measures[0], [m.value for m in measures if m.value is not None]
            if len(values) < len(measures):
                yield first
                continue
            found = summarise(values)
            yield Measure(first.metric, found.mean, first.n)
            if found.sd is not None and "/class=" not in first.metric:
                yield Measure(f"{first.metric}_std", found.sd, first.n)


def score_detections(
    data: DetectionSet, found: Sequence[Detections], *, masks: bool = False, warnings: tuple[str, ...] = ()
) -> DetectionResult:
    """Judge answers for the images of ``data``, one each, in their order; raises ``EvaluationError`` unless so."""
    if len(found) != len(data):
        raise EvaluationError(f"{len(found)} answers for {len(data)} images; give one each")
    classes = len(data.class_names)
    return DetectionResult(
        coco_precision(data.images, found, classes),
        voc_precision(data.images, found, classes),
        coco_precision(data.images, found, classes, masks=True) if masks else None,
        len(data),
        data.class_names,
        warnings,
    )


def _coco_measures(name: str, found: CocoPrecision, n: int) -> Iterator[Measure]:
    named = {
        "AP": found.mean,
        "AP50": found.at50,
        "AP75": found.at75,
        "AP_small": found.small,
        "AP_medium": found.medium,
        "AP_large": found.large,
    }
    for metric, value in named.items():
        yield Measure(f"{name}/{metric}", value, n, "" if value is not None else "no test objects of that size")


def _voc_measure(metric: str, values: Floats, n: int) -> Measure:
    """The mean over the classes that have objects to find."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return Measure(metric, None, n, "no test objects to find")
    return Measure(metric, float(defined.mean()), n)
