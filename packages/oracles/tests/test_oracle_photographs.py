"""The plug-in example, by hand and on real photographs."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.sources import open_source
from semaug.oracles.catalogue import OracleSpec, open_detector
from semaug.oracles.extract import extract_guidance, report_guidance

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("SEMAUG_TEST_DATA", ROOT.parent / "shared"))
PLUGIN = ROOT / "examples" / "fastestdet" / "fastestdet_detector.py"
MODEL = DATA / "models" / "fastestdet.onnx"

needs_data = pytest.mark.skipif(not MODEL.is_file(), reason=f"no test data in {DATA}; set SEMAUG_TEST_DATA")


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example() -> ModuleType:
    pytest.importorskip("onnxruntime")
    return load(PLUGIN, "fastestdet_example")


def test_decoding_of_one_cell_by_hand(example: ModuleType) -> None:
    output = np.zeros((85, 22, 22), np.float32)
    output[0, 5, 7], output[40, 5, 7] = 0.81, 0.64
    output[1, 5, 7], output[2, 5, 7] = np.arctanh(0.5), np.arctanh(-0.25)
    output[3, 5, 7], output[4, 5, 7] = np.log(0.2 / 0.8), np.log(0.4 / 0.6)
    boxes, scores = example.decode(output)
    best = int(scores.argmax())
    assert best == 5 * 22 + 7
    assert scores[best] == pytest.approx(0.81**0.6 * 0.64**0.4)
    x, y = 7.5 / 22, 4.75 / 22
    np.testing.assert_allclose(boxes[best], [x - 0.1, y - 0.2, x + 0.1, y + 0.2], atol=1e-6)


def test_suppression_agrees_with_opencv(example: ModuleType) -> None:
    import cv2

    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 80, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (60, 2))], axis=1).astype(np.float32)
    scores = rng.uniform(0.1, 1, 60).astype(np.float32)
    rectangles = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    expected = cv2.dnn.NMSBoxes(rectangles.tolist(), scores.tolist(), 0.0, 0.45)
    assert example.suppress(boxes, scores, 0.45).tolist() == np.ravel(expected).tolist()


@needs_data
def test_the_plugin_extracts_guidance_of_photographs(example: ModuleType, tmp_path: Path) -> None:
    source = open_source(str(DATA / "data" / "imagenet100"))
    detector = OracleSpec.parse(f"{PLUGIN}:FastestDet", [f"model={MODEL}"])
    extract_guidance(source, tmp_path / "g.zarr", detector=detector, granularity="object")
    report = report_guidance(tmp_path / "g.zarr")
    assert report.images == 100
    assert report.fallback < 10
    row = GuidanceTable.open(tmp_path / "g.zarr").get(source.key(0))
    assert row is not None
    alone = open_detector(detector).detect([source.read(0)])[0]  # type: ignore[union-attr]
    np.testing.assert_array_equal(row.boxes, np.clip(alone, 0, [row.width, row.height] * 2))
