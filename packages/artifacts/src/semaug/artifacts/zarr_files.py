"""The zarr files of an artifact: a group with the manifest, and one array a column, one chunk, without a codec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from semaug.artifacts.schemas import Manifest


def write_columns(store: Any, columns: Mapping[str, NDArray]) -> None:
    """Write a shard as a group; ``store`` is a folder or a store of zarr."""
    import zarr

    group = zarr.open_group(store, mode="w", zarr_format=3)
    for name, values in columns.items():
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=tuple(max(1, n) for n in values.shape),
            compressors=None,
            filters=None,
            config={"write_empty_chunks": True},
        )
        if values.size:
            array[...] = values


def group_file(manifest: Manifest) -> bytes:
    """The ``zarr.json`` of an artifact: a group with the manifest in its attributes."""
    import zarr
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    zarr.create_group(MemoryStore(files), zarr_format=3, attributes=_attributes(manifest))
    return bytes(files["zarr.json"].to_bytes())


def column_contents(columns: Mapping[str, NDArray]) -> dict[str, bytes]:
    """The files that ``write_columns`` writes, by name."""
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    write_columns(MemoryStore(files), columns)
    return {name: bytes(data.to_bytes()) for name, data in files.items()}


def _attributes(manifest: Manifest) -> dict[str, Any]:
    return {"semaug": json.loads(manifest.model_dump_json())}
