"""Generated images on disk in place of data that are not at hand: packed scenes, and scenes with boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from semaug.artifacts.decode import encode_png
from semaug.artifacts.files import write_atomic
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.sources import ScenesSource, open_source
from semaug.studies.study.data import DataSet

PACK_SHARD = 256


def packed(found: DataSet, folder: Path, workers: int, on_progress: OnProgress = ignore_progress) -> DataSet:
    """Both splits of generated images drawn once and packed; anything else as it is."""
    from semaug.artifacts.pack import pack_images

    changes: dict[str, Any] = {}
    for split, spec in (("train", found.train), ("test", found.test)):
        if found.origin == "stand-in" and spec.startswith("scenes:"):
            path = folder / f"{found.name}-{split}.zarr"
            pack_images(
                open_source(spec), path, format="raw", workers=workers, shard_size=PACK_SHARD, on_progress=on_progress
            )
            changes[split] = str(path.resolve())
    return replace(found, **changes)


def annotated(found: DataSet, folder: Path, on_progress: OnProgress = ignore_progress) -> DataSet:
    """Both splits of generated images as files with their true boxes in COCO's JSON; anything else as it is."""
    changes: dict[str, Any] = {}
    for split, spec in (("train", found.train), ("test", found.test)):
        if found.origin == "stand-in":
            source = open_source(spec)
            assert isinstance(source, ScenesSource)
            place = folder / f"{found.name}-{split}"
            changes[split] = write_annotated(source, place, on_progress)
    return replace(found, **changes)


def write_annotated(source: ScenesSource, folder: Path, on_progress: OnProgress = ignore_progress) -> str:
    """Write every scene as a PNG and one ``boxes.json`` for all, last; returns what ``open_detection_set`` takes."""
    file = folder / "boxes.json"
    spec = f"coco:{file.resolve()}?images={folder.resolve()}"
    if file.is_file():
        return spec
    folder.mkdir(parents=True, exist_ok=True)
    images, boxes = [], []
    for i in range(len(source)):
        found, name = source.guidance(i), f"{i:06d}.png"
        write_atomic(folder / name, encode_png(source.read(i)))
        images.append({"id": i, "file_name": name, "height": found.height, "width": found.width})
        low, high = found.boxes[0, :2].astype(np.float64), found.boxes[0, 2:].astype(np.float64)
        box = [*low.tolist(), *(high - low).tolist()]
        boxes.append({"id": i, "image_id": i, "category_id": source.label(i), "bbox": box, "iscrowd": 0})
        on_progress(Progress("draw annotated images", i + 1, len(source)))
    categories = [{"id": label, "name": name} for label, name in enumerate(source.class_names)]
    text = json.dumps({"images": images, "categories": categories, "annotations": boxes})
    write_atomic(file, text.encode())
    return spec
