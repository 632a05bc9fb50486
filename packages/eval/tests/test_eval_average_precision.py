"""Average precision: hand-made curves, closed forms, a reference written from VOC's rules, and torchmetrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import Rle
from semaug.eval.detection.average_precision import (
    IOU_THRESHOLDS,
    Detections,
    area_under,
    coco_precision,
    eleven_point,
    voc_precision,
)
from semaug.eval.detection.data import AnnotatedImage, DetectionSet, Objects
from semaug.eval.detection.scores import score_detections
from semaug.eval.errors import EvaluationError

SIZE = (200, 300)


def truth(boxes, labels, difficult=None, crowd=None, outlines=(), key="a") -> AnnotatedImage:
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    n = len(corners)
    marks = [np.zeros(n, bool) if m is None else np.asarray(m, bool) for m in (difficult, crowd)]
    areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1).astype(np.float64)
    return AnnotatedImage(
        key, Path("none.jpg"), SIZE, Objects(corners, np.asarray(labels, np.int64), *marks, areas, outlines)
    )


def found(boxes, scores, labels, masks=()) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(scores, np.float32),
        np.asarray(labels, np.int64),
        masks,
    )


def random_images(count: int, classes: int, seed: int, noise: float) -> tuple[list[AnnotatedImage], list[Detections]]:
    """Objects, and detections that are noisy copies of them, with false ones and second finds among them."""
    rng = np.random.default_rng(seed)
    truths, answers = [], []
    for _ in range(count):
        n = rng.integers(0, 7)
        start = rng.uniform(0, 120, (n, 2))
        boxes = np.concatenate([start, start + rng.uniform(8, 75, (n, 2))], 1)
        labels = rng.integers(0, classes, n)
        copies = np.repeat(np.arange(n), rng.integers(0, 3, n))
        moved = boxes[copies] + rng.normal(0, noise, (len(copies), 4))
        false = np.concatenate([s := rng.uniform(0, 120, (2, 2)), s + rng.uniform(8, 75, (2, 2))], 1)
        truths.append(truth(boxes, labels))
        answers.append(
            found(
                np.concatenate([moved, false]),
                rng.random(len(copies) + 2),
                np.concatenate([labels[copies], rng.integers(0, classes, 2)]),
            )
        )
    return truths, answers


def voc_by_hand(truths, answers, label, threshold):
    """(eleven-point, area) by VOC's rules, one detection after the other."""
    pooled = sorted(
        ((float(s), image, tuple(map(float, b))) for image, a in enumerate(answers)
         for b, s, c in zip(a.boxes, a.scores, a.labels, strict=True) if c == label),
        key=lambda row: -row[0],
    )  # fmt: skip
    objects = {
        image: [(tuple(map(float, b)), bool(d)) for b, c, d in
                zip(t.objects.boxes, t.objects.labels, t.objects.difficult, strict=True) if c == label]
        for image, t in enumerate(truths)
    }  # fmt: skip
    positives = sum(not d for rows in objects.values() for _, d in rows)
    claimed, right, wrong, curve = set(), 0, 0, []
    for _, image, box in pooled:
        overlaps = [iou(box, other) for other, _ in objects[image]]
        best = max(range(len(overlaps)), key=overlaps.__getitem__) if overlaps else None
        if best is not None and overlaps[best] > threshold:
            if objects[image][best][1]:
                continue
            hit = (image, best) not in claimed
            claimed.add((image, best))
        else:
            hit = False
        right, wrong = right + hit, wrong + (not hit)
        curve.append((right / positives, right / (right + wrong)))
    eleven = sum(max((p for r, p in curve if r >= t / 10 - 1e-12), default=0.0) for t in range(11)) / 11
    area, last = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - last) * max(p for _, p in curve[place:])
        last = recall
    return eleven, area


def iou(a, b):
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_a_curve_on_which_eleven_points_the_area_and_cocos_points_differ():
    """Two objects; right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    truths = [truth([[0, 0, 50, 50], [100, 0, 150, 50]], [0, 0])]
    answers = [found([[0, 0, 50, 50], [200, 0, 250, 50], [100, 0, 150, 50]], [0.9, 0.8, 0.7], [0, 0, 0])]
    voc = voc_precision(truths, answers, 1, [0.5])
    coco = coco_precision(truths, answers, 1)
    assert voc.eleven[0, 0] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert voc.area[0, 0] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert coco.at50 == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert len({round(v, 4) for v in (voc.eleven[0, 0], voc.area[0, 0], coco.at50)}) == 3


def test_curves_that_end_early_or_never_begin():
    assert eleven_point(np.array([0.25]), np.array([1.0])) == pytest.approx(3 / 11)
    assert area_under(np.array([0.25]), np.array([1.0])) == 0.25
    assert eleven_point(np.zeros(0), np.zeros(0)) == area_under(np.zeros(0), np.zeros(0)) == 0


def test_a_perfect_prediction_is_one_and_a_shuffled_one_near_zero():
    truths, _ = random_images(30, 4, seed=3, noise=0)
    truths = [t for t in truths if len(t.objects)]
    perfect = [found(t.objects.boxes, np.ones(len(t.objects)), t.objects.labels) for t in truths]
    shuffled = perfect[1:] + perfect[:1]  # every image is given its neighbour's boxes
    data = DetectionSet("made", tuple(truths), ("a", "b", "c", "d"))
    best = {m.metric: m.value for m in score_detections(data, perfect)}
    worst = {m.metric: m.value for m in score_detections(data, shuffled)}
    assert set(best.values()) - {None} == {1.0}
    assert best["detect/box/AP_large"] is None  # no object has 96 x 96 pixels: no number
    assert worst["detect/box/AP"] < 0.02
    assert worst["detect/voc07/AP50"] < 0.1
    with pytest.raises(EvaluationError, match="answers for"):
        score_detections(data, perfect[1:])


@pytest.mark.parametrize("noise", [1.0, 6.0])
def test_voc_follows_its_rules(noise):
    truths, answers = random_images(25, 3, seed=int(noise), noise=noise)
    rng = np.random.default_rng(0)
    truths = [truth(t.objects.boxes, t.objects.labels, rng.random(len(t.objects)) < 0.3) for t in truths]
    voc = voc_precision(truths, answers, 3)
    for row, threshold in enumerate(IOU_THRESHOLDS):
        for label in range(3):
            wanted = voc_by_hand(truths, answers, label, threshold)
            np.testing.assert_allclose((voc.eleven[row, label], voc.area[row, label]), wanted, atol=1e-12)


def test_coco_is_what_torchmetrics_reports():
    from torchmetrics.detection import MeanAveragePrecision

    truths, answers = random_images(20, 3, seed=5, noise=3.0)
    exact = {"iou_thresholds": np.linspace(0.5, 0.95, 10).tolist(), "rec_thresholds": np.linspace(0, 1, 101).tolist()}
    judge = MeanAveragePrecision(class_metrics=True, **exact)  # its own are rounded to float32
    names = ("boxes", "scores", "labels")
    judge.update(
        [{name: torch.from_numpy(getattr(a, name)) for name in names} for a in answers],
        [{name: torch.from_numpy(getattr(t.objects, name)) for name in names if name != "scores"} for t in truths],
    )
    theirs, ours = judge.compute(), coco_precision(truths, answers, 3)
    for name, value in (("map", ours.mean), ("map_50", ours.at50), ("map_75", ours.at75), ("map_small", ours.small)):
        assert value == pytest.approx(float(theirs[name]), abs=1e-6), name
    np.testing.assert_allclose(ours.per_class, theirs["map_per_class"].numpy(), atol=1e-6)


def test_area_and_eleven_points_near_coco_where_every_rule_agrees():
    """One object an image and no second finds: the matching rules coincide, only the sampling of the curve differs."""
    rng = np.random.default_rng(8)
    truths = [truth([[10, 10, 60, 60]], [0]) for _ in range(400)]
    answers = [found([[10 + 30 * (rng.random() < 0.4), 10, 60, 60]], [rng.random()], [0]) for _ in truths]
    voc, coco = voc_precision(truths, answers, 1, [0.5]), coco_precision(truths, answers, 1)
    assert voc.area[0, 0] == pytest.approx(coco.at50, abs=0.01)
    assert voc.eleven[0, 0] == pytest.approx(coco.at50, abs=0.06)


def test_difficult_objects_are_neither_missed_nor_wrong():
    boxes = [[0, 0, 50, 50], [100, 0, 150, 50]]
    truths = [truth(boxes, [0, 0], difficult=[False, True])]
    both, one = found(boxes, [0.5, 0.9], [0, 0]), found(boxes[:1], [0.5], [0])
    for answer in (both, one):
        assert voc_precision(truths, [answer], 1, [0.5]).area[0, 0] == 1.0
        assert coco_precision(truths, [answer], 1).mean == pytest.approx(1.0)
    nothing = [truth(boxes, [0, 0], difficult=[True, True])]
    assert np.isnan(voc_precision(nothing, [both], 1, [0.5]).area).all()
    assert coco_precision(nothing, [both], 1).mean is None


def test_a_second_find_is_wrong_and_a_crowd_takes_any_number():
    truths = [truth([[0, 0, 50, 50], [100, 100, 200, 200]], [0, 0], crowd=[False, True])]
    inside = [[100, 100, 120, 120], [150, 150, 170, 170]]
    answer = found([[0, 0, 50, 50], *inside], [0.5, 0.9, 0.8], [0, 0, 0])
    assert coco_precision(truths, [answer], 1).mean == pytest.approx(1.0)
    twice = found([[0, 0, 50, 50], [0, 0, 50, 49], [100, 100, 200, 200]], [0.9, 0.8, 0.7], [0, 0, 0])
    truths = [truth([[0, 0, 50, 50], [100, 100, 200, 200]], [0, 0])]
    assert voc_precision(truths, [twice], 1, [0.5]).area[0, 0] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_masks_are_judged_by_their_pixels():
    square, half = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    square[20:120, 20:120] = True
    half[20:120, 20:90] = True  # IoU 0.7 with the square
    box, polygon = [20, 20, 120, 120], np.array([[20, 20], [120, 20], [120, 120], [20, 120.0]])
    for outline in ((polygon,), encode_mask(square)):
        truths = [truth([box], [0], outlines=(outline,))]
        assert score(truths, encode_mask(square)) == pytest.approx((1.0, 1.0))
        assert score(truths, encode_mask(half)) == pytest.approx((1.0, 0.5))  # right at 0.5, 0.55, ..., 0.7


def score(truths: list[AnnotatedImage], mask: Rle) -> tuple[float | None, float | None]:
    answers = [found([truths[0].objects.boxes[0]], [0.9], [0], (mask,))]
    result = score_detections(DetectionSet("made", tuple(truths), ("thing",)), answers, masks=True)
    values = {m.metric: m.value for m in result}
    return values["segment/box/AP"], values["segment/mask/AP"]
