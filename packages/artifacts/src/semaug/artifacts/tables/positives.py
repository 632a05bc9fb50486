"""Rows that DiffAug generated, as a table: with the columns, classes and preprocessing of their origins."""

from __future__ import annotations

import numpy as np

from semaug.artifacts.augment_table import AugmentTable
from semaug.artifacts.errors import ArtifactError, SourceError
from semaug.artifacts.outside import reading
from semaug.artifacts.places import AnyPath
from semaug.artifacts.ragged import unpack_strings
from semaug.artifacts.reader import Artifact, read_manifest
from semaug.artifacts.tables.table import Table, numbered_columns


def holds_rows(path: AnyPath) -> bool:
    """Whether ``path`` is an augment artifact of rows."""
    if not (path / "zarr.json").is_file():
        return False
    try:
        manifest = read_manifest(path)
    except ArtifactError:
        return False
    return manifest.kind == "augment" and manifest.config.get("form") == "rows"


def read_positives(path: AnyPath) -> Table:
    """The rows of an augment artifact; obs are ``origin`` and ``number``.

    Raises ``ArtifactError`` for an artifact that is no such one, ``SourceError`` where it holds no row.
    """
    table, artifact = AugmentTable.open(path), Artifact.open(path)
    rows = table.require_rows()
    if not len(rows):
        raise SourceError(f"{path} holds no row; generate positives of samples that can be read")
    info = artifact.manifest.info
    with reading(path):
        origins = [o for m in artifact.markers for o in unpack_strings(artifact.shard(m.shard), "origin")]
        return Table(
            rows.take(np.arange(len(rows), dtype=np.int64)),
            tuple(artifact.keys),
            tuple(info.get("features") or numbered_columns(rows.features)),
            artifact.column("label").astype(np.int64),
            tuple(artifact.manifest.config["class_names"]),
            {"origin": np.array(origins, object), "number": artifact.column("number")},
            tuple(info.get("steps", ())),
            spec=str(path),
        )
