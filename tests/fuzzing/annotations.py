"""Targets: annotations of boxes and masks, as oracles and as detection data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.fuzzing.images import PIXELS, encoded
from tests.fuzzing.target import Target

from semaug.artifacts.masks import decode_mask, encode_mask, mask_area, mask_box
from semaug.artifacts.schemas import Rle
from semaug.eval.detection.door import open_detection_set
from semaug.eval.detection.masks import target_masks
from semaug.oracles.annotations import AnnotationDetector, AnnotationSegmenter, open_annotations
from semaug.oracles.exchange import AnnotationGuide

_SIZE = PIXELS.shape[:2]
_KEY = "a.png"
_IMAGE = np.zeros((*_SIZE, 3), np.uint8)


def coco() -> dict[str, Any]:
    """A COCO file with a polygon, a compressed and an uncompressed run-length mask."""
    code = encode_mask(np.eye(*_SIZE, dtype=bool)).counts.decode()
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 4], "area": 6.0, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": _KEY, "height": _SIZE[0], "width": _SIZE[1], "semaug": {"scale": "hybrid"}}],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {"id": 1, **row, "segmentation": [[1, 1, 4, 1, 4, 5]]},
            {"id": 2, **row, "segmentation": {"size": list(_SIZE), "counts": code}},
            {"id": 3, **row, "segmentation": {"size": list(_SIZE), "counts": [2, 6, 40]}},
        ],
    }


VOC = b"""<annotation><filename>a.png</filename><size><width>6</width><height>8</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>
</object></annotation>"""
YOLO = b"0 0.5 0.5 0.4 0.6\n1 0.1 0.1 0.9 0.1 0.9 0.9\n"


def _guide(path: Path) -> None:
    guide = AnnotationGuide(open_annotations(path)).guide([_KEY], [_IMAGE])
    boxes = AnnotationDetector(path).detect_keyed([_KEY], [_IMAGE])
    for given in (None, boxes):
        for masks in AnnotationSegmenter(path).segment_keyed([_KEY], [_IMAGE], given):
            assert all(mask.shape == _SIZE and mask.dtype == bool for mask in masks)
    for mask in guide[0].masks:
        assert decode_mask(mask).sum() == mask_area(mask)


def _coco_seeds(place: Path) -> tuple[bytes, ...]:
    return (json.dumps(coco()).encode(),)


def _parse_coco(data: bytes, place: Path) -> None:
    (place / "boxes.json").write_bytes(data)
    _guide(place / "boxes.json")


def _in_folder(name: str, seed: bytes) -> Any:
    def prepare(place: Path) -> tuple[bytes, ...]:
        (place / "labels").mkdir()
        return (seed,)

    def parse(data: bytes, place: Path) -> None:
        (place / "labels" / name).write_bytes(data)
        _guide(place / "labels")

    return prepare, parse


def _use(spec: str, outlines: bool) -> None:
    found = open_detection_set(spec, outlines=outlines)
    assert found.fingerprint
    for image in found.images:
        assert image.read().shape[:2] == image.size
        target_masks(image.objects.outlines, image.size, (16, 16), True)


def _prepare_detection_coco(place: Path) -> tuple[bytes, ...]:
    (place / "images").mkdir()
    (place / "images" / _KEY).write_bytes(encoded(PIXELS, "PNG"))
    return _coco_seeds(place)


def _parse_detection_coco(data: bytes, place: Path) -> None:
    (place / "boxes.json").write_bytes(data)
    for outlines in (False, True):
        _use(f"coco:{place / 'boxes.json'}?images={place / 'images'}", outlines)


def _prepare_detection_voc(place: Path) -> tuple[bytes, ...]:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (place / folder).mkdir(parents=True)
    (place / "JPEGImages" / _KEY).write_bytes(encoded(PIXELS, "PNG"))
    return (VOC,)


def _parse_detection_voc(data: bytes, place: Path) -> None:
    (place / "Annotations" / "a.xml").write_bytes(data)
    _use(f"voc:{place}", False)


def _parse_voc_split(data: bytes, place: Path) -> None:
    (place / "Annotations" / "a.xml").write_bytes(VOC)
    (place / "ImageSets" / "Main" / "train.txt").write_bytes(data)
    _use(f"voc:{place}?split=train", False)


def _prepare_detection_yolo(place: Path) -> tuple[bytes, ...]:
    (place / _KEY).write_bytes(encoded(PIXELS, "PNG"))
    return (YOLO,)


def _parse_detection_yolo(data: bytes, place: Path) -> None:
    (place / "a.txt").write_bytes(data)
    _use(f"yolo:{place}", False)
    _use(f"yolo:{place}", True)


def _run_length_seeds(place: Path) -> tuple[bytes, ...]:
    masks = (np.zeros(_SIZE, bool), np.ones(_SIZE, bool), np.eye(*_SIZE, dtype=bool))
    return tuple(encode_mask(mask).counts for mask in masks)


def _parse_run_lengths(data: bytes, place: Path) -> None:
    rle = Rle((_SIZE[0], _SIZE[1]), data)
    mask_box(rle)
    area = mask_area(rle)
    mask = decode_mask(rle)
    assert (mask.shape, mask.sum()) == (_SIZE, area)


TARGETS = (
    Target("coco", _coco_seeds, _parse_coco, "json"),
    Target("voc", *_in_folder("a.xml", VOC)),
    Target("yolo", *_in_folder("a.txt", YOLO)),
    Target("run-lengths", _run_length_seeds, _parse_run_lengths),
    Target("detection-coco", _prepare_detection_coco, _parse_detection_coco, "json"),
    Target("detection-voc", _prepare_detection_voc, _parse_detection_voc),
    Target("detection-voc-split", lambda place: (*_prepare_detection_voc(place), b"a\n")[1:], _parse_voc_split),
    Target("detection-yolo", _prepare_detection_yolo, _parse_detection_yolo),
)
