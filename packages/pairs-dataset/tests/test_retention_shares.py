"""Retention against a closed form, its orderings, and the issue's trial on photographs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources import ArraySource, open_source
from semaug.pairs_dataset import CropRule, make_pairs, materialize_crops, measure_retention
from semaug.pairs_dataset.presets import Recipe
from semaug.pairs_dataset.sources import StandardPairs, ViewSettings

WIDTH, HEIGHT = 300, 10


def test_one_dimensional_crops_have_the_closed_form() -> None:
    """Crops of 100 x 10 in a strip of 300 x 10: the left edge is uniform on 0 to 200, an object spans 120 to 180."""
    source = ArraySource(np.zeros((1, HEIGHT, WIDTH, 3), np.uint8))
    truth = GuidanceTable.of([Guidance("000000", HEIGHT, WIDTH, boxes=np.array([[120, 0, 180, HEIGHT]], np.float32))])
    views = ViewSettings((Recipe(scale=(1 / 3, 1 / 3)),) * 2, 8, (0,) * 3, (1,) * 3)
    rule = CropRule(ratio=(10.0, 10.0))
    pairs = StandardPairs(source, np.arange(1), views, seed=0, rule=rule)
    found = measure_retention(pairs, truth, draws=4000)
    left = np.arange(201)
    shared = np.clip(np.minimum(180, left + 100) - np.maximum(120, left), 0, None)
    keeps, filled = (shared >= 30).mean(), (shared >= 30).mean()
    assert abs(found.keeps - keeps) < 0.02
    assert abs(found.filled - filled) < 0.02
    assert abs(found.same - keeps**2) < 0.02
    assert abs(found.area - 1 / 3) < 1e-6


def _table(source, count, box):
    return GuidanceTable.of(
        [Guidance(source.key(i), 100, 100, boxes=np.array([box], np.float32)) for i in range(count)]
    )


def test_true_boxes_are_fuller_than_standard_crops_and_random_ones_are_not() -> None:
    source = ArraySource(np.zeros((8, 100, 100, 3), np.uint8))
    truth = _table(source, 8, [10, 15, 45, 50])
    found = {
        name: measure_retention(
            make_pairs(name, source, size=16, guidance=truth, box_scale=(0.5, 1.0)), truth, draws=40
        )
        for name in ("standard", "guided", "random_box")
    }
    assert found["guided"].filled > 0.99
    assert found["guided"].filled > found["standard"].filled + 0.3
    assert found["random_box"].filled < found["guided"].filled - 0.3
    assert found["guided"].keeps > found["random_box"].keeps + 0.3
    assert all(f.same <= f.keeps for f in found.values())


def test_inflated_pairs_are_refused(tmp_path) -> None:
    source = ArraySource(np.full((4, 40, 40, 3), 9, np.uint8))
    truth = GuidanceTable.of([Guidance(k, 40, 40, boxes=np.array([[4, 4, 30, 30]], np.float32)) for k in source._keys])
    materialize_crops(source, truth, tmp_path / "sdi", annotate=False)
    pairs = make_pairs("inflated", source, size=16, materialized=tmp_path / "sdi")
    with pytest.raises(InvalidOption, match="do not fit crops"):
        measure_retention(pairs, truth)


def test_small_objects_and_images_without_any_are_left_out() -> None:
    source = ArraySource(np.zeros((3, 100, 100, 3), np.uint8))
    rows = [
        Guidance(source.key(0), 100, 100, boxes=np.array([[0, 0, 50, 50]], np.float32)),
        Guidance(source.key(1), 100, 100, boxes=np.array([[0, 0, 10, 10]], np.float32)),
    ]
    pairs = make_pairs("standard", source, size=16)
    assert measure_retention(pairs, GuidanceTable.of(rows), draws=2).images == 1
    with pytest.raises(InvalidOption, match="annotations"):
        measure_retention(pairs, GuidanceTable.of(rows[1:]), draws=2)
    pairs.set_epoch(7)
    measure_retention(pairs, GuidanceTable.of(rows), draws=3)
    assert pairs.epoch == 7


def coco128() -> Path:
    beside = Path(__file__).resolve().parents[3].parent / "shared"
    folder = Path(os.environ.get("SEMAUG_TEST_DATA", beside)) / "data/coco128"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set SEMAUG_TEST_DATA to the folder of test data")
    return folder


def coco_truth(folder: Path, source) -> GuidanceTable:
    """True boxes over 2% of the image, as guidance."""
    rows = []
    for i in range(len(source)):
        height, width = source.read(i).shape[:2]
        file = folder / "boxes" / (Path(source.key(i)).stem + ".txt")
        rel = np.loadtxt(file, ndmin=2)[:, 1:] if file.exists() and file.read_text().strip() else np.zeros((0, 4))
        rel = rel[rel[:, 2] * rel[:, 3] > 0.02]
        corner = np.concatenate([rel[:, :2] - rel[:, 2:] / 2, rel[:, :2] + rel[:, 2:] / 2], axis=1)
        boxes = (corner * [width, height, width, height]).astype(np.float32)
        rows.append(Guidance(source.key(i), height, width, boxes=boxes, fallback=len(boxes) == 0))
    return GuidanceTable.of(rows)


def test_the_trial_of_the_issue_on_photographs() -> None:
    folder = coco128()
    source = open_source(str(folder / "images"))
    truth = coco_truth(folder, source)
    options = {"size": 32, "box_scale": (0.3, 1.0), "margin": 0.0}
    found = {
        name: measure_retention(make_pairs(name, source, guidance=truth, **options), truth, draws=15)
        for name in ("standard", "guided", "random_box")
    }
    for name, filled in (("standard", 0.64), ("guided", 1.00), ("random_box", 0.69)):
        assert abs(found[name].filled - filled) < 0.06, (name, found[name])
    assert found["standard"].keeps > found["guided"].keeps > found["random_box"].keeps
    assert found["standard"].same > found["guided"].same > found["random_box"].same
