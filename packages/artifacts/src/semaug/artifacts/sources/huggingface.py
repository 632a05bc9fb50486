"""Hugging Face datasets: a folder written by ``save_to_disk``, or a set the ``datasets`` package can find."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import decode_image
from semaug.artifacts.errors import MissingDependency, SourceError, UnreadableImage
from semaug.artifacts.network import forbid_telemetry
from semaug.artifacts.sources.base import Source
from semaug.artifacts.sources.query import parse_spec, write_spec


class HuggingFaceSource(Source):
    """One split of a dataset with an image column and, maybe, a label column; keys are ``split/index``."""

    def __init__(
        self, spec: str, split: str, dataset: Any, image: str, label: str | None, roots: Sequence[Path] = ()
    ) -> None:
        """``roots``: the folders that a cell may name a file in."""
        self.spec, self._split, self._image = spec, split, image
        self._roots = [Path(os.path.realpath(root)) for root in roots]
        self._dataset = dataset
        self._labels = None if label is None else dataset[label]
        names = None if label is None else getattr(dataset.features[label], "names", None)
        if names is None and self._labels is not None:
            names = [str(i) for i in range(max((v for v in self._labels if v is not None), default=-1) + 1)]
        self.class_names = tuple(names or ())

    def __reduce__(self) -> Any:
        return open_huggingface, (self.spec,)

    def __len__(self) -> int:
        return len(self._dataset)

    def key(self, index: int) -> str:
        return f"{self._split}/{range(len(self))[index]:06d}"

    def label(self, index: int) -> int | None:
        label = None if self._labels is None else self._labels[index]
        return None if label is None or label < 0 else int(label)

    def encoded(self, index: int) -> bytes:
        cell = self._dataset[index][self._image]
        if cell is None:
            raise UnreadableImage("the cell is empty")
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        path = Path(os.path.realpath(cell["path"]))
        if not any(path.is_relative_to(root) for root in self._roots):
            raise UnreadableImage(f"the cell names a file outside the data set, {path}; save the set with its images")
        try:
            return path.read_bytes()
        except OSError as error:
            raise UnreadableImage(f"cannot be opened: {error.strerror or error}") from error

    def read(self, index: int) -> NDArray[np.uint8]:
        return decode_image(self.encoded(index))


def open_huggingface(spec: str) -> HuggingFaceSource:
    """``hf:PATH_OR_NAME?split=train&image=image&label=label``.

    A path is read with ``load_from_disk`` and never from the network; a name is looked up by ``datasets``, which
    stays offline where ``HF_HUB_OFFLINE`` is set. Raises ``SourceError`` and ``MissingDependency``.
    """
    name, options = parse_spec(spec, ("split", "image", "label"))
    forbid_telemetry()
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency(f"{spec} needs datasets; pip install 'semaug-artifacts[hf]'") from error
    folder = Path(name).expanduser()
    local = folder.is_dir()
    place = str(folder.resolve()) if local else name
    found = _load(datasets, spec, place, options.get("split"), local)
    split = options.get("split") or (str(found.split) if found.split is not None else "train")
    image, label = options.get("image", "image"), options.get("label")
    if label is None and "label" in found.features:
        label = "label"
    _require_columns(datasets, spec, found, image, label)
    asked = {"split": options.get("split"), "image": image, "label": label}
    full = write_spec("hf", place, {k: v for k, v in asked.items() if v})
    roots = [Path(place)] if local else [Path(datasets.config.HF_CACHE_HOME), Path(datasets.config.HF_DATASETS_CACHE)]
    cells = found.cast_column(image, datasets.Image(decode=False))
    return HuggingFaceSource(full, split, cells, image, label, roots)


def _load(datasets: Any, spec: str, place: str, split: str | None, local: bool) -> Any:
    try:
        found = datasets.load_from_disk(place) if local else datasets.load_dataset(place)
    except Exception as error:  # datasets raises its own, OSError, ValueError and connection errors
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{spec} cannot be opened: {reason}; give a folder written by save_to_disk") from error
    if not isinstance(found, datasets.DatasetDict):
        if split and found.split is not None and str(found.split) != split:
            raise SourceError(f"{spec} holds the split {str(found.split)!r}, not {split!r}; leave split= out")
        return found
    chosen = split or ("train" if "train" in found else next(iter(found)))
    if chosen not in found:
        raise SourceError(f"{spec} has the splits {', '.join(found)}, not {chosen!r}; set split=")
    return found[chosen]


def _require_columns(datasets: Any, spec: str, found: Any, image: str, label: str | None) -> None:
    for role, column in (("image", image), ("label", label)):
        if column is not None and column not in found.features:
            known = ", ".join(found.features)
            raise SourceError(f"{spec} has the columns {known}, not {column!r}; set {role}=")
    if not isinstance(found.features[image], datasets.Image):
        raise SourceError(f"{spec}: column {image!r} holds no images; set image=")
    if label is not None and getattr(found.features[label], "dtype", "") not in ("int64", "int32", "int16", "int8"):
        raise SourceError(f"{spec}: column {label!r} holds no class numbers; cast it to ClassLabel or set label=")
