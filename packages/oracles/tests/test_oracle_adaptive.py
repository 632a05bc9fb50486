"""The adaptive oracle: what each route calls, what a miss becomes, and what no guidance may violate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semaug.artifacts.masks import decode_mask
from semaug.artifacts.schemas import SCALES, Guidance, Scale
from semaug.oracles.adaptive import AdaptiveOracle, DeferredDetector, DeferredSegmenter, FixedScale
from semaug.oracles.errors import OracleError
from semaug.oracles.grabcut import GrabCutSegmenter
from semaug.oracles.protocols import Boxes, Image, Mask
from semaug.oracles.saliency import CentreDetector, SaliencyDetector


class FixedBoxes:
    def __init__(self, boxes: list[list[float]]) -> None:
        self.boxes, self.seen = np.array(boxes, np.float32).reshape(-1, 4), 0

    def detect(self, images: Sequence[Image]) -> list[Boxes]:
        self.seen += len(images)
        return [self.boxes for _ in images]


class FixedMasks:
    """Everything but the first column; nothing for boxes in ``empty``."""

    def __init__(self, empty: Sequence[int] = ()) -> None:
        self.seen, self.empty = 0, empty

    def segment(self, images: Sequence[Image], boxes: Sequence[Boxes] | None) -> list[list[Mask]]:
        self.seen += len(images)
        rows = []
        for i, image in enumerate(images):
            mask = np.zeros(image.shape[:2], bool)
            mask[:, 5:] = True
            count = 1 if boxes is None else len(boxes[i])
            rows.append([np.zeros_like(mask) if j in self.empty else mask for j in range(count)])
        return rows


class Routes:
    def __init__(self, scales: Sequence[Scale]) -> None:
        self.scales = list(scales)

    def route(self, keys: Sequence[str], images: Sequence[Image]) -> list[Scale]:
        return self.scales


IMAGE = np.zeros((20, 20, 3), np.uint8)
TWO = [[2, 2, 10, 10], [8, 8, 30, 18]]


def guide_one(detector: object, segmenter: object, scale: Scale) -> Guidance:
    return AdaptiveOracle(detector, segmenter, FixedScale(scale)).guide(["a"], [IMAGE])[0]  # type: ignore[arg-type]


def test_each_route_calls_only_what_it_needs() -> None:
    detector, segmenter = FixedBoxes(TWO), FixedMasks()
    routes: list[Scale] = ["object", "pixel", "object", "hybrid"]
    rows = AdaptiveOracle(detector, segmenter, Routes(routes)).guide(list("abcd"), [IMAGE] * 4)
    assert (detector.seen, segmenter.seen) == (3, 2)
    assert [r.scale for r in rows] == routes
    assert [(len(r.boxes), len(r.masks)) for r in rows] == [(2, 0), (0, 1), (2, 0), (2, 2)]


def test_a_model_is_loaded_at_its_first_use_and_once() -> None:
    built = []

    def build_detector() -> FixedBoxes:
        built.append("detector")
        return FixedBoxes(TWO)

    def build_segmenter() -> FixedMasks:
        built.append("segmenter")
        return FixedMasks()

    detector, segmenter = DeferredDetector(build_detector), DeferredSegmenter(build_segmenter)
    for scale in ("object", "object", "hybrid"):
        AdaptiveOracle(detector, segmenter, FixedScale(scale)).guide(["a"], [IMAGE])  # type: ignore[arg-type]
        if scale == "object":
            assert built == ["detector"]
    assert built == ["detector", "segmenter"]


def test_boxes_are_clipped_and_masks_stay_in_their_boxes() -> None:
    row = guide_one(FixedBoxes(TWO), FixedMasks(), "hybrid")
    assert row.boxes.tolist() == [[2, 2, 10, 10], [8, 8, 20, 18]]
    first = decode_mask(row.masks[0])
    assert first.sum() == 8 * 5
    assert first[2:10, 5:10].all()


def test_misses() -> None:
    assert guide_one(FixedBoxes([]), FixedMasks(), "object").fallback
    assert guide_one(FixedBoxes([[3, 3, 4, 19]]), FixedMasks(), "object").fallback
    assert guide_one(FixedBoxes([]), FixedMasks(), "hybrid").fallback
    assert guide_one(FixedBoxes(TWO), FixedMasks(empty=[0]), "pixel").fallback
    box_only = guide_one(FixedBoxes(TWO), FixedMasks(empty=[0, 1]), "hybrid")
    assert (box_only.scale, len(box_only.boxes), len(box_only.masks), box_only.fallback) == ("object", 2, 0, False)
    partly = guide_one(FixedBoxes(TWO), FixedMasks(empty=[0]), "hybrid")
    assert (partly.scale, partly.boxes.tolist(), len(partly.masks)) == ("hybrid", [[8, 8, 20, 18]], 1)


def test_at_most_so_many_boxes() -> None:
    oracle = AdaptiveOracle(FixedBoxes(TWO), FixedMasks(), FixedScale("hybrid"), max_boxes=1)
    row = oracle.guide(["a"], [IMAGE])[0]
    assert row.boxes.tolist() == [[2, 2, 10, 10]]
    assert len(row.masks) == 1


class Broken:
    name = "broken"

    def __init__(self, result: list) -> None:
        self.result = result

    def detect(self, images: Sequence[Image]) -> list[Boxes]:
        return self.result

    def segment(self, images: Sequence[Image], boxes: Sequence[Boxes] | None) -> list[list[Mask]]:
        return self.result


@pytest.mark.parametrize(
    ("scale", "result", "reason"),
    [
        ("object", [], "broken returned 0 results for 1 images"),
        ("object", [np.zeros((3, 5))], r"boxes of shape \(3, 5\)"),
        ("pixel", [[np.zeros((20, 20))]], "mask of float64"),
        ("pixel", [[np.zeros((10, 20), bool)]], r"\(10, 20\) for an image of \(20, 20\)"),
    ],
)
def test_broken_oracles_are_named(scale: Scale, result: list, reason: str) -> None:
    with pytest.raises(OracleError, match=reason):
        guide_one(Broken(result), Broken(result), scale)


def test_one_mask_a_box_is_asked_for() -> None:
    with pytest.raises(OracleError, match="returned 1 masks for 2 boxes"):
        guide_one(FixedBoxes(TWO), Broken([[np.ones((20, 20), bool)]]), "hybrid")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 90), st.sampled_from(SCALES))
def test_guidance_of_the_offline_oracles_keeps_its_promises(seed: int, height: int, width: int, scale: Scale) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    image[y : y + 25, x : x + 30] += 180
    detector = SaliencyDetector() if seed % 2 else CentreDetector()
    row = AdaptiveOracle(detector, GrabCutSegmenter(), FixedScale(scale)).guide(["a"], [image])[0]
    assert (row.boxes >= 0).all()
    assert (row.boxes[:, 2] <= width).all()
    assert (row.boxes[:, 3] <= height).all()
    assert (row.boxes[:, 2:] - row.boxes[:, :2] >= 2).all()
    assert row.fallback == (len(row.boxes) == 0 and len(row.masks) == 0)
    if row.scale == "hybrid" and not row.fallback:
        assert len(row.masks) == len(row.boxes)
        for rle, box in zip(row.masks, row.boxes, strict=True):
            ys, xs = np.nonzero(decode_mask(rle))
            assert len(ys)
            assert (np.floor(box[0]) <= xs).all()
            assert (xs < np.ceil(box[2])).all()
            assert (np.floor(box[1]) <= ys).all()
            assert (ys < np.ceil(box[3])).all()
