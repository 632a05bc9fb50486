"""``open_source``: from what a user writes to an image source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from semaug.artifacts.errors import ArtifactError, SemaugError, SourceError
from semaug.artifacts.places import RemotePath, as_path
from semaug.artifacts.sources.protocol import ImageSource
from semaug.artifacts.sources.query import parse_spec, whole_number


def open_source(spec: str | os.PathLike[str]) -> ImageSource:
    """Open images by path or by spec.

    A folder (with or without class folders); a packed store, an index, or any artifact or materialised folder that
    holds images, the first two also by URL, ``s3://bucket/images.zarr``; a ``.csv`` or ``.parquet`` list;
    ``torchvision:NAME?root=...&split=...``;
    ``hf:PATH_OR_NAME?split=...&image=...&label=...``; ``scenes:train?items=...&seed=...``; a well-known set by name,
    ``cifar100:train?root=...`` (``sources.named``).
    Raises ``SourceError`` or ``ArtifactError`` where that cannot be opened, ``MissingDependency`` where a package is
    needed that is not installed.
    """
    text = os.fspath(spec)
    if "\0" in text:
        raise SourceError(f"{text[:200]!r} holds a NUL, which no path can; check the path")
    try:
        return _open(text)
    except OSError as error:  # names that are too long, links that lead to themselves, folders that may not be read
        if isinstance(error, SemaugError):
            raise
        raise SourceError(f"{text[:200]!r} cannot be opened: {error.strerror or error}; check the path") from error


def _open(text: str) -> ImageSource:
    scheme = text.split(":", 1)[0]
    if ":" in text and scheme in _SCHEMES and not Path(text).exists():
        return _SCHEMES[scheme](text)
    place = as_path(text)
    if isinstance(place, RemotePath):
        return _open_remote(place)
    path = place.expanduser()
    named = None if path.exists() else _open_named(text)
    return _open_path(path) if named is None else named


def _open_remote(path: RemotePath) -> ImageSource:
    from semaug.artifacts.sources.artifact import open_artifact

    try:
        return open_artifact(path)
    except ArtifactError as error:
        if path.suffix == ".zarr":
            raise
        raise SourceError(f"{error}; from a store images are read packed, by `semaug data pack`") from error


def _open_path(path: Path) -> ImageSource:
    if not path.exists():
        from semaug.artifacts.tables.door import is_table

        if is_table(str(path)):
            raise SourceError(f"{path} is a table of numbers, and images are needed here")
        raise SourceError(f"{path} does not exist; check the path")
    path = path.resolve()
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() in (".csv", ".parquet"):
        from semaug.artifacts.sources.table import open_table

        return open_table(path)
    raise SourceError(f"{path} is a file of no known kind; give a folder, an artifact, or a .csv or .parquet list")


def _open_folder(path: Path) -> ImageSource:
    from semaug.artifacts.sources import artifact, folder

    if (path / "zarr.json").exists():
        return artifact.open_artifact(path)
    if (path / artifact.MATERIALIZED).exists():
        return artifact.open_artifact(path / artifact.MATERIALIZED)
    if path.suffix == ".zarr":
        raise ArtifactError(f"{path} is not a semaug artifact (no zarr.json); check the path")
    return folder.open_folder(path)


def _open_named(spec: str) -> ImageSource | None:
    """The named data set of a spec, None where its name is not one."""
    from semaug.artifacts.sources.named import NAMED_SETS, open_named

    return open_named(spec) if spec.partition("?")[0].partition(":")[0] in NAMED_SETS else None


def _open_array(spec: str) -> ImageSource:
    from semaug.artifacts.sources.array import open_array

    return open_array(spec)


def _open_scenes(spec: str) -> ImageSource:
    from semaug.artifacts.sources.scenes import ScenesSource

    split, options = parse_spec(spec, ("items", "seed"))
    seed = whole_number(spec, options, "seed")
    return ScenesSource(split or "train", whole_number(spec, options, "items"), seed or 0)


def _open_torchvision(spec: str) -> ImageSource:
    from semaug.artifacts.sources.torchvision import open_torchvision

    return open_torchvision(spec)


def _open_huggingface(spec: str) -> ImageSource:
    from semaug.artifacts.sources.huggingface import open_huggingface

    return open_huggingface(spec)


_SCHEMES: dict[str, Callable[[str], ImageSource]] = {
    "array": _open_array,
    "hf": _open_huggingface,
    "scenes": _open_scenes,
    "torchvision": _open_torchvision,
}
