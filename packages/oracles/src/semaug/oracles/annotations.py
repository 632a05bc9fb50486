"""Annotations as oracles: the true boxes (V5), and true boxes for a segmenter (V6) (SDI, Table 12).

Reads COCO JSON (boxes, polygons, run-length masks), YOLO txt (boxes and YOLO-seg polygons) and VOC or ImageNet XML.
Class names and numbers are not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import MAX_PIXELS
from semaug.artifacts.masks import decode_mask, encode_runs, mask_area
from semaug.artifacts.outside import parse_json, parse_xml, read_regular
from semaug.artifacts.schemas import Rle
from semaug.oracles.errors import AnnotationError
from semaug.oracles.protocols import NO_BOXES, Boxes, Image, Mask
from semaug.oracles.selection import box_areas

_FARTHEST = 1e7
"""Pixels: no image is as wide, and no box lies as far out."""
Polygon = NDArray[np.float64]
"""float64, shape (n, 2): x, y."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One object: its box (x1, y1, x2, y2), and its outline as polygons or as a run-length code."""

    box: tuple[float, float, float, float]
    polygons: tuple[Polygon, ...] = ()
    run_lengths: Rle | None = None

    @property
    def has_mask(self) -> bool:
        return bool(self.polygons) or self.run_lengths is not None


@dataclass(frozen=True, slots=True)
class Annotated:
    """The objects of one image. ``size`` is (height, width), or None where coordinates are shares of the image."""

    origin: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]
    scale: str | None = None
    """The scale that an export of semaug wrote down."""


class AnnotationIndex:
    """Annotations found by image key.

    A key meets a record when, extensions aside, one path ends with the other: ``images/1.jpg`` meets ``1.txt``.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Annotated]], origin: Path) -> None:
        self._readers, self._origin = readers, origin
        self._by_suffix: dict[str, list[str]] = {}
        self._met: dict[str, str] = {}
        for name in readers:
            for suffix in _suffixes(name):
                self._by_suffix.setdefault(suffix, []).append(name)

    def __len__(self) -> int:
        return len(self._readers)

    def get(self, key: str) -> Annotated | None:
        """The annotations of an image, or None; raises ``AnnotationError`` for a broken file or a doubtful match."""
        stem = _stem(key)
        for suffix in _suffixes(stem):
            if suffix in self._readers:
                self._claim(suffix, key)
                return self._readers[suffix]()
        names = self._by_suffix.get(stem, [])
        if len(names) > 1:
            raise AnnotationError(f"{self._origin}: {key!r} could be {names[0]!r} or {names[1]!r}; name their folders")
        return self._readers[names[0]]() if names else None

    def _claim(self, record: str, key: str) -> None:
        """Refuse a record that two images of one name, in different folders, would share."""
        first = self._met.setdefault(record, key)
        if _stem(first) != _stem(key):
            raise AnnotationError(f"{self._origin}: {first!r} and {key!r} both meet {record!r}; name their folders")


def open_annotations(path: str | Path) -> AnnotationIndex:
    """Index a COCO ``.json`` file, or a folder of YOLO ``.txt`` or VOC ``.xml`` files.

    Raises ``AnnotationError`` where there is nothing of the kind.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".json":
        return AnnotationIndex(_read_coco(path), path)
    if not path.is_dir():
        raise AnnotationError(f"{path} is neither a COCO .json file nor a folder of .txt or .xml files; check the path")
    for suffix, read in ((".xml", _read_voc), (".txt", _read_yolo)):
        files = sorted(p for p in path.rglob(f"*{suffix}") if p.is_file())
        if files:
            named = ((_stem(f.relative_to(path).as_posix()), f) for f in files)
            return AnnotationIndex({name: _reader(read, file) for name, file in named}, path)
    raise AnnotationError(f"{path} holds no .xml (VOC, ImageNet) and no .txt (YOLO) files; check the path")


class AnnotationDetector:
    """The annotated boxes, largest first; an image without annotations has none."""

    def __init__(self, path: Path) -> None:
        self._index = open_annotations(path)

    def detect_keyed(self, keys: Sequence[str], images: Sequence[Image]) -> list[Boxes]:
        """Boxes of shape (n, 4), xyxy, pixels of the images as they were read."""
        return [self._boxes(key, image.shape[:2]) for key, image in zip(keys, images, strict=True)]

    def _boxes(self, key: str, size: tuple[int, ...]) -> Boxes:
        found = self._index.get(key)
        if found is None:
            return NO_BOXES
        boxes = scaled_boxes(found, size[0], size[1])
        return boxes[np.argsort(-box_areas(boxes), kind="stable")]


class AnnotationSegmenter:
    """The annotated masks; with boxes, each box takes the mask of the annotation that it overlaps most."""

    def __init__(self, path: Path, min_overlap: float = 0.5) -> None:
        self._index, self._min_overlap = open_annotations(path), min_overlap

    def segment_keyed(
        self, keys: Sequence[str], images: Sequence[Image], boxes: Sequence[Boxes] | None
    ) -> list[list[Mask]]:
        """Masks at the images' sizes; all False for a box that overlaps no annotated mask at ``min_overlap`` IoU."""
        rows: Sequence[Boxes | None] = [None] * len(keys) if boxes is None else boxes
        return [self._masks(k, image.shape[:2], b) for k, image, b in zip(keys, images, rows, strict=True)]

    def _masks(self, key: str, size: tuple[int, ...], boxes: Boxes | None) -> list[Mask]:
        height, width = size
        found = self._index.get(key)
        chosen = [i for i, s in enumerate(found.shapes) if s.has_mask] if found is not None else []
        masks = [draw_mask(found, found.shapes[i], height, width) for i in chosen] if found is not None else []
        if boxes is None:
            return masks
        empty = np.zeros((height, width), bool)
        if found is None or not chosen:
            return [empty] * len(boxes)
        overlap = box_overlaps(boxes, scaled_boxes(found, height, width)[chosen])
        return [masks[int(row.argmax())] if row.max() >= self._min_overlap else empty for row in overlap]


def box_overlaps(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of every pair of xyxy boxes: float64, shape (len(first), len(second)).

    >>> box_overlaps(np.array([[0, 0, 2, 2.0]]), np.array([[0, 0, 2, 2.0], [1, 0, 3, 2]])).round(3).tolist()
    [[1.0, 0.333]]
    """
    first, second = np.asarray(first, np.float64).reshape(-1, 4), np.asarray(second, np.float64).reshape(-1, 4)
    start = np.maximum(first[:, None, :2], second[None, :, :2])
    end = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(end - start, 0), axis=2)
    union = box_areas(first)[:, None] + box_areas(second)[None] - shared
    return np.where(union > 0, shared / np.maximum(union, 1e-12), 0.0)


def scaled_boxes(found: Annotated, height: int, width: int) -> Boxes:
    """The boxes in pixels of an image of ``height`` x ``width``, in the file's order: float32, shape (n, 4)."""
    boxes = np.array([s.box for s in found.shapes], np.float64).reshape(-1, 4)
    return (boxes * np.tile(_factors(found, height, width), 2)).astype(np.float32)


def draw_mask(found: Annotated, shape: Shape, height: int, width: int) -> Mask:
    """The mask of one annotated object, bool, shape (height, width)."""
    import cv2
    from pycocotools import mask as coco

    if shape.run_lengths is not None:
        mask = decode_mask(shape.run_lengths)
        if mask.shape == (height, width):
            return mask
        return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    factors = _factors(found, height, width)
    outlines = [(p * factors).ravel().tolist() for p in shape.polygons]
    return decode_mask(Rle((height, width), coco.merge(coco.frPyObjects(outlines, height, width))["counts"]))


def _factors(found: Annotated, height: int, width: int) -> NDArray[np.float64]:
    """(x, y) factors from the annotation's units to pixels of the image."""
    if found.size is None:
        return np.array([width, height], np.float64)
    noted_height, noted_width = found.size
    factors = np.array([width / noted_width, height / noted_height])
    if abs(noted_width * height - width * noted_height) > 2 * max(noted_width, noted_height, width, height):
        raise AnnotationError(
            f"{found.origin}: annotated at {noted_height}x{noted_width}, the image is {height}x{width} (h x w) and not "
            "a resize of it; use the images that were annotated"
        )
    return factors


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix() if name else name


def _suffixes(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _reader(read: Callable[[Path], Annotated], file: Path) -> Callable[[], Annotated]:
    return lambda: read(file)


def _read_coco(path: Path) -> dict[str, Callable[[], Annotated]]:
    try:
        content = parse_json(path.read_bytes())
        images = {image["id"]: image for image in content["images"]}
        shapes: dict[Any, list[Shape]] = {name: [] for name in images}
        for row in content["annotations"]:
            if not row.get("iscrowd"):
                shapes[row["image_id"]].append(_coco_shape(row, images[row["image_id"]]))
        return {_stem(str(image["file_name"])): _coco_reader(path, image, shapes[k]) for k, image in images.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise AnnotationError(f"{path} is not COCO JSON with images and annotations: {reason[:200]}") from error


def _coco_reader(path: Path, image: Mapping[str, Any], shapes: Sequence[Shape]) -> Callable[[], Annotated]:
    size = _size_of(image)
    marks = image.get("semaug", {})
    found = Annotated(f"{path}: {str(image['file_name'])[:200]}", size, tuple(shapes), marks.get("scale"))
    return lambda: found


def _size_of(image: Mapping[str, Any]) -> tuple[int, int]:
    size = (int(image["height"]), int(image["width"]))
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"image {str(image['file_name'])[:200]!r} has size {size}")
    return size


def _coco_shape(row: Mapping[str, Any], image: Mapping[str, Any]) -> Shape:
    x, y, width, height = map(float, row["bbox"])
    box = _finite_box((x, y, x + width, y + height))
    outline = row.get("segmentation") or []
    if not isinstance(outline, dict):
        polygons = (np.array(p, np.float64).reshape(-1, 2) for p in outline)
        return Shape(box, tuple(_near(p, _size_of(image)) for p in polygons if len(p) >= 3))
    counts = outline["counts"]
    if isinstance(counts, list):
        return Shape(box, (), encode_runs(counts, _size_of(image)))
    rle = Rle((int(outline["size"][0]), int(outline["size"][1])), counts.encode("ascii"))
    mask_area(rle)  # refuses what is no code of its size
    return Shape(box, (), rle)


def _finite_box(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    if not np.isfinite(box).all() or max(map(abs, box)) > _FARTHEST:
        raise ValueError(f"a box has the corners {box}")
    return box


def _near(polygon: Polygon, size: tuple[float, float]) -> Polygon:
    """The polygon, which lies about its image of ``size`` (height, width): filling one takes memory as its outline is
    long."""
    reach = 1 + 2 * max(size)
    if not np.isfinite(polygon).all() or np.abs(polygon).max(initial=0) > reach:
        raise ValueError(f"a polygon reaches beyond {reach:g}, over twice the side of its image")
    return polygon


def _read_yolo(path: Path) -> Annotated:
    shapes = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.split():
            continue
        try:
            values = np.array([float(word) for word in line.split()[1:]])
        except ValueError as error:
            raise AnnotationError(f"{path}:{number}: {error}; write class cx cy w h as shares of the image") from error
        if len(values) not in (4, 5) and (len(values) < 6 or len(values) % 2):
            raise AnnotationError(
                f"{path}:{number}: {len(values) + 1} values; write class cx cy w h, or class x y x y ..."
            )
        if not (np.isfinite(values).all() and values.min() >= -0.5 and values.max() <= 1.5):
            raise AnnotationError(f"{path}:{number}: {line.strip()[:60]!r} is not in shares of the image (0 to 1)")
        shapes.append(_yolo_shape(values))
    return Annotated(str(path), None, tuple(shapes))


def _yolo_shape(values: NDArray[np.float64]) -> Shape:
    if len(values) < 6:  # a fifth value is a confidence
        x, y, width, height = values[:4].tolist()
        return Shape((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    polygon = values.reshape(-1, 2)
    start, end = polygon.min(axis=0).tolist(), polygon.max(axis=0).tolist()
    return Shape((start[0], start[1], end[0], end[1]), (polygon,))


def _read_voc(path: Path) -> Annotated:
    try:
        root = parse_xml(_data(path))
        size = (_number(root, "size/height"), _number(root, "size/width"))
        shapes = tuple(Shape(_finite_box(_voc_box(node))) for node in root.iter("bndbox"))
    except ValueError as error:
        raise AnnotationError(f"{path} is not VOC XML with size and bndbox: {str(error)[:200]}") from error
    if not 1 <= min(size) <= max(size) < _FARTHEST:
        raise AnnotationError(f"{path} says the image is {size[0]:g}x{size[1]:g} (h x w); mend the file")
    return Annotated(str(path), (round(size[0]), round(size[1])), shapes)


def _voc_box(node: Element) -> tuple[float, float, float, float]:
    """VOC counts pixels from 1 and includes the last one."""
    x1, y1, x2, y2 = (_number(node, name) for name in ("xmin", "ymin", "xmax", "ymax"))
    return x1 - 1, y1 - 1, x2, y2


def _number(node: Element, name: str) -> float:
    text = node.findtext(name)
    if text is None:
        raise ValueError(f"no {name}")
    return float(text)


def _data(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error}") from error


def _text(path: Path) -> str:
    try:
        return _data(path).decode()
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} cannot be read: {error}") from error
