"""Guidance to other tools and back, and the contact sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.errors import ArtifactError, InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable, guidance_columns
from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import Guidance, Manifest
from semaug.artifacts.sources import ArraySource
from semaug.artifacts.store import ArtifactWriter
from semaug.oracles.contact_sheet import COLOURS, choose_tiles, draw_guidance, write_sheet
from semaug.oracles.exchange import export_coco, export_yolo, import_guidance


def mask_of(y: int, x: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[y : y + height, x : x + width] = True
    return mask


def boxes_of(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


ROWS = [
    Guidance("a/1.png", 40, 60, boxes=boxes_of((1.25, 2.5, 30, 20), (0, 0, 60, 40))),
    Guidance("a/2.png", 40, 60, scale="pixel", masks=(encode_mask(mask_of(5, 6, 20, 30)),)),
    Guidance(
        "b/3.png", 40, 60, scale="hybrid", boxes=boxes_of((0, 0, 30, 30), (20, 10, 50, 40)),
        masks=(encode_mask(mask_of(3, 3, 9, 9)), encode_mask(mask_of(20, 25, 10, 10))),
    ),
    Guidance("b/4.png", 40, 60, fallback=True),
]  # fmt: skip


@pytest.fixture
def source() -> ArraySource:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 40, 60, 3)).astype(np.uint8)
    return ArraySource(images, keys=[row.key for row in ROWS])


@pytest.fixture
def guidance(tmp_path: Path, source: ArraySource) -> Path:
    path = tmp_path / "guidance.zarr"
    manifest = Manifest(kind="guidance", items=4, shard_size=3, inputs={"source": source.fingerprint})
    with ArtifactWriter.open(path, manifest) as writer:
        writer.write(0, guidance_columns(ROWS[:3]))
        writer.write(1, guidance_columns(ROWS[3:]))
        writer.finish()
    return path


def assert_same(first: Guidance, second: Guidance) -> None:
    np.testing.assert_allclose(first.boxes, second.boxes, atol=1e-4)
    assert (first.key, first.scale, first.masks, first.fallback) == (
        second.key, second.scale, second.masks, second.fallback,
    )  # fmt: skip


def test_coco_and_back_gives_the_same_guidance(tmp_path: Path, guidance: Path, source: ArraySource) -> None:
    assert export_coco(guidance, tmp_path / "boxes.json") == 5
    import_guidance(source, tmp_path / "boxes.json", tmp_path / "back.zarr", shard_size=2)
    table = GuidanceTable.open(tmp_path / "back.zarr")
    for row in ROWS:
        found = table.get(row.key)
        assert found is not None
        assert_same(found, row)


def test_coco_is_what_pycocotools_reads_and_has_one_category(tmp_path: Path, guidance: Path) -> None:
    from pycocotools.coco import COCO

    export_coco(guidance, tmp_path / "boxes.json")
    content = json.loads((tmp_path / "boxes.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "object"}]
    assert {row["category_id"] for row in content["annotations"]} == {1}
    assert not any("score" in row for row in content["annotations"])
    coco = COCO(tmp_path / "boxes.json")
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=[2]))[0]
    assert annotation["bbox"] == [6, 5, 30, 20]
    assert annotation["area"] == 600


def test_yolo_and_back_gives_the_same_boxes(tmp_path: Path, guidance: Path, source: ArraySource) -> None:
    assert export_yolo(guidance, tmp_path / "txt") == 5
    assert (tmp_path / "txt" / "b" / "4.txt").read_text() == ""
    import_guidance(source, tmp_path / "txt", tmp_path / "back.zarr")
    table = GuidanceTable.open(tmp_path / "back.zarr")
    for row in ROWS:
        found = table.get(row.key)
        assert found is not None
        expected = row.boxes if row.scale != "pixel" else boxes_of((6, 5, 36, 25))
        np.testing.assert_allclose(found.boxes, expected, atol=1e-4)
        assert found.fallback == row.fallback


def test_two_images_that_differ_in_their_extension_only_do_not_fit_yolo(tmp_path: Path) -> None:
    manifest = Manifest(kind="guidance", items=2, shard_size=2)
    with ArtifactWriter.open(tmp_path / "g.zarr", manifest) as writer:
        writer.write(0, guidance_columns([Guidance("a.png", 4, 4), Guidance("a.jpg", 4, 4)]))
        writer.finish()
    with pytest.raises(InvalidOption, match="export COCO instead"):
        export_yolo(tmp_path / "g.zarr", tmp_path / "txt")


def test_annotations_of_other_images_are_refused(tmp_path: Path, guidance: Path) -> None:
    export_coco(guidance, tmp_path / "boxes.json")
    others = ArraySource(np.zeros((1, 8, 8, 3), np.uint8), keys=["zebra.png"])
    with pytest.raises(InvalidOption, match=r"none of the 4 annotated images.*'zebra\.png'"):
        import_guidance(others, tmp_path / "boxes.json", tmp_path / "back.zarr")


def test_the_best_box_is_drawn_in_the_colour_of_the_route() -> None:
    image = np.full((40, 60, 3), 128, np.uint8)
    for row in (ROWS[0], ROWS[2]):
        pixels = np.asarray(draw_guidance(image, row, side=120))
        assert pixels.shape == (80, 120, 3)
        assert (pixels == COLOURS[row.scale]).all(axis=2).sum() > 50
    plain = np.asarray(draw_guidance(image, ROWS[3], side=120))
    assert np.ptp(plain) <= 1


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg", "sheet.html"])
def test_sheets_show_every_image(name: str, tmp_path: Path, guidance: Path, source: ArraySource) -> None:
    tiles = choose_tiles(source, GuidanceTable.open(guidance), items=9, side=64)
    assert [t.route for t in tiles] == ["object", "pixel", "hybrid", "fallback"]
    path = write_sheet(tiles, tmp_path / name, "four <images>", columns=3)
    if name.endswith("html"):
        page = path.read_text()
        assert page.count("<figure ") == 4
        assert "four &lt;images&gt;" in page
        assert "http" not in page
    else:
        with Image.open(path) as sheet:
            width, height = sheet.size
        assert width >= 3 * 64
        assert height > 2 * 64


def test_sheets_refuse_other_images_and_unknown_formats(tmp_path: Path, guidance: Path, source: ArraySource) -> None:
    table = GuidanceTable.open(guidance)
    with pytest.raises(ArtifactError, match="the guidance was made on images"):
        choose_tiles(ArraySource(np.zeros((1, 8, 8, 3), np.uint8)), table)
    with pytest.raises(InvalidOption, match=r"\.png, \.jpg, \.webp or \.html"):
        write_sheet(choose_tiles(source, table, 1), tmp_path / "sheet.bmp", "x")


def test_the_choice_of_images_is_seeded(guidance: Path, source: ArraySource) -> None:
    table = GuidanceTable.open(guidance)
    first = [t.key for t in choose_tiles(source, table, items=2, seed=5)]
    assert first == [t.key for t in choose_tiles(source, table, items=2, seed=5)]
    assert len({tuple(t.key for t in choose_tiles(source, table, items=2, seed=s)) for s in range(8)}) > 1
