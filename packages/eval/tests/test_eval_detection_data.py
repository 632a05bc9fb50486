"""Readers of VOC, COCO and YOLO annotations on files made here: what they read, and what they refuse in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from semaug.artifacts.decode import encode_png
from semaug.artifacts.errors import SourceError
from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import Rle
from semaug.eval.detection.data import DetectionDataError, join, match_classes
from semaug.eval.detection.door import open_detection_set
from semaug.eval.detection.masks import draw_outline

WIDTH, HEIGHT = 80, 60


def write_image(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(width + height + len(path.stem))
    path.write_bytes(encode_png(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)))


def write_voc(root: Path, objects: dict[str, str], split: str = "trainval") -> Path:
    for name, rows in objects.items():
        write_image(root / "JPEGImages" / f"{name}.png")
        file = root / "Annotations" / f"{name}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>{rows}</annotation>")
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{name} 1\n" for name in objects))
    return root


def voc_object(name: str, box: tuple[int, int, int, int], difficult: str = "") -> str:
    corners = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    return f"<object><name>{name}</name>{difficult}<bndbox>{corners}</bndbox>{part}</object>"


def write_coco(root: Path, rows: list[dict], images: int = 1, change: dict | None = None) -> str:
    for number in range(images):
        write_image(root / "images" / f"{number}.png")
    content = {
        "images": [{"id": 7 + n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(images)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [{"id": n, "image_id": 7, "category_id": 18, **row} for n, row in enumerate(rows)],
        **(change or {}),
    }
    (root / "instances.json").write_text(json.dumps(content))
    return f"coco:{root}/instances.json?images={root}/images"


def write_yolo(root: Path, labels: dict[str, str], images: tuple[str, ...] = ()) -> str:
    (root / "labels").mkdir(parents=True, exist_ok=True)
    for name, text in labels.items():
        (root / "labels" / f"{name}.txt").write_text(text)
    for name in images or tuple(labels):
        write_image(root / "images" / f"{name}.png")
    return f"yolo:{root}/labels?images={root}/images"


def test_voc_counts_pixels_from_one_and_keeps_difficult_objects(tmp_path):
    marked = voc_object("cat", (1, 1, WIDTH, HEIGHT), "<difficult>1</difficult>")
    root = write_voc(tmp_path / "VOC2007", {"b": voc_object("dog", (11, 21, 30, 40)) + marked, "a": ""})
    data = open_detection_set(f"voc:{root}?split=trainval")
    first, second = data.images
    assert (first.key, second.key, data.class_names) == ("b", "a", ("cat", "dog"))
    assert first.objects.boxes.tolist() == [[10, 20, 30, 40], [0, 0, WIDTH, HEIGHT]]
    assert (first.objects.labels.tolist(), first.objects.difficult.tolist()) == ([1, 0], [False, True])
    assert (len(second.objects), data.objects, first.objects.areas[0]) == (0, 1, 400)


def test_coco_reads_boxes_polygons_masks_and_crowds(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:20, 30:50] = True
    code = encode_mask(mask)
    runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0, append=0)), prepend=0)
    runs = [*runs.tolist(), mask.size - int(runs.sum())]
    spec = write_coco(
        tmp_path,
        [
            {"bbox": [10, 20, 20, 10], "area": 150, "segmentation": [[10, 20, 30, 20, 30, 30, 10, 30], [1, 2, 3, 4]]},
            {"bbox": [30, 10, 20, 10], "category_id": 3, "iscrowd": 1,
             "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs}},
            {"bbox": [30, 10, 20, 10], "category_id": 3,
             "segmentation": {"size": [HEIGHT, WIDTH], "counts": code.counts.decode()}},
        ],
        images=2,
    )  # fmt: skip
    boxes, shapes = open_detection_set(spec), open_detection_set(spec, outlines=True)
    objects = shapes.images[0].objects
    assert shapes.class_names == ("car", "dog")  # in the order of their ids
    assert objects.boxes[0].tolist() == [10, 20, 30, 30]
    assert objects.labels.tolist() == [1, 0, 0]
    assert (objects.crowd.tolist(), objects.areas.tolist()) == ([False, True, False], [150, 200, 200])
    assert boxes.images[0].objects.outlines == ()
    polygon, uncompressed, compressed = objects.outlines
    assert [len(p) for p in polygon] == [4]  # the outline of two points is left out
    assert isinstance(uncompressed, Rle)
    assert uncompressed.counts == compressed.counts == code.counts
    drawn = draw_outline(polygon, (HEIGHT, WIDTH), (HEIGHT, WIDTH))
    assert (drawn.sum(), drawn[20:30, 10:30].all()) == (200, True)
    half = draw_outline(compressed, (HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2))
    assert (half.sum(), half[5:10, 15:25].all()) == (50, True)


def test_yolo_reads_boxes_and_polygons_and_says_what_has_no_file(tmp_path):
    spec = write_yolo(tmp_path, {"a": "3 0.5 0.5 0.25 0.5\n", "c": ""}, ("a", "b", "c"))
    data = open_detection_set(spec)
    assert [i.key for i in data.images] == ["a", "b", "c"]
    assert data.images[0].objects.boxes.tolist() == [[30, 15, 50, 45]]
    assert data.class_names == ("3",)
    assert data.notes == (
        "1 images have no file of labels and count as images without objects (missing=skip leaves them out)",
    )
    skipped = open_detection_set(f"{spec}&missing=skip")
    assert [i.key for i in skipped.images] == ["a", "c"]
    (tmp_path / "labels" / "a.txt").write_text("1 0.25 0.5 0.75 0.5 0.75 1.0 0.25 1.0\n")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    outlined = open_detection_set(f"{spec}&names={tmp_path}/names.txt", outlines=True)
    assert outlined.class_names == ("cat", "dog")
    assert outlined.images[0].objects.boxes.tolist() == [[20, 30, 60, 60]]
    assert outlined.images[0].objects.areas.tolist() == [1200]


def test_parts_joins_and_classes_by_name(tmp_path):
    spec = write_yolo(tmp_path / "one", dict.fromkeys("abcd", "0 0.5 0.5 0.5 0.5"))
    assert [i.key for i in open_detection_set(f"{spec}&first=3").images] == ["a", "b", "c"]
    assert [i.key for i in open_detection_set(f"{spec}&after=3").images] == ["d"]
    root = write_voc(tmp_path / "VOC2007", {"a": voc_object("dog", (1, 1, 20, 20)) + voc_object("0", (5, 5, 9, 9))})
    voc = open_detection_set(f"voc:{root}")
    both = join([voc, open_detection_set(spec)])
    assert both.class_names == ("0", "dog")
    assert [i.key for i in both.images][:2] == ["0/a", "1/a"]
    assert both.images[0].objects.labels.tolist() == [1, 0]
    assert both.images[1].objects.labels.tolist() == [0]
    train, test, notes = match_classes(open_detection_set(spec), voc)
    assert train.class_names == test.class_names == ("0", "dog")
    assert "1 classes of the test images have no training objects (dog)" in notes[0]


def test_fingerprints_follow_annotations_and_images(tmp_path):
    spec = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5"})
    first = open_detection_set(spec).fingerprint
    assert first == open_detection_set(spec).fingerprint
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.25")
    assert first != open_detection_set(spec).fingerprint


def test_boxes_over_the_border_are_clipped_and_those_without_area_left_out(tmp_path):
    spec = write_coco(tmp_path, [{"bbox": [-5, 20, 200, 10]}, {"bbox": [5, 5, 0, 10]}, {"bbox": [5, 5, 3, 1e-4]}])
    data = open_detection_set(spec)
    assert data.images[0].objects.boxes.tolist() == [[0, 20, WIDTH, 30]]
    assert len(data.notes) == 1
    assert data.notes[0].startswith("2 objects without area were left out (the first in ")


def test_segmentation_leaves_out_what_has_no_outline_and_says_so(tmp_path):
    square = [[10, 20, 30, 20, 30, 30, 10, 30]]
    rows = [{"bbox": [10, 20, 20, 10], "segmentation": s} for s in (square, [[1, 2, 3, 4]], [])]
    data = open_detection_set(write_coco(tmp_path, rows), outlines=True)
    assert len(data.images[0].objects) == 1
    assert data.notes[0].startswith("2 objects without an outline of three points or more were left out")
    assert len(open_detection_set(write_coco(tmp_path, rows)).images[0].objects) == 3


BOX = {"bbox": [1, 1, 5, 5]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"id": 1, "image_id": 99, "category_id": 18, **BOX}]}, "annotation of image 99"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 5, **BOX}]}, "annotation of category 5"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [90, 1, 5, 5]}]}, "lies outside"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [9, 1, -5, 5]}]}, "upper left"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [9, 1, 5]}]}, "bbox"),
        ({"annotations": "none"}, "annotations"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "one category id to two"),
        ({"images": [{"id": 1, "file_name": "gone.png", "width": 9, "height": 9}], "annotations": []}, "gone.png"),
    ],
)  # fmt: skip
def test_broken_coco_files_are_refused_in_one_line(tmp_path, change, message):
    refused(write_coco(tmp_path, [], change=change), message)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "no whole numbers that add up to 60 x 80"),
        ({"size": [HEIGHT, WIDTH], "counts": [-5, 5]}, "run-length mask is broken"),
        ({"size": [HEIGHT, WIDTH], "counts": "zzzz"}, "run-length mask is broken"),
        ({"size": [9, WIDTH], "counts": [1]}, r"a mask is \(9, 80\)"),
        ([[1, 2, 3, 4, 5, 6, 7]], "7 numbers"),
    ],
)
def test_broken_outlines_are_refused_in_one_line(tmp_path, segmentation, message):
    refused(write_coco(tmp_path, [{**BOX, "segmentation": segmentation}]), message, outlines=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.5", "4 values"),
        ("0 0.1 0.1 0.2 0.2 0.9", "6 values"),
        ("cat 0.5 0.5 0.5 0.5", "could not convert"),
        ("0.5 0.5 0.5 0.5 0.5", "not a whole number"),
        ("0 30 20 10 10", "shares of the image"),
        ("0 nan 0.5 0.5 0.5", "shares of the image"),
        ("0 1.4 0.5 0.2 0.5", "lies outside"),
    ],
)
def test_broken_yolo_lines_are_refused_in_one_line(tmp_path, text, message):
    refused(write_yolo(tmp_path, {"a": text}), message)


def test_other_bad_input_is_refused_in_one_line(tmp_path):
    spec = write_yolo(tmp_path / "y", {"a": "0 0.5 0.5 0.5 0.5"})
    refused("somewhere", "does not say what it is")
    refused(f"{spec}&first=0", "leaves none of 1 images")
    refused(f"{spec}&missing=maybe", "background or skip")
    refused(spec, "has no outlines", outlines=True)
    refused(write_coco(tmp_path / "empty", [], images=1), "no outlines", outlines=True)
    (tmp_path / "bare.json").write_text('{"images": [], "annotations": [], "categories": []}')
    refused(f"coco:{tmp_path}/bare.json?images={tmp_path}", "names no images")
    (tmp_path / "y" / "labels" / "stray.txt").write_text("")
    assert open_detection_set(spec).notes[0].startswith("1 files of labels have no image and were left out")
    refused(f"yolo:{tmp_path}/y/labels?images={tmp_path}/empty", "no image of its name")
    (tmp_path / "none.json").write_text("")
    refused(f"coco:{tmp_path}/none.json", "not COCO JSON")
    with pytest.raises(SourceError, match="did you mean 'split'"):
        open_detection_set(f"voc:{tmp_path}?splitt=train")
    root = write_voc(tmp_path / "VOC", {"a": voc_object("dog", (1, 1, 20, 20))})
    refused(f"voc:{root}?split=test", "the splits of .* are: trainval")
    refused(f"voc:{root}", "boxes alone", outlines=True)
    (root / "Annotations" / "a.xml").write_text("")
    refused(f"voc:{root}", "not VOC XML")
    (root / "JPEGImages" / "a.png").unlink()
    refused(f"voc:{root}", "no image 'a'")
    empty = open_detection_set(write_yolo(tmp_path / "void", {"a": ""}))
    with pytest.raises(DetectionDataError, match="no object to train on"):
        match_classes(empty, empty)


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path):
    data = open_detection_set(write_coco(tmp_path, [BOX]))
    assert data.images[0].read().shape == (HEIGHT, WIDTH, 3)
    write_image(tmp_path / "images" / "0.png", width=81)
    with pytest.raises(DetectionDataError, match=r"60x81 pixels .* annotated at 60x80"):
        data.images[0].read()


def refused(spec: str, message: str, *, outlines: bool = False) -> None:
    with pytest.raises(DetectionDataError, match=message) as error:
        open_detection_set(spec, outlines=outlines)
    assert "\n" not in str(error.value)
