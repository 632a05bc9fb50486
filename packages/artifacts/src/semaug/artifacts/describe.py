"""``semaug data info``: what a source or an artifact is, in a few fields."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.outside import reading
from semaug.artifacts.places import AnyPath, RemotePath, as_path
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import EncoderCard
from semaug.artifacts.sources import ImageSource, labels_of, open_source
from semaug.artifacts.sources.artifact import MATERIALIZED
from semaug.artifacts.tables import is_table, open_table
from semaug.artifacts.verify import ENCODER_CARD

PROBES = 32


def describe(spec: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe an artifact, a training run, a table, or any image source; plain values that JSON can hold.

    Of a source at most 32 images are decoded (``sampled``; ``heights`` and ``widths`` are their least and greatest
    sides in pixels), and its fingerprint is computed. Raises what ``open_source``, ``open_table`` and
    ``Artifact.open`` raise.
    """
    path = as_path(spec).expanduser()
    if isinstance(path, RemotePath):
        return _describe_artifact(path)
    if (path / ENCODER_CARD).exists():
        with reading(path / ENCODER_CARD, "train again"):
            card = EncoderCard.model_validate_json((path / ENCODER_CARD).read_bytes())
        return {"what": "encoder", "path": str(path), **card.model_dump(mode="json")}
    if (path / MATERIALIZED).exists():
        path = path / MATERIALIZED
    if (path / "zarr.json").exists():
        return _describe_artifact(path)
    if is_table(os.fspath(spec)):
        return {"what": "table", **open_table(spec).describe()}
    return {"what": "images", **_describe_source(open_source(spec))}


def _describe_artifact(path: AnyPath) -> dict[str, Any]:
    artifact = Artifact.open(path, partial=True)
    manifest = artifact.manifest
    columns = artifact.shard(artifact.markers[0].shard) if artifact.markers else {}
    with reading(path):
        shapes = {name: f"{values.dtype} {values.shape}" for name, values in columns.items()}
    return {
        "what": f"{manifest.kind} artifact",
        "path": str(path),
        "finished": len(artifact.markers) == manifest.shards,
        "items": manifest.items,
        "rows": sum(m.items for m in artifact.markers),
        "skipped": len(artifact.skipped),
        "shards": f"{len(artifact.markers)} of {manifest.shards}",
        "bytes": artifact.files.total_bytes(),
        "digest": artifact.digest,
        "schema_version": manifest.schema_version,
        "created": manifest.created,
        "seed": manifest.seed,
        "inputs": manifest.inputs,
        "config": _without_long_lists(manifest.config),
        "info": _without_long_lists(manifest.info),
        "columns": shapes,
    }


def _without_long_lists(values: dict[str, Any], limit: int = 20) -> dict[str, Any]:
    return {k: f"{len(v)} values" if isinstance(v, list) and len(v) > limit else v for k, v in values.items()}


def _describe_source(source: ImageSource) -> dict[str, Any]:
    labels = labels_of(source)
    counts = np.bincount(labels[labels >= 0], minlength=len(source.class_names)).tolist()
    sizes, unreadable = _sample(source)
    return {
        "spec": source.spec,
        "items": len(source),
        "first_key": source.key(0),
        "classes": len(source.class_names),
        "class_names": list(source.class_names[:20]),
        "unlabelled": int((labels < 0).sum()),
        "images_per_class": [min(counts), max(counts)] if counts else [],
        "fingerprint": source.fingerprint,
        "sampled": len(sizes) + len(unreadable),
        "heights": [min(h for h, _ in sizes), max(h for h, _ in sizes)] if sizes else [],
        "widths": [min(w for _, w in sizes), max(w for _, w in sizes)] if sizes else [],
        "unreadable": unreadable,
    }


def _sample(source: ImageSource) -> tuple[list[tuple[int, int]], list[str]]:
    sizes: list[tuple[int, int]] = []
    unreadable = []
    for index in np.unique(np.linspace(0, len(source) - 1, PROBES).astype(int)).tolist():
        try:
            height, width = source.read(index).shape[:2]
        except UnreadableImage as error:
            unreadable.append(f"{source.key(index)}: {error}")
        else:
            sizes.append((height, width))
    return sizes, unreadable
