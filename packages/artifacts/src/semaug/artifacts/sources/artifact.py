"""Artifacts as image sources: packed stores, indexes, and files that a step wrote beside its artifact."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semaug.artifacts.errors import ArtifactError, SourceError
from semaug.artifacts.outside import reading
from semaug.artifacts.places import RemotePath
from semaug.artifacts.ragged import unpack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.roots import stays_inside
from semaug.artifacts.sources.base import Source, clean_key, fingerprint_of
from semaug.artifacts.sources.files import FileSource
from semaug.artifacts.sources.packed import ENCODED, PIXELS, GeneratedSource, PackedSource
from semaug.artifacts.sources.protocol import ImageSource

MATERIALIZED = "metadata.zarr"
"""The artifact inside a materialised folder."""


def open_artifact(path: str | os.PathLike[str]) -> ImageSource:
    """The images of an artifact; raises ``ArtifactError`` when it is unfinished, damaged, or holds none."""
    artifact = Artifact.open(path)
    with reading(path):
        return _opened(artifact, path)


def _opened(artifact: Artifact, path: str | os.PathLike[str]) -> ImageSource:
    if artifact.manifest.kind == "index":
        return _open_index(artifact)
    columns = set(artifact.shard(artifact.markers[0].shard)) if artifact.markers else set()
    if PIXELS in columns or ENCODED in columns:
        return GeneratedSource(artifact) if "content" in columns else PackedSource(artifact)
    if "file" in columns:
        return _open_files(artifact)
    if artifact.manifest.kind == "augment":
        raise ArtifactError(f"{path} holds rows of a table and images are needed here; give it where a table is read")
    raise ArtifactError(f"{path} is a {artifact.manifest.kind} artifact and holds no images; give the images it is of")


def _strings(artifact: Artifact, name: str) -> list[str]:
    return [v for m in artifact.markers for v in unpack_strings(artifact.shard(m.shard), name)]


def _open_files(artifact: Artifact) -> FileSource:
    """Files named relative to the artifact's own folder; their names are the keys."""
    if isinstance(artifact.path, RemotePath):
        raise SourceError(f"{artifact.path} names files beside it, which no store gives; copy all to a folder")
    names = _strings(artifact, "file")
    _require_inside(artifact, names)
    keys = [clean_key(name) for name in names]
    info: dict[str, Any] = {**artifact.manifest.info, **artifact.manifest.config}
    columns = artifact.shard(artifact.markers[0].shard)
    labels = artifact.column("label") if "label" in columns else np.full(len(names), -1)
    fingerprint = None
    if "file_hash" in columns:
        hashes = _strings(artifact, "file_hash")
        fingerprint = fingerprint_of((k, bytes.fromhex(h)) for k, h in zip(keys, hashes, strict=True))
    class_names = info.get("class_names", ())
    root = artifact.path.parent
    return FileSource(str(artifact.path), root, names, keys, labels.tolist(), class_names, fingerprint=fingerprint)


def _open_index(artifact: Artifact) -> ImageSource:
    manifest = artifact.manifest
    fingerprint = manifest.info["fingerprint"]
    if "root" not in manifest.info:
        return _reopened(str(manifest.info["spec"]), fingerprint, str(artifact.path))
    root = Path(manifest.info["root"])
    if not root.is_dir():
        raise SourceError(f"{artifact.path} is an index of {root}, which is not there; index the folder again")
    names = _strings(artifact, "file")
    _require_inside(artifact, names)
    return FileSource(
        str(artifact.path),
        root,
        names,
        artifact.keys,
        artifact.column("label").tolist(),
        manifest.config.get("class_names", ()),
        fingerprint=fingerprint,
        file_sizes=artifact.column("file_bytes").tolist(),
    )


def _require_inside(artifact: Artifact, names: Sequence[str]) -> None:
    for name in names:
        if not stays_inside(name):
            raise ArtifactError(
                f"{artifact.path} names the file {name!r}, which is not below its folder; make the artifact again"
            )


def _reopened(origin_spec: str, fingerprint: str, spec: str) -> ImageSource:
    from semaug.artifacts.sources.door import open_source

    origin = open_source(origin_spec)
    if isinstance(origin, Source):
        origin.__dict__["fingerprint"] = fingerprint
    return origin
