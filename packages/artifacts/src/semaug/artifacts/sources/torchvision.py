"""Datasets of torchvision that are on the disk already: nothing is downloaded."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import to_rgb
from semaug.artifacts.errors import MissingDependency, SourceError, UnreadableImage
from semaug.artifacts.sources.base import Source
from semaug.artifacts.sources.query import parse_spec, write_spec

UNPICKLED = ("LSUN", "LSUNClass")
"""Data sets whose keys torchvision unpickles from a file that anybody may have left in the working folder."""
SPLIT_NAMES = ("split", "image_set", "train")
"""How torchvision's datasets call their split; ``train`` is a bool."""


class TorchvisionSource(Source):
    """One split of a torchvision classification dataset; keys are ``split/index``."""

    def __init__(self, spec: str, split: str, dataset: Any) -> None:
        self.spec, self._split, self._dataset = spec, split, dataset
        targets = getattr(dataset, "targets", getattr(dataset, "labels", getattr(dataset, "_labels", None)))
        self._labels = None if targets is None else np.asarray(targets)
        self.class_names = _class_names(dataset, self._labels)

    def __reduce__(self) -> Any:
        return open_torchvision, (self.spec,)

    def __len__(self) -> int:
        return len(self._dataset)

    def key(self, index: int) -> str:
        return f"{self._split}/{range(len(self))[index]:06d}"

    def label(self, index: int) -> int | None:
        target = self._dataset[index][1] if self._labels is None else self._labels[index]
        return int(target) if np.ndim(target) == 0 and np.asarray(target).dtype.kind in "iu" else None

    def read(self, index: int) -> NDArray[np.uint8]:
        try:
            return to_rgb(self._dataset[index][0])
        except OSError as error:
            raise UnreadableImage(f"cannot be decoded: {' '.join(str(error).split())}") from error


def open_torchvision(spec: str) -> TorchvisionSource:
    """``torchvision:NAME?root=FOLDER&split=train``: raises ``SourceError`` when it is unknown or not on the disk."""
    name, options = parse_spec(spec, ("root", "split"))
    kind = _dataset_class(spec, name)
    if "root" not in options:
        raise SourceError(f"{spec} needs root=FOLDER, where torchvision keeps {name}")
    root = Path(options["root"]).expanduser().resolve()
    split = options.get("split", "train")
    arguments = _arguments(spec, kind, split)
    try:
        dataset = kind(root=str(root), **arguments)
    except (RuntimeError, OSError, ValueError) as error:
        raise SourceError(
            f"torchvision has no usable {name} ({split}) in {root}: {' '.join(str(error).split())[:150]}; nothing is "
            f"downloaded here, fetch it once with torchvision.datasets.{name}"
        ) from error
    return TorchvisionSource(write_spec("torchvision", name, {"root": str(root), "split": split}), split, dataset)


def _dataset_class(spec: str, name: str) -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise MissingDependency(f"{spec} needs torchvision; pip install 'semaug-artifacts[torchvision]'") from error
    if name not in datasets.__all__:
        near = difflib.get_close_matches(name, datasets.__all__, 1)
        hint = f"; did you mean {near[0]}?" if near else "; see torchvision.datasets for the names"
        raise SourceError(f"torchvision has no dataset {name!r}{hint}")
    if name in UNPICKLED:
        raise SourceError(f"torchvision reads {name} through a pickle, which could run code; export it to a folder")
    return getattr(datasets, name)


def _arguments(spec: str, kind: Any, split: str) -> dict[str, Any]:
    known = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {"download": False} if "download" in known else {}
    if "root" not in known:
        raise SourceError(f"{spec} does not read a folder; use one of torchvision's datasets that has a root")
    for name in SPLIT_NAMES:
        if name in known:
            if name == "train" and split not in ("train", "test"):
                raise SourceError(f"{spec}: split={split!r} is neither train nor test")
            return arguments | {name: split == "train" if name == "train" else split}
    return arguments


def _class_names(dataset: Any, labels: NDArray | None) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None)
    if names is not None:
        return tuple(n if isinstance(n, str) else n[0] for n in names)
    if labels is None or labels.dtype.kind not in "iu" or labels.ndim != 1:
        return ()
    return tuple(str(i) for i in range(int(labels.max(initial=-1)) + 1))
