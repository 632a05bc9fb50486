"""Named sets that are image files with lists beside them: DTD, Flowers, Pets, Food-101, Cars, APTOS 2019."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from semaug.artifacts.errors import SourceError
from semaug.artifacts.sources.files import FileSource
from semaug.artifacts.sources.named.layout import Request, held_out, read_mat, take
from semaug.artifacts.sources.query import whole_number

APTOS_GRADES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR")
APTOS_HELD_OUT = 0.2
PARTITIONS = 10
"""DTD's splits into thirds."""


def parts_of(split: str) -> tuple[str, ...]:
    """``trainval`` is both of the published parts.

    >>> parts_of("trainval")
    ('train', 'val')
    """
    return ("train", "val") if split == "trainval" else (split,)


def open_dtd(request: Request) -> FileSource:
    """Describable Textures: ``partition`` 1 to 10 (1 by default) chooses one of its splits into thirds."""
    chosen = whole_number(request.spec, dict(request.options), "partition")
    partition = 1 if chosen is None else chosen
    if not 1 <= partition <= PARTITIONS:
        raise SourceError(f"{request.spec}: partition={partition}; DTD has partitions 1 to {PARTITIONS}")
    folder = request.base("labels", "dtd", "dtd/dtd")
    names: list[str] = []
    for part in parts_of(request.split):
        names += request.lines(folder / "labels" / f"{part}{partition}.txt")
    classes = sorted({name.split("/")[0] for name in names})
    labels = [classes.index(name.split("/")[0]) for name in names]
    return request.files(request.require(folder / "images"), names, labels, classes)


def open_flowers102(request: Request) -> FileSource:
    """Oxford Flowers 102, with the names of its categories."""
    folder = request.base("setid.mat", "flowers-102")
    sets = read_mat(request, folder / "setid.mat")
    labels = read_mat(request, folder / "imagelabels.mat")
    names = {"train": ("trnid",), "val": ("valid",), "trainval": ("trnid", "valid"), "test": ("tstid",)}
    try:
        numbers = [int(i) for name in names[request.split] for i in np.ravel(sets[name])]
        codes = np.ravel(labels["labels"])
        chosen = [int(codes[number - 1]) - 1 for number in numbers]
    except (KeyError, IndexError, ValueError) as error:
        raise request.broken(folder / "setid.mat", f"and imagelabels.mat do not fit together ({error})") from error
    classes = flower_names()
    if not all(0 <= label < len(classes) for label in chosen):
        raise request.broken(folder / "imagelabels.mat", f"has labels outside 1 to {len(classes)}")
    return request.files(request.require(folder / "jpg"), [f"image_{n:05d}.jpg" for n in numbers], chosen, classes)


@cache
def flower_names() -> tuple[str, ...]:
    """The 102 categories, in the order of their numbers."""
    return tuple((files(__package__) / "flowers102.txt").read_text("utf-8").split("\n")[:-1])


def open_pets(request: Request) -> FileSource:
    """Oxford-IIIT Pets: 37 breeds of cats and dogs, named by their files."""
    folder = request.base("annotations", "oxford-iiit-pet")
    path = folder / "annotations" / f"{request.split}.txt"
    names, labels, breeds = [], [], {}
    for line in request.lines(path):
        if line.startswith("#"):
            continue
        words = line.split()
        if len(words) < 2 or not words[1].isdecimal() or int(words[1]) < 1:
            raise request.broken(path, f"has the line {line[:60]!r}, not a name and a class number")
        names.append(f"{words[0]}.jpg")
        labels.append(int(words[1]) - 1)
        breeds[labels[-1]] = " ".join(part.capitalize() for part in words[0].split("_")[:-1])
    classes = [breeds.get(i, f"class {i + 1}") for i in range(max(breeds, default=-1) + 1)]
    return request.files(request.require(folder / "images"), names, labels, classes)


def open_food101(request: Request) -> FileSource:
    """Food-101; its training images are noisy on purpose."""
    folder = request.base("meta/classes.txt", "food-101")
    classes = sorted(request.lines(folder / "meta" / "classes.txt"))
    path = folder / "meta" / f"{request.split}.txt"
    names = request.lines(path)
    number = {name: i for i, name in enumerate(classes)}
    unknown = [name for name in names if name.split("/")[0] not in number]
    if unknown:
        raise request.broken(path, f"lists {unknown[0]!r}, whose class is not in meta/classes.txt")
    labels = [number[name.split("/")[0]] for name in names]
    return request.files(request.require(folder / "images"), [f"{name}.jpg" for name in names], labels, classes)


def open_cars(request: Request) -> FileSource:
    """Stanford Cars: 196 models; test labels are in ``cars_test_annos_withlabels.mat``."""
    folder = request.base("devkit", "stanford_cars")
    train = request.split == "train"
    lists = folder / "devkit" / "cars_train_annos.mat" if train else folder / "cars_test_annos_withlabels.mat"
    if not train and not lists.exists():
        lists = folder / "devkit" / "cars_test_annos_withlabels.mat"
    rows = read_mat(request, lists).get("annotations")
    classes = read_mat(request, folder / "devkit" / "cars_meta.mat").get("class_names")
    if rows is None or not {"fname", "class"} <= set(rows.dtype.names or ()):
        raise request.broken(lists, "has no annotations with fname and class")
    if classes is None:
        raise request.broken(folder / "devkit" / "cars_meta.mat", "has no class_names")
    names = [str(name) for name in np.ravel(rows["fname"])]
    labels = [int(number) - 1 for number in np.ravel(rows["class"])]
    texts = [str(name) for name in np.ravel(classes)]
    if not all(0 <= label < len(texts) for label in labels):
        raise request.broken(lists, f"has classes outside 1 to {len(texts)}")
    return request.files(request.require(folder / f"cars_{request.split}"), names, labels, texts)


def open_aptos2019(request: Request) -> FileSource:
    """APTOS 2019's labelled images, of which a fifth of each grade is held out as ``test``; ``seed`` draws it."""
    folder = request.base("train.csv", "aptos2019", "aptos2019-blindness-detection")
    ids, grades = _grades(request, folder / "train.csv")
    seed = whole_number(request.spec, dict(request.options), "seed") or 0
    kept, out = held_out(grades, APTOS_HELD_OUT, seed, "aptos2019-split")
    rows = {"train": kept, "test": out, "all": range(len(ids))}[request.split]
    names, labels = take(rows, [f"{name}.png" for name in ids], grades)
    return request.files(request.require(folder / "train_images"), names, labels, APTOS_GRADES)


def _grades(request: Request, path: Path) -> tuple[list[str], list[int]]:
    rows = csv.DictReader(request.lines(path))
    if not {"id_code", "diagnosis"} <= set(rows.fieldnames or ()):
        raise request.broken(path, f"has the columns {', '.join(rows.fieldnames or ())}, not id_code and diagnosis")
    ids, grades = [], []
    for row in rows:
        if not row["id_code"] or row["diagnosis"] not in ("0", "1", "2", "3", "4"):
            raise request.broken(path, f"gives {row['id_code']!r} the diagnosis {row['diagnosis']!r}, not 0 to 4")
        ids.append(row["id_code"])
        grades.append(int(row["diagnosis"]))
    return ids, grades
