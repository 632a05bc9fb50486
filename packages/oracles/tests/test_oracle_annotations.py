"""Annotation files as oracles, against coordinates worked out by hand; broken files are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from semaug.artifacts.masks import encode_mask
from semaug.oracles.adaptive import AdaptiveOracle, FixedScale
from semaug.oracles.annotations import AnnotationDetector, AnnotationSegmenter, box_overlaps, open_annotations
from semaug.oracles.errors import AnnotationError
from semaug.oracles.grabcut import GrabCutSegmenter

IMAGE = np.zeros((100, 200, 3), np.uint8)


def coco(path: Path, annotations: list[dict], height: int = 100, width: int = 200) -> Path:
    image = {"id": 7, "file_name": "photos/a.jpg", "height": height, "width": width}
    rows = [{"id": i, "image_id": 7, "category_id": 3, **row} for i, row in enumerate(annotations)]
    path.write_text(json.dumps({"images": [image], "annotations": rows, "categories": [{"id": 3, "name": "dog"}]}))
    return path


def voc(path: Path, box: str, size: str = "<size><width>200</width><height>100</height></size>") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{size}<object><name>dog</name><bndbox>{box}</bndbox></object></annotation>")
    return path


def test_coco_boxes_largest_first_without_crowds(tmp_path: Path) -> None:
    rows = [{"bbox": [1, 2, 3, 4]}, {"bbox": [10, 20, 30, 40]}, {"bbox": [0, 0, 200, 100], "iscrowd": 1}]
    detector = AnnotationDetector(coco(tmp_path / "a.json", rows))
    assert detector.detect_keyed(["a.jpg", "b.jpg"], [IMAGE, IMAGE])[0].tolist() == [[10, 20, 40, 60], [1, 2, 4, 6]]
    assert detector.detect_keyed(["b.jpg"], [IMAGE])[0].shape == (0, 4)


def test_boxes_follow_a_resized_image(tmp_path: Path) -> None:
    detector = AnnotationDetector(coco(tmp_path / "a.json", [{"bbox": [10, 20, 30, 40]}], 200, 400))
    assert detector.detect_keyed(["a.jpg"], [IMAGE])[0].tolist() == [[5, 10, 20, 30]]


def test_another_shape_of_image_is_refused(tmp_path: Path) -> None:
    detector = AnnotationDetector(coco(tmp_path / "a.json", [{"bbox": [10, 20, 30, 40]}], 200, 100))
    with pytest.raises(AnnotationError, match=r"annotated at 200x100, the image is 100x200"):
        detector.detect_keyed(["a.jpg"], [IMAGE])


def test_polygons_and_run_lengths_give_the_same_mask(tmp_path: Path) -> None:
    expected = np.zeros((100, 200), bool)
    expected[20:60, 10:40] = True
    polygon = [[10, 20, 40, 20, 40, 60, 10, 60]]
    packed = {"size": [100, 200], "counts": encode_mask(expected).counts.decode()}
    runs = [10 * 100 + 20, *[40, 60] * 29, 40]
    plain = {"size": [100, 200], "counts": [*runs, 20000 - sum(runs)]}
    for number, outline in enumerate((polygon, packed, plain)):
        row = {"bbox": [10, 20, 30, 40], "segmentation": outline}
        segmenter = AnnotationSegmenter(coco(tmp_path / f"{number}.json", [row]))
        found = segmenter.segment_keyed(["a.jpg"], [IMAGE], None)[0]
        np.testing.assert_array_equal(found[0], expected)


def test_each_box_takes_the_mask_it_overlaps(tmp_path: Path) -> None:
    rows = [{"bbox": [x, 10, 50, 50], "segmentation": [[x, 10, x + 50, 10, x + 50, 60, x, 60]]} for x in (0.0, 100.0)]
    segmenter = AnnotationSegmenter(coco(tmp_path / "a.json", rows))
    boxes = np.array([[102, 12, 149, 58], [60, 60, 70, 70], [0, 10, 50, 60]], np.float32)
    masks = segmenter.segment_keyed(["a.jpg"], [IMAGE], [boxes])[0]
    assert [int(m.sum()) for m in masks] == [2500, 0, 2500]
    assert masks[0][30, 120]
    assert masks[2][30, 20]


def test_yolo_boxes_and_polygons(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("3 0.5 0.5 0.2 0.4\n\n7 0.1 0.1 0.3 0.1 0.3 0.5\n5 0.5 0.5 0.1 0.1 0.93\n")
    boxes = AnnotationDetector(tmp_path).detect_keyed(["images/a.jpg"], [IMAGE])[0]
    np.testing.assert_allclose(boxes, [[80, 30, 120, 70], [20, 10, 60, 50], [90, 45, 110, 55]], atol=1e-4)
    mask = AnnotationSegmenter(tmp_path).segment_keyed(["a.jpg"], [IMAGE], None)[0]
    assert len(mask) == 1
    assert abs(int(mask[0].sum()) - 800) < 60


def test_voc_counts_from_one_and_includes_the_last_pixel(tmp_path: Path) -> None:
    voc(tmp_path / "n01" / "a.xml", "<xmin>1</xmin><ymin>1</ymin><xmax>200</xmax><ymax>100</ymax>")
    assert AnnotationDetector(tmp_path).detect_keyed(["n01/a.JPEG"], [IMAGE])[0].tolist() == [[0, 0, 200, 100]]


def test_names_meet_when_one_path_ends_with_the_other(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.txt").write_text("0 0.5 0.5 1 1")
    index = open_annotations(tmp_path)
    assert index.get("train/x/1.png") is not None
    assert index.get("z/1.png") is None
    with pytest.raises(AnnotationError, match=r"'1\.png' could be 'x/1' or 'y/1'"):
        index.get("1.png")


def test_true_boxes_for_a_segmenter_are_variant_v6(tmp_path: Path) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:60, 40:90] = 220
    detector = AnnotationDetector(coco(tmp_path / "a.json", [{"bbox": [35, 15, 60, 50]}]))
    row = AdaptiveOracle(detector, GrabCutSegmenter(), FixedScale("hybrid")).guide(["a.jpg"], [image])[0]
    assert (row.scale, len(row.boxes), len(row.masks)) == ("hybrid", 1, 1)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", "{", "not COCO JSON"),
        ("a.json", '{"images": []}', "lacks 'annotations'"),
        ("a.json", '{"images": [{"id": 1, "file_name": "a", "height": 0, "width": 4}], "annotations": []}', "size"),
        ("a.txt", "0 0.5 0.5 0.2", r"a\.txt:1: 4 values"),
        ("a.txt", "0 0.5 0.5 0.2 0.2\n0 x 1 1 1", r"a\.txt:2: could not convert"),
        ("a.txt", "0 120 80 40 20", r"a\.txt:1: .*not in shares"),
        ("a.txt", "0 nan 0.5 0.2 0.2", r"a\.txt:1: .*not in shares"),
        ("a.xml", "<annotation>", r"a\.xml is not VOC XML"),
        ("a.xml", "<annotation><size><width>9</width></size></annotation>", "no size/height"),
    ],
)
def test_broken_files_are_named_in_one_line(name: str, content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(AnnotationError, match=reason) as caught:
        open_annotations(tmp_path / name if name.endswith("json") else tmp_path).get("a.jpg")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="holds no"):
        open_annotations(tmp_path)
    with pytest.raises(AnnotationError, match="neither a COCO"):
        open_annotations(tmp_path / "absent")


def test_overlap_of_disjoint_and_degenerate_boxes_is_zero() -> None:
    boxes = np.array([[0, 0, 1, 1], [5, 5, 6, 6], [3, 3, 3, 3]], np.float32)
    np.testing.assert_array_equal(box_overlaps(boxes, boxes), np.diag([1.0, 1.0, 0.0]))


def test_one_record_is_not_shared_by_two_images_of_one_name(tmp_path):
    (tmp_path / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    index = open_annotations(tmp_path)
    assert index.get("a/1.jpg") is not None
    assert index.get("a/1.jpg") is not None
    with pytest.raises(AnnotationError, match=r"'a/1.jpg' and 'b/1.jpg' both meet '1'; name their folders"):
        index.get("b/1.jpg")
