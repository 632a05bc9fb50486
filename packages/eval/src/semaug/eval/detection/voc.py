"""VOC's layout: Annotations/*.xml, ImageSets/Main/SPLIT.txt, JPEGImages/*."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from semaug.artifacts.decode import MAX_PIXELS, SUFFIXES
from semaug.artifacts.outside import parse_xml, read_regular
from semaug.eval.detection.cleaning import Cleaner, RawObject
from semaug.eval.detection.data import AnnotatedImage, DetectionDataError, DetectionSet


def read_voc(spec: str, root: Path, split: str | None) -> DetectionSet:
    """The images of one split of a VOC folder, all annotated ones without ``split``; classes are those it names.

    Coordinates count pixels from 1 and include the last one; ``difficult`` is kept. Raises ``DetectionDataError``.
    """
    cleaner = Cleaner(outlines=False)
    seen: dict[str, int] = {}
    images = _index(root / "JPEGImages")
    found = []
    for name in _names(root, split):
        file = root / "Annotations" / f"{name}.xml"
        if name not in images:
            raise DetectionDataError(f"{root / 'JPEGImages'} has no image {name!r}, which {spec} names; add it")
        found.append(_read_image(file, name, images[name], cleaner, seen))
    order = tuple(sorted(seen))
    places = np.asarray([order.index(name) for name in seen], np.int64)
    renumbered = (replace(i, objects=replace(i.objects, labels=places[i.objects.labels])) for i in found)
    return DetectionSet(spec, tuple(renumbered), order, cleaner.notes())


def _read_image(file: Path, name: str, path: Path, cleaner: Cleaner, seen: dict[str, int]) -> AnnotatedImage:
    try:
        root = parse_xml(read_regular(file))
        size = (round(_number(root, "size/height")), round(_number(root, "size/width")))
        raw = [_object(node, seen) for node in root.findall("object")]
    except (OSError, OverflowError, ValueError) as error:
        reason = str(error)[:200]
        raise DetectionDataError(f"{file} is not VOC XML with size, name and bndbox: {reason}; mend it") from error
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise DetectionDataError(f"{file} says the image is {size[0]}x{size[1]} (height x width); mend it")
    return AnnotatedImage(name, path, size, cleaner.objects(str(file), size, raw))


def _object(node: Element, seen: dict[str, int]) -> RawObject:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    x1, y1, x2, y2 = (_number(node, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax"))
    difficult = (node.findtext("difficult") or "0").strip() == "1"
    return RawObject((x1 - 1, y1 - 1, x2, y2), seen.setdefault(name, len(seen)), difficult=difficult)


def _number(node: Element, name: str) -> float:
    text = node.findtext(name)
    if text is None:
        raise ValueError(f"no {name}")
    return float(text)


def _names(root: Path, split: str | None) -> list[str]:
    for folder in ("Annotations", "JPEGImages"):
        if not (root / folder).is_dir():
            raise DetectionDataError(
                f"{root} has no folder {folder}; give the folder that holds it (VOCdevkit/VOC2007)"
            )
    if split is None:
        names = sorted(p.stem for p in (root / "Annotations").glob("*.xml"))
        where = root / "Annotations"
    else:
        where = root / "ImageSets" / "Main" / f"{split}.txt"
        if not where.is_file():
            known = ", ".join(sorted(p.stem for p in where.parent.glob("*.txt") if "_" not in p.stem)) or "none"
            raise DetectionDataError(f"{where} is not there; the splits of {root} are: {known}")
        names = [line.split()[0] for line in _text(where).splitlines() if line.split()]
    if not names:
        raise DetectionDataError(f"{where} names no images; check the folder")
    return names


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DetectionDataError(f"{path} cannot be read: {error}; mend it") from error


def _index(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.glob("*")) if p.suffix.lower() in SUFFIXES}
