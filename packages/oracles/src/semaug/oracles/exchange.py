"""Guidance to and from other tools: COCO JSON with one category, ``object``, and YOLO txt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.files import writing
from semaug.artifacts.guidance_table import guidance_rows
from semaug.artifacts.masks import encode_mask, mask_area, mask_box
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.reader import Artifact
from semaug.artifacts.roots import inside
from semaug.artifacts.schemas import SCALES, Guidance, Manifest, Scale
from semaug.artifacts.shards import Workers
from semaug.artifacts.sources import ImageSource
from semaug.artifacts.store import ArtifactSummary
from semaug.oracles.annotations import AnnotationIndex, draw_mask, open_annotations, scaled_boxes
from semaug.oracles.catalogue import OracleSpec
from semaug.oracles.extract import GuidanceRunner, write_guidance
from semaug.oracles.protocols import Boxes, Image
from semaug.oracles.selection import usable_boxes

CATEGORY = {"id": 1, "name": "object"}


def export_coco(guidance: str | os.PathLike[str], out: str | os.PathLike[str]) -> int:
    """Write COCO JSON; returns the number of annotations.

    Boxes are written best first; masks as compressed run lengths; an image's scale stands in its ``semaug`` field, so
    that importing gives the same guidance. The file is streamed: memory does not grow with it.
    """
    artifact, out = Artifact.open(guidance, "guidance"), Path(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    with writing(out):
        try:
            with open(partial, "w") as file:
                file.write('{"info": {"description": "semaug guidance"}, "licenses": [],\n')
                file.write(f'"categories": [{json.dumps(CATEGORY)}],\n"images": ')
                _stream(file, (_coco_image(i, row) for i, row in enumerate(_rows(artifact), 1)))
                file.write(',\n"annotations": ')
                count = _stream(file, _coco_annotations(artifact))
                file.write("}\n")
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    return count


def export_yolo(guidance: str | os.PathLike[str], out: str | os.PathLike[str]) -> int:
    """Write one YOLO ``.txt`` an image into the folder ``out``; returns the number of boxes.

    A line is ``0 cx cy w h`` in shares of the image; a mask without a box is written as its tight box. Masks do not
    fit the format and are left out. Raises ``InvalidOption`` where two images would share one file, and for a key that
    leads out of the folder.
    """
    folder, count = Path(out), 0
    written: set[str] = set()
    with writing(folder):
        for row in _rows(Artifact.open(guidance, "guidance")):
            name = PurePosixPath(row.key).with_suffix(".txt").as_posix()
            if name in written:
                raise InvalidOption(f"two images would write {folder / name} ({row.key!r} is one); export COCO instead")
            written.add(name)
            boxes = _all_boxes(row)
            place = _place(folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("".join(_yolo_line(box, row.height, row.width) for box in boxes))
            count += len(boxes)
    return count


def _place(folder: Path, name: str) -> Path:
    try:
        return inside(folder, name)
    except ValueError as error:
        raise InvalidOption(f"the guidance has a key that no file below {folder} can have: {error}") from error


def _rows(artifact: Artifact) -> Iterator[Guidance]:
    for marker in artifact.markers:
        yield from guidance_rows(artifact.shard(marker.shard))


def _stream(file: IO[str], rows: Iterator[dict[str, Any]]) -> int:
    count = 0
    file.write("[")
    for row in rows:
        file.write(("," if count else "") + "\n" + json.dumps(row))
        count += 1
    file.write("]")
    return count


def _coco_image(number: int, row: Guidance) -> dict[str, Any]:
    marks = {"scale": row.scale, "fallback": row.fallback}
    return {"id": number, "file_name": row.key, "height": row.height, "width": row.width, "semaug": marks}


def _coco_annotations(artifact: Artifact) -> Iterator[dict[str, Any]]:
    number = 0
    for image, row in enumerate(_rows(artifact), 1):
        for i, (x1, y1, x2, y2) in enumerate(_all_boxes(row).tolist()):
            number += 1
            note: dict[str, Any] = {"id": number, "image_id": image, "category_id": 1, "iscrowd": 0}
            note |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "segmentation": []}
            if i < len(row.masks):
                rle = row.masks[i]
                code = {"size": [row.height, row.width], "counts": rle.counts.decode()}
                note |= {"segmentation": code, "area": mask_area(rle)}
            yield note


def _all_boxes(row: Guidance) -> Boxes:
    if len(row.boxes) or not row.masks:
        return row.boxes
    return np.stack([mask_box(mask) for mask in row.masks])


def _yolo_line(box: NDArray[np.float32], height: int, width: int) -> str:
    x1, y1, x2, y2 = box.tolist()
    shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return "0 " + " ".join(f"{share:.8f}" for share in shares) + "\n"


class AnnotationGuide:
    """Guidance as annotations have it: their boxes in the file's order, and their masks where all objects have one."""

    def __init__(self, index: AnnotationIndex) -> None:
        self._index = index

    def guide(self, keys: Sequence[str], images: Sequence[Image]) -> list[Guidance]:
        """The guidance of a batch; an image without annotations is marked ``fallback``."""
        return [self._one(key, *image.shape[:2]) for key, image in zip(keys, images, strict=True)]

    def _one(self, key: str, height: int, width: int) -> Guidance:
        found = self._index.get(key)
        if found is None:
            return Guidance(key, height, width, fallback=True)
        masked = bool(found.shapes) and all(shape.has_mask for shape in found.shapes)
        masks = [draw_mask(found, shape, height, width) for shape in found.shapes] if masked else []
        boxes = scaled_boxes(found, height, width)
        if masked and all(mask.any() for mask in masks):
            codes = tuple(encode_mask(mask) for mask in masks)
            scale: Scale = cast("Scale", found.scale) if found.scale in SCALES else "hybrid"
            kept = boxes if scale != "pixel" else boxes[:0]
            return Guidance(key, height, width, scale=scale, boxes=kept, masks=codes)
        boxes = usable_boxes(boxes, height, width)
        scale = cast("Scale", found.scale) if found.scale in SCALES else "object"
        return Guidance(key, height, width, scale=scale, boxes=boxes, fallback=len(boxes) == 0)


@dataclass(frozen=True, slots=True)
class _ImportWork:
    source: ImageSource
    path: str

    def open(self) -> GuidanceRunner:
        return GuidanceRunner(self.source, AnnotationGuide(open_annotations(self.path)), batch_size=16)


def import_guidance(
    source: ImageSource,
    annotations: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    workers: Workers = 1,
    shard_size: int = 256,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ArtifactSummary:
    """Write a ``guidance`` artifact from COCO JSON, or a folder of YOLO txt or VOC XML, for the images of ``source``.

    Raises ``AnnotationError`` for what cannot be read, naming the file, and for annotations that meet no image.
    """
    index = open_annotations(Path(annotations))
    if not any(index.get(source.key(i)) is not None for i in range(len(source))):
        raise InvalidOption(
            f"none of the {len(index)} annotated images of {annotations} is among the {len(source)} of {source.spec} "
            f"(the first is {source.key(0)!r}); names are matched without their extensions"
        )
    spec = OracleSpec.parse("annotations", [f"path={annotations}"])
    manifest = Manifest(
        kind="guidance", items=len(source), shard_size=shard_size, config={"imported": spec.identity()},
        inputs={"source": source.fingerprint}, info={"spec": source.spec, "annotations": str(annotations)},
    )  # fmt: skip
    work = _ImportWork(source, str(Path(annotations).resolve()))
    return write_guidance(manifest, work, out, "import", workers, overwrite, on_progress)
