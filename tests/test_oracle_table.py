"""The tools behind the oracle table: hand-made boxes, the cross-fit, costs, and the table that the docs print."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.sources import ScenesSource

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SEMAUG_TEST_DATA", ROOT.parent / "shared"))
MODEL = DATA / "models" / "fastestdet.onnx"
COCO, IMAGENET = DATA / "data" / "coco128", DATA / "data" / "imagenet100"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("oracle_table")


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_recall_counts_objects_that_one_of_the_first_boxes_meets_by_half(table: ModuleType) -> None:
    truth = [boxes((0, 0, 10, 10), (50, 50, 60, 60)), boxes(), boxes((0, 0, 20, 20))]
    found = [boxes((0, 0, 10, 5), (51, 50, 61, 60), (0, 0, 10, 4.9)), boxes((1, 1, 2, 2)), boxes()]
    recall = table.measure_recall(found, truth)
    assert (recall.objects, recall.recall) == (3, pytest.approx(2 / 3))
    assert recall.precision == pytest.approx(2 / 4)
    assert recall.boxes_per_image == pytest.approx(4 / 3)
    first = table.measure_recall(found, truth, most=1)
    assert (first.recall, first.precision) == (pytest.approx(1 / 3), pytest.approx(1 / 2))


def test_agreement_is_of_first_boxes_over_all_images(table: ModuleType) -> None:
    reference = [boxes((0, 0, 10, 10), (80, 80, 90, 90)), boxes((0, 0, 10, 10)), boxes(), boxes((5, 5, 9, 9))]
    found = [boxes((0, 0, 10, 9)), boxes((90, 0, 99, 9), (0, 0, 10, 10)), boxes((0, 0, 9, 9)), boxes()]
    assert table.measure_agreement(found, reference) == 0.25
    assert table.measure_agreement(reference, reference) == 0.75  # nothing found is no agreement


def test_randomly_placed_boxes_keep_their_sizes_inside_the_image(table: ModuleType) -> None:
    source = ScenesSource("test", 6)
    images = [source.read(i) for i in range(6)]
    photographs = table.Photographs(source, images, [boxes()] * 6)
    given = [boxes((0, 0, 30, 20), (10, 5, 14, 9))] * 5 + [boxes()]
    moved = table.placed_randomly(given, photographs)
    for before, after, image in zip(given, moved, images, strict=True):
        np.testing.assert_allclose(after[:, 2:] - after[:, :2], before[:, 2:] - before[:, :2], atol=1e-4)
        assert (after >= 0).all()
        assert (after[:, 2:] <= np.array(image.shape[1::-1]) + 1e-3).all()
    places = np.concatenate(moved)[:, :2]
    assert len(np.unique(places, axis=0)) == len(places)


class Marked:
    """A detector whose box tells which weights it has."""

    def __init__(self, weights: str) -> None:
        self.number = int(re.findall(r"\d+", Path(weights).stem)[0])

    def detect(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return [boxes((0, 0, 10 + self.number, 10)) for _ in images]


@pytest.fixture
def folds(table: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(table, "open_detector", lambda spec: Marked(dict(spec.options)["weights"]))

    def write(*held_out: str) -> Path:
        for number, names in enumerate(held_out):
            path = tmp_path / f"fold-{number}.safetensors"
            save_file({"w": torch.zeros(1)}, str(path), metadata={"held_out": names})
        return tmp_path

    return write


def test_the_cross_fit_shows_each_image_to_the_fold_that_held_it_out(table: ModuleType, folds: Any) -> None:
    detector = table.CrossFitDetector(folds("a.jpg,b.jpg", "c.jpg, images/d.jpg"))
    image = np.zeros((20, 30, 3), np.uint8)
    found = detector.detect_keyed(["d.jpg", "a.png", "c", "b.jpg"], [image] * 4)
    assert [int(b[0, 2]) - 10 for b in found] == [1, 0, 1, 0]
    with pytest.raises(InvalidOption, match=r"no fold of .* held out e.jpg"):
        detector.detect_keyed(["e.jpg"], [image])


@pytest.mark.parametrize(("held_out", "match"), [(("a.jpg", "b.jpg,a.jpg"), "another fold"), ((), "has no fold")])
def test_folds_that_overlap_or_are_missing_are_refused(
    table: ModuleType, folds: Any, held_out: tuple[str, ...], match: str
) -> None:
    with pytest.raises(InvalidOption, match=match):
        table.CrossFitDetector(folds(*held_out))


def test_costs_are_of_a_process_of_their_own(table: ModuleType) -> None:
    from semaug.oracles.catalogue import OracleSpec

    costs = table.costs_apart(OracleSpec("saliency", (("side", "64"),)), "scenes:test?items=20")
    assert 0.01 < costs.seconds < 1000
    assert 50 < costs.memory < 2000


needs_data = pytest.mark.skipif(
    not (MODEL.is_file() and IMAGENET.is_dir()), reason=f"no test data in {DATA}; set SEMAUG_TEST_DATA"
)


@needs_data
def test_the_table_of_the_documentation(table: ModuleType) -> None:
    pytest.importorskip("onnxruntime")
    page = (ROOT / "docs" / "guide" / "oracles.md").read_text()
    header = next(line for line in page.splitlines() if line.startswith("| boxes | trained on |"))
    columns = [c.strip() for c in header.strip("|").split("|")]
    printed = {}
    for line in page.splitlines():
        values = [c.strip() for c in line.strip("|").split("|")]
        if line.startswith("|") and len(values) == len(columns):
            printed[values[0]] = dict(zip(columns, values, strict=True))
    rows = table.oracle_rows(COCO, IMAGENET, MODEL, draws=4, scenes=60, costs=False)
    tolerance = dict.fromkeys(("recall", "precision", "agreement"), 0.0101) | dict.fromkeys(
        ("keeps", "filled", "same"), 0.04
    )
    for row in rows:
        shown = printed[row.name]
        for name, value in table.cells(row).items():
            if value != "-" and name in tolerance:
                assert abs(float(value) - float(shown[name])) <= tolerance[name], (row.name, name)
    by_name = {row.name: row for row in rows}
    for oracle in ("saliency", "FastestDet"):
        mine, control = by_name[oracle], by_name[f"random_box, sizes of {oracle}"]
        assert mine.recall.recall > control.recall.recall
        assert mine.retention.filled > control.retention.filled
    assert by_name["saliency"].recall.recall > by_name["center"].recall.recall


@needs_data
def test_the_tool_prints_markdown_and_writes_json(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "coco"
    for kind, ending in (("images", "jpg"), ("boxes", "txt")):
        (small / kind).mkdir(parents=True)
        for path in sorted((COCO / kind).glob(f"*.{ending}"))[:4]:
            (small / kind / path.name).write_bytes(path.read_bytes())
    words = [str(small), "--draws", "1", "--scenes", "4", "--json", str(tmp_path / "t.json")]
    monkeypatch.setattr(sys, "argv", ["oracle_table.py", *words])
    table.main()
    assert capsys.readouterr().out.startswith("| boxes |")
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [r["name"] for r in rows][:3] == ["standard", "center", "saliency"]
    assert all(r["costs"] is None for r in rows)
