"""Generated images on disk in place of data that are not at hand: packed scenes, and scenes with boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from semaug.artifacts.decode import encode_png
from semaug.artifacts.files import write_atomic
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.shards import Workers
from semaug.artifacts.sources import ScenesSource, open_source
from semaug.studies.study.data import DataSet

PACK_SHARD = 256


def packed(found: DataSet, folder: Path, workers: Workers, on_progress: OnProgress = ignore_progress) -> DataSet:
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
    names = [f"{i:06d}.png" for i in range(len(source))]
    for i, name in enumerate(names):
        write_atomic(folder / name, encode_png(source.read(i)))
        on_progress(Progress("draw annotated images", i + 1, len(source)))
    write_atomic(file, json.dumps(coco_of(source, names)).encode())
    return spec


def coco_of(source: ScenesSource, names: Sequence[str]) -> dict[str, Any]:
    """The true boxes and outlines of scenes in COCO's form; ``names`` are those of their files."""
    images, shapes = [], []
    for i, name in enumerate(names):
        plan, box = source.plan(i), source.guidance(i).boxes[0].astype(np.float64)
        images.append({"id": i, "file_name": name, "height": plan.height, "width": plan.width})
        outline = [round(float(v), 2) for v in plan.outline.ravel()]
        shapes.append({
            "id": i, "image_id": i, "category_id": source.label(i), "iscrowd": 0, "area": float(plan.mask().sum()),
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()], "segmentation": [outline],
        })  # fmt: skip
    categories = [{"id": label, "name": name} for label, name in enumerate(source.class_names)]
    return {"images": images, "categories": categories, "annotations": shapes}
