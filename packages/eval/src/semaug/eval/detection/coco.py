"""COCO's JSON: images, categories, annotations with boxes, polygons or run-length masks."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semaug.artifacts.decode import MAX_PIXELS
from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.masks import decode_mask, encode_runs
from semaug.artifacts.roots import stays_inside
from semaug.artifacts.schemas import Rle
from semaug.eval.detection.cleaning import Cleaner, RawObject
from semaug.eval.detection.data import AnnotatedImage, DetectionDataError, DetectionSet


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Image(_Strict):
    id: int
    file_name: str
    height: int = Field(ge=1)
    width: int = Field(ge=1)


class _Category(_Strict):
    id: int
    name: str


class _RunLengths(_Strict):
    size: tuple[int, int]
    counts: str | list[int]


class _Annotation(_Strict):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0
    segmentation: list[list[float]] | _RunLengths | None = None


class _Coco(_Strict):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def read_coco(spec: str, file: Path, folder: Path, *, outlines: bool) -> DetectionSet:
    """The images of a COCO file, in the order of their ids; classes in the order of theirs.

    Raises ``DetectionDataError`` for a broken file, an image that is not there, or a reference to nothing.
    """
    content = _parsed(file)
    cleaner = Cleaner(outlines)
    categories = sorted(content.categories, key=lambda c: c.id)
    label = {c.id: place for place, c in enumerate(categories)}
    rows = _by_image(file, content, label)
    images = []
    for image in sorted(content.images, key=lambda i: i.id):
        path, size = folder / image.file_name, (image.height, image.width)
        if size[0] * size[1] > MAX_PIXELS:
            raise DetectionDataError(f"{file} says that {image.file_name[:200]!r} is {size[0]} x {size[1]}; mend it")
        if not stays_inside(image.file_name) or not path.is_file():
            raise DetectionDataError(f"{file} names {image.file_name!r}, which is not in {folder}; give images=FOLDER")
        origin = f"{file}: {image.file_name}"
        raw = [_raw(origin, row, size, label, outlines) for row in rows[image.id]]
        images.append(AnnotatedImage(image.file_name, path, size, cleaner.objects(origin, size, raw)))
    return DetectionSet(spec, tuple(images), tuple(c.name for c in categories), cleaner.notes())


def _parsed(file: Path) -> _Coco:
    try:
        return _Coco.model_validate_json(file.read_bytes())
    except OSError as error:
        raise DetectionDataError(f"{file} cannot be read: {error}; check the path") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DetectionDataError(f"{file} is not COCO JSON: {where}: {first['msg']}; mend it") from error


def _by_image(file: Path, content: _Coco, label: dict[int, int]) -> dict[int, list[_Annotation]]:
    known = {image.id for image in content.images}
    for what, ids, count in (
        ("image", known, len(content.images)),
        ("category", label.keys(), len(content.categories)),
    ):
        if len(ids) != count:
            raise DetectionDataError(f"{file} gives one {what} id to two of its {count}; give each its own")
    rows: dict[int, list[_Annotation]] = defaultdict(list)
    for row in content.annotations:
        if row.image_id not in known or row.category_id not in label:
            what, which = ("image", row.image_id) if row.image_id not in known else ("category", row.category_id)
            raise DetectionDataError(f"{file} has an annotation of {what} {which}, which it does not list; mend it")
        rows[row.image_id].append(row)
    return rows


def _raw(origin: str, row: _Annotation, size: tuple[int, int], label: dict[int, int], outlines: bool) -> RawObject:
    x, y, width, height = row.bbox
    outline = row.segmentation if outlines else None
    mask = _mask(origin, outline, size) if isinstance(outline, _RunLengths) else None
    shapes = outline if isinstance(outline, list) else []
    if odd := next((s for s in shapes if len(s) % 2), None):
        raise DetectionDataError(f"{origin}: a polygon has {len(odd)} numbers, which are no pairs of x and y; mend it")
    polygons = tuple(np.asarray(s, np.float64).reshape(-1, 2) for s in shapes)
    reach = 1 + 2 * max(size)
    if any(np.abs(p).max(initial=0) > reach for p in polygons):  # filling takes memory as an outline is long
        raise DetectionDataError(f"{origin}: a polygon reaches beyond {reach}, twice the side of its image; mend it")
    return RawObject(
        (x, y, x + width, y + height), label[row.category_id],
        crowd=bool(row.iscrowd), area=row.area, polygons=polygons, mask=mask,
    )  # fmt: skip


def _mask(origin: str, code: _RunLengths, size: tuple[int, int]) -> Rle:
    """The mask, its code checked: what is not of the image's size would be read past its end."""
    if tuple(code.size) != size:
        raise DetectionDataError(f"{origin}: a mask is {code.size} (height, width) and its image {size}; mend it")
    try:
        if isinstance(code.counts, str):
            rle = Rle(size, code.counts.encode("ascii"))
            decode_mask(rle)
            return rle
        return encode_runs(code.counts, size)
    except (ArtifactError, ValueError, IndexError) as error:
        raise DetectionDataError(f"{origin}: a run-length mask is broken ({error}); mend it") from error
