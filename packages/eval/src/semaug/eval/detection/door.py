"""``open_detection_set``: from what a user writes to annotated images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from semaug.artifacts.sources.query import parse_spec, whole_number
from semaug.eval.detection.coco import read_coco
from semaug.eval.detection.data import DetectionDataError, DetectionSet
from semaug.eval.detection.voc import read_voc
from semaug.eval.detection.yolo import read_yolo

_PART = ("first", "after")


def open_detection_set(spec: str, *, outlines: bool = False) -> DetectionSet:
    """Annotated images by spec; ``outlines`` reads their shapes too and keeps only objects that have one.

    ``voc:FOLDER?split=trainval``, ``coco:FILE.json?images=FOLDER`` or
    ``yolo:LABELS?images=FOLDER&names=FILE&missing=background|skip``; each also takes ``first=N`` (the first N images)
    and ``after=N`` (all but these). Raises ``DetectionDataError`` or ``SourceError``.
    """
    scheme = spec.split(":", 1)[0]
    if ":" not in spec or scheme not in _SCHEMES:
        raise DetectionDataError(
            f"{spec!r} does not say what it is; write voc:FOLDER?split=trainval, coco:FILE.json?images=FOLDER or "
            "yolo:LABELS?images=FOLDER"
        )
    allowed, read = _SCHEMES[scheme]
    name, options = parse_spec(spec, [*allowed, *_PART])
    found = read(spec, Path(name).expanduser(), options, outlines)
    if outlines and not any(i.objects.outlines for i in found.images):
        raise DetectionDataError(f"{spec} has no outlines; segmentation needs polygons or masks (coco: or yolo:)")
    return _part(spec, found, whole_number(spec, options, "first"), whole_number(spec, options, "after"))


def _part(spec: str, found: DetectionSet, first: int | None, after: int | None) -> DetectionSet:
    if not found.images:
        raise DetectionDataError(f"{spec} names no images; check the file")
    images = found.images[after or 0 : first]
    if not images or (first or 0) < 0 or (after or 0) < 0:
        raise DetectionDataError(f"{spec} leaves none of {len(found)} images; change first and after")
    return replace(found, images=images)


def _voc(spec: str, root: Path, options: dict[str, str], outlines: bool) -> DetectionSet:
    if outlines:
        raise DetectionDataError(f"{spec} has boxes alone; segmentation needs coco: or yolo: with polygons or masks")
    return read_voc(spec, root, options.get("split"))


def _coco(spec: str, file: Path, options: dict[str, str], outlines: bool) -> DetectionSet:
    return read_coco(spec, file, Path(options.get("images", file.parent)).expanduser(), outlines=outlines)


def _yolo(spec: str, labels: Path, options: dict[str, str], outlines: bool) -> DetectionSet:
    missing = options.get("missing", "background")
    if missing not in ("background", "skip"):
        raise DetectionDataError(f"{spec}: missing={missing!r} is not known; write background or skip")
    folder = Path(options.get("images", labels)).expanduser()
    names = Path(options["names"]).expanduser() if "names" in options else None
    return read_yolo(spec, labels, folder, outlines=outlines, names=names, missing=missing)


_SCHEMES: dict[str, tuple[tuple[str, ...], Callable[[str, Path, dict[str, str], bool], DetectionSet]]] = {
    "voc": (("split",), _voc),
    "coco": (("images",), _coco),
    "yolo": (("images", "names", "missing"), _yolo),
}
"""scheme -> (options, reader)."""
