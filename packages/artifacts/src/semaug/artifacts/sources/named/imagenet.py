"""ImageNet and the sets cut from it or made beside it; their classes are WordNet ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from semaug.artifacts.decode import SUFFIXES
from semaug.artifacts.draws import generator
from semaug.artifacts.errors import SourceError
from semaug.artifacts.sources.files import FileSource
from semaug.artifacts.sources.named.layout import Request, held_out, take
from semaug.artifacts.sources.query import whole_number

PER_CLASS = 50
"""Images a class of the balanced subset: 50,000 of the 1,000 classes."""
SKETCH_HELD_OUT = 0.2


def open_imagenet(request: Request) -> FileSource:
    """ImageNet-1k as class folders below ``train`` and ``val``; the same images and keys as those folders."""
    folder = request.base(request.split, "imagenet", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC") / request.split
    return _class_folders(request, folder, _folders(request, folder))


def open_imagenet100(request: Request) -> FileSource:
    """The 100 classes that CMC drew (Tian et al. 2020), or those that the file ``classes`` lists, one a line.

    The folder may hold more classes; all of the list must be there.
    """
    wanted = imagenet100_classes()
    if "classes" in request.options:
        wanted = tuple(sorted(set(request.lines(Path(request.options["classes"]).expanduser()))))
    folder = request.base(request.split, "imagenet100", "imagenet", "ILSVRC/Data/CLS-LOC") / request.split
    missing = sorted(set(wanted) - set(_folders(request, folder)))
    if missing:
        raise SourceError(
            f"{request.spec}: {folder} has {len(wanted) - len(missing)} of the {len(wanted)} classes and not "
            f"{missing[0]}; give another list of classes with classes=FILE, one a line"
        )
    return _class_folders(request, folder, wanted)


@cache
def imagenet100_classes() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-100, sorted."""
    return tuple(sorted((files(__package__) / "imagenet100.txt").read_text("utf-8").split()))


def open_imagenet50k(request: Request) -> FileSource:
    """The same number of training images of every class: ``per_class`` (50) drawn by ``seed``.

    ``boxes`` is a folder of ImageNet's box annotations (``WNID/IMAGE.xml``): images without one are not drawn, so
    that every variant of a study, true boxes included, sees the same images (spec S5). ``val`` is left whole.
    """
    folder = request.base(request.split, "imagenet", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC") / request.split
    classes = _folders(request, folder)
    if request.split == "val":
        return _class_folders(request, folder, classes)
    options = dict(request.options)
    count = whole_number(request.spec, options, "per_class")
    count = PER_CLASS if count is None else count
    if count < 1:
        raise SourceError(f"{request.spec}: per_class={count}; give at least 1")
    seed = whole_number(request.spec, options, "seed") or 0
    boxes = Path(options["boxes"]).expanduser() if "boxes" in options else None
    if boxes is not None:
        request.require(boxes)
    return _class_folders(request, folder, classes, lambda w, names: _drawn(request, w, names, count, seed, boxes))


def _drawn(request: Request, wnid: str, names: list[str], count: int, seed: int, boxes: Path | None) -> list[str]:
    if boxes is not None:
        names = [name for name in names if (boxes / wnid / f"{Path(name).stem}.xml").exists()]
    if len(names) < count:
        which = "with a box annotation " if boxes is not None else ""
        raise SourceError(f"{request.spec}: {wnid} has {len(names)} images {which}for per_class={count}; lower it")
    chosen = generator(seed, "balanced-subset", key=wnid).permutation(len(names))[:count]
    return [names[i] for i in sorted(chosen.tolist())]


def open_sketch(request: Request) -> FileSource:
    """ImageNet-Sketch (Wang et al. 2019), which has one split: a fifth of each class is held out as ``test``."""
    below = (request.root / name for name in ("sketch", "imagenet-sketch"))
    folder = next((place for place in below if place.is_dir()), request.root)
    found = _class_folders(request, folder, _folders(request, folder))
    if request.split == "all":
        return found
    labels = [found.label(i) or 0 for i in range(len(found))]
    seed = whole_number(request.spec, dict(request.options), "seed") or 0
    kept, out = held_out(labels, SKETCH_HELD_OUT, seed, "sketch-split")
    names, codes = take(kept if request.split == "train" else out, [found.key(i) for i in range(len(found))], labels)
    return request.files(folder, names, codes, found.class_names)


def open_imagenette(request: Request) -> FileSource:
    """ImageNette: ten easy classes; full size, 320 or 160 pixels, whichever is there."""
    names = ("imagenette2", "imagenette2-320", "imagenette2-160", "imagenette")
    folder = request.base(request.split, *names) / request.split
    return _class_folders(request, folder, _folders(request, folder))


def open_tiny_imagenet(request: Request) -> FileSource:
    """Tiny-ImageNet: 200 classes of 64 pixels; ``val`` has its labels in ``val_annotations.txt``, ``test`` none."""
    folder = request.base("wnids.txt", "tiny-imagenet-200")
    classes = sorted(request.lines(folder / "wnids.txt"))
    number = {wnid: i for i, wnid in enumerate(classes)}
    if request.split == "train":
        names, labels = [], []
        for wnid in classes:
            found = _images(request.require(folder / "train" / wnid / "images"))
            names += [f"train/{wnid}/images/{name}" for name in found]
            labels += [number[wnid]] * len(found)
    elif request.split == "val":
        names, labels = _annotated(request, folder / "val" / "val_annotations.txt", number)
    else:
        names = [f"test/images/{name}" for name in _images(request.require(folder / "test" / "images"))]
        labels, classes = [-1] * len(names), []
    return request.files(folder, names, labels, classes)


def _annotated(request: Request, path: Path, number: dict[str, int]) -> tuple[list[str], list[int]]:
    names, labels = [], []
    for line in request.lines(path):
        words = line.split()
        if len(words) < 2 or words[1] not in number:
            raise request.broken(path, f"has the line {line[:60]!r}, not a file and one of the classes of wnids.txt")
        names.append(f"val/images/{words[0]}")
        labels.append(number[words[1]])
    return names, labels


def _folders(request: Request, folder: Path) -> list[str]:
    """The class folders in ``folder``, sorted; raises ``SourceError`` where there are none."""
    found = sorted(e.name for e in os.scandir(request.require(folder)) if e.is_dir() and not e.name.startswith("."))
    if not found:
        raise SourceError(
            f"{request.spec}: {folder} has no class folders; expected in {request.root}: {request.layout}"
        )
    return found


def _images(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if Path(e.name).suffix.lower() in SUFFIXES and e.name[0] != ".")


def _class_folders(
    request: Request,
    folder: Path,
    classes: Sequence[str],
    choose: Callable[[str, list[str]], list[str]] = lambda wnid, names: names,
) -> FileSource:
    """The images in the folders ``classes`` below ``folder``, or those that ``choose`` leaves of each."""
    names: list[str] = []
    labels: list[int] = []
    for number, wnid in enumerate(classes):
        found = choose(wnid, _images(folder / wnid))
        names += [f"{wnid}/{name}" for name in found]
        labels += [number] * len(found)
    return request.files(folder, names, labels, classes)
