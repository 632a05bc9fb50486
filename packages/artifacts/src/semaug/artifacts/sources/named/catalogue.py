"""The table of named data sets, and the way from a spec to the reader of one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from semaug.artifacts.errors import SourceError
from semaug.artifacts.sources.base import Source
from semaug.artifacts.sources.named import arrays, imagenet, lists
from semaug.artifacts.sources.named.layout import Open, Request
from semaug.artifacts.sources.query import parse_spec, write_spec


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A data set: how it is opened, its splits (those that papers train and test on first), and what lies in its root.

    ``options`` are its own, beside ``root``.
    """

    title: str
    open: Open
    splits: tuple[str, ...]
    layout: str
    options: tuple[str, ...] = ()

    @property
    def train(self) -> str:
        """The split that probes are fitted on."""
        return self.splits[0]

    @property
    def test(self) -> str:
        """The split that they are scored on."""
        return self.splits[1]


_CLASS_FOLDERS = "train/WNID/*.JPEG and val/WNID/*.JPEG"

NAMED_SETS: Mapping[str, NamedSet] = {
    "cifar10": NamedSet(
        "CIFAR-10",
        arrays.open_cifar10,
        ("train", "test"),
        "cifar-10-batches-py (or cifar-10-batches-bin) with batches.meta, data_batch_1 to 5 and test_batch",
    ),
    "cifar100": NamedSet(
        "CIFAR-100",
        arrays.open_cifar100,
        ("train", "test"),
        "cifar-100-python (or cifar-100-binary) with meta, train and test",
    ),
    "stl10": NamedSet(
        "STL-10",
        arrays.open_stl10,
        ("train", "test", "unlabeled"),
        "stl10_binary with train_X.bin, train_y.bin, test_X.bin, test_y.bin, class_names.txt (unlabeled_X.bin)",
    ),
    "dtd": NamedSet(
        "Describable Textures",
        lists.open_dtd,
        ("trainval", "test", "train", "val"),
        "dtd with images/CLASS/*.jpg and labels/train1.txt, val1.txt, test1.txt",
        ("partition",),
    ),
    "flowers102": NamedSet(
        "Oxford Flowers 102",
        lists.open_flowers102,
        ("trainval", "test", "train", "val"),
        "flowers-102 with jpg/image_00001.jpg..., imagelabels.mat and setid.mat",
    ),
    "pets": NamedSet(
        "Oxford-IIIT Pets",
        lists.open_pets,
        ("trainval", "test"),
        "oxford-iiit-pet with images/*.jpg and annotations/trainval.txt, test.txt",
    ),
    "food101": NamedSet(
        "Food-101",
        lists.open_food101,
        ("train", "test"),
        "food-101 with images/CLASS/*.jpg and meta/classes.txt, train.txt, test.txt",
    ),
    "cars": NamedSet(
        "Stanford Cars",
        lists.open_cars,
        ("train", "test"),
        "stanford_cars with cars_train, cars_test, devkit/cars_meta.mat, devkit/cars_train_annos.mat and "
        "cars_test_annos_withlabels.mat",
    ),
    "pathmnist": NamedSet(
        "PathMNIST",
        arrays.open_pathmnist,
        ("train", "test", "val"),
        "pathmnist.npz (28 pixels), pathmnist_64.npz, pathmnist_128.npz or pathmnist_224.npz",
        ("size",),
    ),
    "aptos2019": NamedSet(
        "APTOS 2019",
        lists.open_aptos2019,
        ("train", "test", "all"),
        "train.csv (id_code, diagnosis) and train_images/*.png",
        ("seed",),
    ),
    "imagenet": NamedSet("ImageNet-1k", imagenet.open_imagenet, ("train", "val"), _CLASS_FOLDERS),
    "imagenet100": NamedSet(
        "ImageNet-100", imagenet.open_imagenet100, ("train", "val"), _CLASS_FOLDERS, ("classes",)
    ),
    "imagenet50k": NamedSet(
        "ImageNet-1k, balanced",
        imagenet.open_imagenet50k,
        ("train", "val"),
        _CLASS_FOLDERS,
        ("per_class", "seed", "boxes"),
    ),
    "sketch1k": NamedSet(
        "ImageNet-Sketch", imagenet.open_sketch, ("train", "test", "all"), "sketch/WNID/*.JPEG", ("seed",)
    ),
    "tiny-imagenet": NamedSet(
        "Tiny-ImageNet",
        imagenet.open_tiny_imagenet,
        ("train", "val", "test"),
        "tiny-imagenet-200 with wnids.txt, train/WNID/images/*.JPEG, val/images and val/val_annotations.txt",
    ),
    "imagenette": NamedSet(
        "ImageNette", imagenet.open_imagenette, ("train", "val"), "imagenette2 (or -320, -160) with " + _CLASS_FOLDERS
    ),
}  # fmt: skip
"""Name in a spec -> data set."""
_PATHS = frozenset({"boxes", "classes"})


def open_named(spec: str) -> Source:
    """``NAME:SPLIT?root=FOLDER&option=value``; raises ``SourceError`` that shows what is expected in the folder."""
    name, colon, _ = spec.partition("?")[0].partition(":")
    known = NAMED_SETS[name]
    split, options = parse_spec(spec if colon else f"{name}:{spec.removeprefix(name)}", ("root", *known.options))
    split = split or known.train
    if split not in known.splits:
        near = difflib.get_close_matches(split, known.splits, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known.splits)}"
        raise SourceError(f"{spec}: {known.title} has no split {split!r}; {hint}")
    if not options.get("root"):
        raise SourceError(f"{spec} needs root=FOLDER, a folder with {known.layout}")
    root = Path(options.pop("root")).expanduser().resolve()
    if not root.is_dir():
        raise SourceError(f"{spec}: {root} is not a folder; give the one with {known.layout}")
    for option in _PATHS & options.keys():
        options[option] = str(Path(options[option]).expanduser().resolve())
    full = write_spec(name, split, {"root": str(root), **options})
    return known.open(Request(full, root, split, known.layout, options))


def train_and_test(text: str) -> tuple[str, str]:
    """The specs of the splits that probes are fitted and scored on, of ``NAME`` or ``NAME?root=FOLDER&...``.

    Raises ``SourceError`` for a name that is not in ``NAMED_SETS``, or one with a split.

    >>> train_and_test("dtd?root=/data&partition=2")
    ('dtd:trainval?root=/data&partition=2', 'dtd:test?root=/data&partition=2')
    """
    name, question, query = text.partition("?")
    name, _, split = name.partition(":")
    if name not in NAMED_SETS:
        near = difflib.get_close_matches(name, NAMED_SETS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(NAMED_SETS)}"
        raise SourceError(f"no data set is called {name!r}; {hint}")
    if split:
        raise SourceError(f"{text} names the split {split!r} and both are used; write {name}{question}{query}")
    known = NAMED_SETS[name]
    return f"{name}:{known.train}{question}{query}", f"{name}:{known.test}{question}{query}"
