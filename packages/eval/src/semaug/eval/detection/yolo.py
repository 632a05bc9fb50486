"""YOLO's text files: one of an image's name, a line an object, in shares of the image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semaug.artifacts.decode import SUFFIXES, image_size
from semaug.artifacts.errors import UnreadableImage
from semaug.eval.detection.cleaning import Cleaner, RawObject
from semaug.eval.detection.data import AnnotatedImage, DetectionDataError, DetectionSet

_MOST_CLASSES = 1 << 31
_HEADER = 1 << 20  # bytes that hold the size of an image; a larger header is read whole


@dataclass(frozen=True, slots=True)
class _Line:
    label: int
    values: tuple[float, ...]  # cx cy w h, or x y x y ...


def read_yolo(
    spec: str, labels: Path, folder: Path, *, outlines: bool, names: Path | None = None, missing: str = "background"
) -> DetectionSet:
    """Images of ``folder``, labelled by the text file of their name (``class cx cy w h`` or ``class x y x y ...``).

    ``names`` is a file of class names, one a line; without it classes are called by their numbers. An image without a
    file has no objects (``missing`` "background") or is left out ("skip"); an empty file always means no objects.
    Raises ``DetectionDataError``, also where no file of labels has an image.
    """
    images, files = _index(folder, SUFFIXES), _index(labels, {".txt"})
    if not files:
        raise DetectionDataError(f"{labels} holds no .txt files; give the folder of labels")
    strays = sorted(files.keys() - images.keys())
    if len(strays) == len(files):
        raise DetectionDataError(f"{files[strays[0]]} has no image of its name in {folder}; give images=FOLDER")
    notes = _strays([files.pop(name) for name in strays]) + _missing(images.keys() - files.keys(), missing)
    lines = {name: _lines(file) for name, file in files.items()}
    numbers, class_names = _classes(labels, lines, names)
    cleaner, found = Cleaner(outlines), []
    for name in sorted(images if missing == "background" else files):
        size = _size(images[name])
        origin = str(files.get(name, images[name]))
        raw = [_raw(line, size, numbers, outlines) for line in lines.get(name, ())]
        found.append(AnnotatedImage(name, images[name], size, cleaner.objects(origin, size, raw)))
    return DetectionSet(spec, tuple(found), class_names, cleaner.notes() + notes)


def _strays(files: list[Path]) -> tuple[str, ...]:
    return (f"{len(files)} files of labels have no image and were left out (the first: {files[0]})",) if files else ()


def _missing(names: set[str], missing: str) -> tuple[str, ...]:
    if not names:
        return ()
    what = {
        "background": "count as images without objects (missing=skip leaves them out)",
        "skip": "were left out",
    }
    return (f"{len(names)} images have no file of labels and {what[missing]}",)


def _lines(file: Path) -> tuple[_Line, ...]:
    try:
        texts = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DetectionDataError(f"{file} cannot be read: {error}; mend it") from error
    return tuple(_line(f"{file}:{number}", text) for number, text in enumerate(texts, 1) if text.split())


def _line(origin: str, text: str) -> _Line:
    words = text.split()
    try:
        label, values = float(words[0]), tuple(map(float, words[1:]))
    except ValueError as error:
        raise DetectionDataError(f"{origin}: {error}; write class cx cy w h, or class x y x y ...") from error
    if not 0 <= label < _MOST_CLASSES or label != int(label):
        raise DetectionDataError(f"{origin}: class {words[0][:40]!r} is not a whole number from 0 up; mend it")
    if len(values) < 4 or len(values) % 2:
        raise DetectionDataError(
            f"{origin}: {len(words)} values; write class cx cy w h, or class and a polygon of three points or more"
        )
    if not (np.isfinite(values).all() and min(values) >= -0.5 and max(values) <= 1.5):
        raise DetectionDataError(f"{origin}: {text.strip()[:60]!r} is not in shares of the image (0 to 1); mend it")
    return _Line(int(label), values)


def _raw(line: _Line, size: tuple[int, int], numbers: dict[int, int], outlines: bool) -> RawObject:
    height, width = size
    if len(line.values) == 4:
        x, y, w, h = np.asarray(line.values) * [width, height, width, height]
        return RawObject((x - w / 2, y - h / 2, x + w / 2, y + h / 2), numbers[line.label])
    polygon = np.asarray(line.values, np.float64).reshape(-1, 2) * [width, height]
    (x1, y1), (x2, y2) = polygon.min(0).tolist(), polygon.max(0).tolist()
    return RawObject((x1, y1, x2, y2), numbers[line.label], polygons=(polygon,))


def _classes(
    labels: Path, lines: dict[str, tuple[_Line, ...]], names: Path | None
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Where a class number stands among the class names, and these."""
    present = sorted({line.label for found in lines.values() for line in found})
    if names is None:
        return {number: place for place, number in enumerate(present)}, tuple(map(str, present))
    try:
        known = [line.strip() for line in names.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DetectionDataError(f"{names} cannot be read: {error}; write one class name a line") from error
    if present and present[-1] >= len(known):
        raise DetectionDataError(f"{labels} has class {present[-1]} and {names} names {len(known)}; name every class")
    if len(set(known)) < len(known):
        raise DetectionDataError(f"{names} names a class twice; give each class a name of its own")
    return {number: number for number in range(len(known))}, tuple(known)


def _size(path: Path) -> tuple[int, int]:
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER)
        try:
            return image_size(head)
        except UnreadableImage:
            return image_size(path.read_bytes())
    except (OSError, UnreadableImage) as error:
        raise DetectionDataError(f"{path} cannot be read: {error}; mend it or leave it out") from error


def _index(folder: Path, suffixes: set[str] | frozenset[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise DetectionDataError(f"{folder} is not a folder; check the path")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    named = {p.relative_to(folder).with_suffix("").as_posix(): p for p in found}
    if len(named) < len(found):
        raise DetectionDataError(f"{folder} has two files of one name with other endings; keep one of them")
    return named
