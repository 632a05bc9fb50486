"""Real images: what the documentation prints of COCO photographs, and CIFAR-10 from archive to guided views."""

from __future__ import annotations

import importlib
import os
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.sources import open_source

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SEMAUG_TEST_DATA", ROOT.parent / "shared"))
MODEL = DATA / "models" / "fastestdet.onnx"
COCO = DATA / "data" / "coco128"
CIFAR = DATA / "data" / "cifar10.tar.xz"
PER_CLASS = 4


def needs(*paths: Path) -> pytest.MarkDecorator:
    missing = [str(p) for p in paths if not p.exists()]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)}; set SEMAUG_TEST_DATA")


@needs(COCO, MODEL)
def test_the_retention_table_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("retention_table")
    page = (ROOT / "docs" / "guide" / "real-images.md").read_text()
    printed = {}
    for line in re.findall(r"^\|(.+)\|$", page, re.MULTILINE):
        name, *values = (cell.strip() for cell in line.split("|"))
        printed[name] = values
    rows = tool.crop_rows(COCO, MODEL, draws=5)
    assert len(rows) == 8
    for row in rows:
        for name, value, shown in zip(list(tool.cells(row))[1:], list(tool.cells(row).values())[1:],
                                      printed[row.crops], strict=True):  # fmt: skip
            if value == "-" or shown == "-":
                assert value == shown, (row.crops, name)
            else:
                assert abs(float(value) - float(shown)) < 0.04, (row.crops, name, value, shown)
    kept = {row.crops: row.retention for row in rows}
    for oracle in ("saliency", "FastestDet"):
        guided, control = kept[f"guided by {oracle}"], kept[f"random boxes, sizes of {oracle}"]
        assert guided.keeps > control.keeps
        assert guided.filled > control.filled


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of every class of CIFAR-10 that the archive holds, as class folders."""
    root, taken = tmp_path_factory.mktemp("cifar"), Counter[str]()
    with tarfile.open(CIFAR, "r|xz") as archive:
        for member in archive:
            folder = member.name.split("/")[1] if member.isfile() else ""
            if not folder or taken[folder] == PER_CLASS:
                continue
            taken[folder] += 1
            archive.extract(member, root, filter="data")
            if len(taken) == 10 and min(taken.values()) == PER_CLASS:
                break
    return root / "train"


@needs(CIFAR)
def test_cifar_is_packed_scored_and_guided_by_boxes(cifar, tmp_path, semaug) -> None:
    count = 10 * PER_CLASS
    pack, quality, guidance = tmp_path / "train.zarr", tmp_path / "quality.zarr", tmp_path / "guidance.zarr"
    packed = semaug("data", "pack", cifar, "--out", pack, "--json")
    assert (packed.code, packed.json["items"], packed.json["format"]) == (0, count, "raw")
    folder, source = open_source(str(cifar)), open_source(str(pack))
    assert source.class_names == folder.class_names
    assert len(source.class_names) == 10
    for i in (0, count // 2, count - 1):
        with Image.open(cifar / source.key(i)) as picture:
            np.testing.assert_array_equal(source.read(i), np.asarray(picture.convert("RGB")))
        assert source.class_names[source.label(i)] == source.key(i).split("/")[0]
    scored = semaug("quality", "score", pack, "--out", quality, "--json")
    assert scored.json["n"] == count
    assert scored.json["routing"] == {"object": count, "pixel": 0, "hybrid": 0}  # up to 64 px: boxes
    assert scored.json["quantiles"]["resolution"]["1"] == 0  # 32 px is where R begins
    found = semaug("guide", "extract", pack, "--quality", quality, "--out", guidance, "--json")
    assert (found.code, found.json["images"]) == (0, count)
    assert found.json["routing"]["object"] == count
    assert found.json["masks"] == 0
    assert found.json["fallback"] <= 2
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) / 32**2 for b in boxes_of(guidance, source)]
    largest = [a.max() for a in areas if len(a)]
    assert 0.2 < float(np.median(largest)) < 0.9
    sheet = tmp_path / "views.png"
    assert semaug("views", "show", pack, "--guidance", guidance, "--size", "32", "--out", sheet).code == 0
    with Image.open(sheet) as picture:
        assert np.asarray(picture).std() > 20


def boxes_of(guidance: Path, source) -> list[np.ndarray]:
    table = GuidanceTable.open(guidance)
    rows = [table.get(source.key(i)) for i in range(len(source))]
    assert None not in rows
    return [row.boxes for row in rows]
