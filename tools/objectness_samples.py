"""Training samples for the objectness network: crops, mosaics and pastes of photographs, labelled cell by cell.

A sample is an image of SIDE x SIDE pixels and its targets. The teacher looks at every sample anew, as it is cropped
and put together, so its labels fit what the network sees ("a good teacher is patient and consistent", Beyer et al.
2022). True polygons and boxes, where given, replace the teacher's opinion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.sources import ImageSource
from semaug.oracles.objectness_network import GRID, MASK_GRID, SIDE

CLASSES = 80
UNKNOWN = 255
"""In masks: nobody knows whether an object is there."""
SMALL = 0.01
"""Objects below this share of the image count half: guidance wants the large ones first."""
NARROW, WIDE = 0.12, 0.5
"""Smallest shares of an image that a crop may show, in varied and in wide samples."""
VISIBLE = 0.4
"""An object of which less than this share is left in a crop is no object of the crop."""


class DenseTeacher(Protocol):
    """A teacher that tells its raw opinion: boxes (n, 4), xyxy in shares, scores (n,), classes (n, 80)."""

    def dense(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Every cell's box, score and class distribution for one RGB uint8 image."""
        ...


class BoxTeacher:
    """Any detector of ours as a teacher: each of its boxes has score 1, and classes stay unknown."""

    def __init__(self, detector: Any) -> None:
        self.detector = detector

    def dense(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Boxes in shares of the image, scores of 1, classes of 0 (no opinion)."""
        boxes = self.detector.detect([image])[0] / np.tile(image.shape[1::-1], 2)
        return boxes.astype(np.float32), np.ones(len(boxes), np.float32), np.zeros((len(boxes), CLASSES), np.float32)


@dataclass(frozen=True, slots=True)
class Objects:
    """True objects of an image: ``polygons`` in shares, each (n, 2), and classes 0-79; ``outlined`` False for boxes."""

    polygons: list[NDArray[np.float64]]
    classes: list[int]
    outlined: bool


@dataclass(frozen=True, slots=True)
class Photograph:
    """One image, its objects where they are known, and its number among the labelled ones (-1: none)."""

    image: NDArray[np.uint8]
    objects: Objects | None
    labelled: int


@dataclass(slots=True)
class Targets:
    """``scores`` (G, G), ``boxes`` (G, G, 4) centre and size in shares, ``classes`` (G, G, 80), ``mask`` uint8 (M, M)
    of 0, 1 and UNKNOWN."""

    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    classes: NDArray[np.float32]
    mask: NDArray[np.uint8]

    @classmethod
    def empty(cls) -> Targets:
        """No object anywhere."""
        cells = (GRID, GRID)
        return cls(
            np.zeros(cells, np.float32),
            np.zeros((*cells, 4), np.float32),
            np.zeros((*cells, CLASSES), np.float32),
            np.zeros((MASK_GRID, MASK_GRID), np.uint8),
        )


_NOT_USED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO = {category: i for i, category in enumerate(c for c in range(1, 91) if c not in _NOT_USED)}


def read_objects(boxes: Path, polygons: Path | None) -> Objects | None:
    """The objects of one image from YOLO-seg polygons (COCO category ids) or else YOLO boxes; None without either."""
    if polygons is not None and polygons.is_file():
        rows = [line.split() for line in polygons.read_text().splitlines() if line.strip()]
        shapes = [np.array(r[1:], float).reshape(-1, 2) for r in rows]
        return Objects(shapes, [_COCO[int(r[0])] for r in rows], outlined=True)
    if not boxes.is_file():
        return None
    rows = [line.split() for line in boxes.read_text().splitlines() if line.strip()]
    corners = []
    for row in rows:
        x, y, w, h = map(float, row[1:5])
        x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        corners.append(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]))
    return Objects(corners, [int(r[0]) for r in rows], outlined=False)


def photographs(source: ImageSource, boxes: Path | None, polygons: Path | None) -> list[Photograph]:
    """Every image of a source, with its true objects when ``boxes`` (or ``polygons``) are folders of YOLO text."""
    found = []
    for i in range(len(source)):
        stem = f"{Path(source.key(i)).stem}.txt"
        objects = read_objects(boxes / stem, polygons / stem if polygons else None) if boxes else None
        if boxes and objects is None:
            objects = Objects([], [], outlined=False)  # COCO writes no file for an image without objects
        found.append(Photograph(source.read(i), objects, i if boxes else -1))
    return found


@dataclass(frozen=True, slots=True)
class Piece:
    """A crop resized to its place: its pixels, and the masks and classes of its true objects (None: unknown)."""

    image: NDArray[np.uint8]
    masks: list[NDArray[np.uint8]] | None
    classes: list[int]
    outlined: bool
    labelled: int


def cut(photograph: Photograph, height: int, width: int, random: np.random.Generator, least: float = NARROW) -> Piece:
    """A random crop of ``least`` to 100% of the image, resized to (height, width); three in ten are the whole image."""
    rows, columns = photograph.image.shape[:2]
    x1, y1, x2, y2 = 0.0, 0.0, 1.0, 1.0
    if random.random() < 0.7:
        area, ratio = random.uniform(least, 1.0), np.exp(random.uniform(-0.5, 0.5))
        w, h = min(1.0, np.sqrt(area * ratio)), min(1.0, np.sqrt(area / ratio))
        x1, y1 = random.uniform(0, 1 - w), random.uniform(0, 1 - h)
        x2, y2 = x1 + w, y1 + h
    a, b, c, d = round(y1 * rows), round(y2 * rows), round(x1 * columns), round(x2 * columns)
    pixels = photograph.image[a : max(b, a + 2), c : max(d, c + 2)]
    shrinks = pixels.shape[0] > height
    image = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    objects = photograph.objects
    if objects is None:
        return Piece(image, None, [], False, photograph.labelled)
    masks, classes = [], []
    for polygon, label in zip(objects.polygons, objects.classes, strict=True):
        mask = _visible(polygon, (x1, y1, x2, y2), height, width)
        if mask is not None:
            masks.append(mask)
            classes.append(label)
    return Piece(image, masks, classes, objects.outlined, photograph.labelled)


def _visible(
    polygon: NDArray[np.float64], crop: tuple[float, float, float, float], height: int, width: int
) -> NDArray[np.uint8] | None:
    """The object's mask in the crop; None where too little of it is left."""
    x1, y1, x2, y2 = crop
    moved = (polygon - [x1, y1]) / [x2 - x1, y2 - y1] * [width, height]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(moved).astype(np.int32)], 1)
    whole = cv2.contourArea(moved.astype(np.float32))
    return mask if mask.sum() >= max(16, VISIBLE * whole) else None


def paste(onto: NDArray[np.uint8], piece: Piece, random: np.random.Generator) -> list[tuple[NDArray[np.uint8], int]]:
    """Copy up to three outlined objects of ``piece`` at random places and sizes onto an image (changed in place).

    Returns their masks and classes (Ghiasi et al. 2021, "Simple Copy-Paste").
    """
    pasted: list[tuple[NDArray[np.uint8], int]] = []
    if piece.masks is None or not piece.outlined:
        return pasted
    large = [k for k, m in enumerate(piece.masks) if m.sum() > 0.01 * m.size]
    for k in random.permutation(large)[: random.integers(1, 4)] if large else []:
        mask = piece.masks[int(k)]
        scale = random.uniform(0.5, 1.2)
        shift = random.uniform(-0.3, 0.3, 2) * SIDE
        middle = np.array([np.nonzero(mask)[1].mean(), np.nonzero(mask)[0].mean()])
        offset = SIDE / 2 + shift - scale * middle
        matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
        moved = cv2.warpAffine(mask, matrix, (SIDE, SIDE), flags=cv2.INTER_NEAREST)
        if moved.sum() < max(0.005 * moved.size, 0.4 * scale**2 * mask.sum()):
            continue
        pixels = cv2.warpAffine(piece.image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
        soft = cv2.GaussianBlur(moved.astype(np.float32), (3, 3), 0)[..., None]
        onto[:] = np.round(soft * pixels + (1 - soft) * onto).astype(np.uint8)
        pasted = [(m & (1 - moved), c) for m, c in pasted] + [(moved, piece.classes[int(k)])]
    return [(m, c) for m, c in pasted if m.sum() > 0.003 * m.size]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, and which labelled photographs it shows."""

    image: NDArray[np.uint8]
    targets: Targets
    shows: tuple[int, ...]


def make_sample(
    photos: Sequence[Photograph],
    backgrounds: Sequence[Photograph],
    teacher: DenseTeacher,
    seed: int,
    number: int,
    *,
    wide: bool = False,
) -> Sample:
    """Sample ``number``: a crop (half), a mosaic of two or four (three in ten), or objects pasted onto a crop; of the
    ``wide`` ones, crops that show most of their image instead of crops and mosaics."""
    random = generator(seed, "objectness-sample", number, "")
    kind = random.random()
    first = photos[number % len(photos)]
    if kind < (0.8 if wide else 0.5):
        pieces = [cut(first, SIDE, SIDE, random, WIDE if wide else NARROW)]
        places: list[tuple[int, ...]] = [(0, 0, SIDE, SIDE)]
    else:
        pieces, places = _mosaic(first, photos, random) if kind < 0.8 else _one(backgrounds, random)
    canvas = np.empty((SIDE, SIDE, 3), np.uint8)
    for piece, (y, x, h, w) in zip(pieces, places, strict=True):
        canvas[y : y + h, x : x + w] = piece.image
    added: list[tuple[NDArray[np.uint8], int]] = []
    shows = [p.labelled for p in pieces]
    if kind >= 0.8:
        piece = cut(first, SIDE, SIDE, random)
        added = paste(canvas, piece, random)
        shows.append(piece.labelled if added else -1)
    targets = teacher_targets(teacher, canvas)
    for piece, place in zip(pieces, places, strict=True):
        _set_truth(targets, piece, place, [m for m, _ in added])
    for mask, label in added:
        set_object(targets, mask, label, outlined=True)
    return Sample(canvas, targets, tuple(sorted({s for s in shows if s >= 0})))


def _one(photos: Sequence[Photograph], random: np.random.Generator) -> tuple[list[Piece], list[tuple[int, ...]]]:
    return [cut(photos[random.integers(len(photos))], SIDE, SIDE, random)], [(0, 0, SIDE, SIDE)]


def _mosaic(
    first: Photograph, photos: Sequence[Photograph], random: np.random.Generator
) -> tuple[list[Piece], list[tuple[int, ...]]]:
    y, x = (int(random.uniform(0.3, 0.7) * SIDE) for _ in range(2))
    places: list[tuple[int, ...]]
    match int(random.integers(3)):
        case 0:
            places = [(0, 0, SIDE, x), (0, x, SIDE, SIDE - x)]
        case 1:
            places = [(0, 0, y, SIDE), (y, 0, SIDE - y, SIDE)]
        case _:
            rest_y, rest_x = SIDE - y, SIDE - x
            places = [(0, 0, y, x), (0, x, y, rest_x), (y, 0, rest_y, x), (y, x, rest_y, rest_x)]
    chosen = [first, *(photos[random.integers(len(photos))] for _ in places[1:])]
    return [cut(p, h, w, random) for p, (_, _, h, w) in zip(chosen, places, strict=True)], places


def teacher_targets(teacher: DenseTeacher, image: NDArray[np.uint8]) -> Targets:
    """What the teacher thinks, on our grid: each cell takes the best-scored of the boxes whose centre lies in it."""
    boxes, scores, classes = teacher.dense(image)
    targets = Targets.empty()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    cells = np.clip((centres * GRID).astype(int), 0, GRID - 1)
    order = np.argsort(scores, kind="stable")  # the best is written last
    order = order[scores[order] > 0.02]
    x, y = cells[order, 0], cells[order, 1]
    size = boxes[order, 2:] - boxes[order, :2]
    targets.boxes[y, x] = np.concatenate([centres[order], size], axis=1)
    targets.scores[y, x] = scores[order] * _weight(size.prod(axis=1))
    targets.classes[y, x] = classes[order]
    for box in boxes[scores > 0.1]:
        a, b, c, d = np.clip(np.round(box * MASK_GRID), 0, MASK_GRID).astype(int)
        targets.mask[b:d, a:c] = UNKNOWN  # background only where the teacher sees no box at all
    return targets


def _weight(area: Any) -> Any:
    return np.where(np.asarray(area) < SMALL, 0.5, 1.0)


def _set_truth(targets: Targets, piece: Piece, place: tuple[int, ...], above: list[NDArray[np.uint8]]) -> None:
    """Replace the teacher's opinion by the truth within a piece whose objects are known."""
    if piece.masks is None:
        return
    y, x, h, w = place
    inside = _cells_of(place, GRID)
    targets.scores[inside], targets.classes[inside] = 0.0, 0.0
    targets.mask[_cells_of(place, MASK_GRID)] = 0 if piece.outlined else UNKNOWN
    hidden = np.clip(sum(above, np.zeros((SIDE, SIDE), np.uint8)), 0, 1)
    order = sorted(range(len(piece.masks)), key=lambda k: -int(piece.masks[k].sum()))  # type: ignore[index]
    for k in order:  # the smaller object owns a cell
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[y : y + h, x : x + w] = piece.masks[k]
        set_object(targets, mask & (1 - hidden), piece.classes[k], outlined=piece.outlined)


def _cells_of(place: tuple[int, ...], grid: int) -> tuple[slice, slice]:
    y, x, h, w = (v * grid / SIDE for v in place)
    return slice(int(np.ceil(y - 0.5)), int(np.ceil(y + h - 0.5))), slice(
        int(np.ceil(x - 0.5)), int(np.ceil(x + w - 0.5))
    )


def set_object(targets: Targets, mask: NDArray[np.uint8], label: int, *, outlined: bool) -> None:
    """Write one true object: the cells near its middle get its tight box, the mask's cells its outline."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if len(rows) == 0:
        return
    x1, x2, y1, y2 = columns[0] / SIDE, (columns[-1] + 1) / SIDE, rows[0] / SIDE, (rows[-1] + 1) / SIDE
    cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    middle = (np.arange(GRID) + 0.5) / GRID
    near_x = np.abs(middle - cx) <= max(0.5 / GRID, 0.12 * w)
    near_y = np.abs(middle - cy) <= max(0.5 / GRID, 0.12 * h)
    cells = near_y[:, None] & near_x[None, :]
    targets.scores[cells] = _weight(w * h)
    targets.boxes[cells] = (cx, cy, w, h)
    targets.classes[cells] = np.eye(CLASSES, dtype=np.float32)[label]
    if outlined:
        share = cv2.resize(mask.astype(np.float32), (MASK_GRID, MASK_GRID), interpolation=cv2.INTER_AREA)
        targets.mask[share >= 0.5] = 1


FIELDS = ("images", "scores", "boxes", "classes", "mask", "shows")


def write_samples(
    out: Path,
    photos: list[Photograph],
    backgrounds: list[Photograph],
    teacher: DenseTeacher,
    count: int,
    seed: int,
    labelled: int,
    *,
    wide: bool = False,
) -> None:
    """Write ``count`` samples into the folder ``out``, one ``.npy`` a field; goes on where a stopped run was."""
    if not photos:
        raise InvalidOption(f"{out}: no photograph to make samples of; give a folder with images")
    arrays = _open_arrays(out, count, max(1, labelled))
    done_file = out / "done.txt"
    start = int(done_file.read_text()) if done_file.exists() else 0
    for number in range(start, count):
        sample = make_sample(photos, backgrounds or photos, teacher, seed, number, wide=wide)
        arrays["images"][number] = sample.image
        for name in ("scores", "boxes", "classes", "mask"):
            arrays[name][number] = getattr(sample.targets, name)
        arrays["shows"][number, list(sample.shows)] = True
        if (number + 1) % 500 == 0 or number + 1 == count:
            for array in arrays.values():
                array.flush()
            done_file.write_text(str(number + 1))
            print(f"{out}: {number + 1} of {count} samples", flush=True)


def _open_arrays(out: Path, count: int, labelled: int) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "images": ((count, SIDE, SIDE, 3), np.uint8),
        "scores": ((count, GRID, GRID), np.float16),
        "boxes": ((count, GRID, GRID, 4), np.float16),
        "classes": ((count, GRID, GRID, CLASSES), np.float16),
        "mask": ((count, MASK_GRID, MASK_GRID), np.uint8),
        "shows": ((count, labelled), np.bool_),
    }
    arrays = {}
    for name, (shape, dtype) in shapes.items():
        path = out / f"{name}.npy"
        mode = "r+" if path.exists() else "w+"
        arrays[name] = np.lib.format.open_memmap(
            path, mode, dtype if mode == "w+" else None, shape if mode == "w+" else None
        )
        if arrays[name].shape != shape:
            raise InvalidOption(
                f"{path} holds {arrays[name].shape}, {shape} was asked for; delete {out} or ask for that"
            )
    return arrays


def read_samples(folder: Path) -> dict[str, NDArray[Any]]:
    """The fields of a folder of samples, memory-mapped."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in FIELDS}
