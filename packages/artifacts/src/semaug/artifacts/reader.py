"""Reading artifacts: manifests, ledgers, and columns as memory maps (never through zarr's per-item path)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.ragged import unpack_strings
from semaug.artifacts.schemas import SCHEMA_VERSION, ArtifactKind, Manifest, ShardMarker, Skipped


def hash_columns(columns: Mapping[str, NDArray]) -> str:
    """blake2b over the columns' names, dtypes, shapes and bytes in name order, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(columns):
        values = np.ascontiguousarray(columns[name])
        digest.update(f"{name}|{values.dtype.str}|{values.shape}|".encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of the artifact at ``path``; raises ``ArtifactError`` with the reason where there is none."""
    file = Path(path) / "zarr.json"
    try:
        raw = dict(json.loads(file.read_text())["attributes"]["semaug"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{path} is not a semaug artifact (no zarr.json); check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file} holds no semaug manifest; make the artifact again with --overwrite") from error
    raw = _migrated(path, raw)
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"the manifest of {path} is damaged at {where}: {first['msg']}") from error


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Schema version to the function that makes the next version's manifest of it; there is only version 1 so far."""


def _migrated(path: str | os.PathLike[str], raw: dict[str, Any]) -> dict[str, Any]:
    """Bring an older manifest up to ``SCHEMA_VERSION`` in memory; refuse newer ones and those nothing migrates."""
    found = raw.get("schema_version")
    if not isinstance(found, int) or found == SCHEMA_VERSION:
        return raw  # what is no number is refused by the schema
    if found > SCHEMA_VERSION:
        raise ArtifactError(f"{path} has schema version {found}, this semaug reads {SCHEMA_VERSION}; upgrade semaug")
    if found not in MIGRATIONS:
        raise ArtifactError(
            f"{path} has schema version {found}, this semaug reads {SCHEMA_VERSION}; "
            "run the command that made it again, with --overwrite"
        )
    return _migrated(path, {**MIGRATIONS[found](raw), "schema_version": found + 1})


class ShardColumns(Mapping[str, NDArray]):
    """The columns of one shard; each is memory-mapped at its first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[str, NDArray] = {}

    def __getitem__(self, name: str) -> NDArray:
        if name not in self._loaded:
            self._loaded[name] = map_column(self._folder / name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(p.name for p in self._folder.iterdir() if p.is_dir()))

    def __len__(self) -> int:
        return sum(1 for _ in self)


_PLAIN = "biuf"
"""Kinds of numbers; the bytes of a column of Python objects would be taken for addresses."""


def map_column(folder: Path) -> NDArray:
    """One column as a read-only memory map; raises ``KeyError`` if absent and ``ArtifactError`` if damaged."""
    try:
        meta = json.loads((folder / "zarr.json").read_text())
        shape, dtype = tuple(meta["shape"]), np.dtype(meta["data_type"])
        if dtype.kind not in _PLAIN:
            raise TypeError(f"a column of {dtype} is no column of numbers")
    except FileNotFoundError as error:
        raise KeyError(folder.name) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}/zarr.json is damaged; make the artifact again with --overwrite") from error
    if 0 in shape:
        return np.zeros(shape, dtype)
    chunk = folder.joinpath("c", *["0"] * len(shape))
    expected = int(np.prod(shape)) * dtype.itemsize
    if not chunk.exists() or chunk.stat().st_size != expected:
        size = chunk.stat().st_size if chunk.exists() else 0
        raise ArtifactError(f"{chunk} has {size} bytes, {expected} expected; make the artifact again with --overwrite")
    return np.memmap(chunk, dtype=dtype, mode="r", shape=shape)


@dataclass(frozen=True)
class Artifact:
    """A read-only artifact.

    ``shard(s)[column]`` is a memory map; ``column(name)`` joins all shards in memory.
    """

    path: Path
    manifest: Manifest
    markers: tuple[ShardMarker, ...] = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], kind: ArtifactKind | None = None, *, partial: bool = False) -> Artifact:
        """Open the artifact at ``path``; refuses another kind, and an unfinished one unless ``partial``."""
        path = Path(path)
        manifest = read_manifest(path)
        if kind is not None and manifest.kind != kind:
            raise ArtifactError(f"{path} is a {manifest.kind} artifact, a {kind} artifact is needed here")
        markers = _read_ledger(path)
        if not partial and len(markers) < manifest.shards:
            raise ArtifactError(
                f"{path} is unfinished: {len(markers)} of {manifest.shards} shards; run the command that made it again"
            )
        return cls(path, manifest, markers)

    def shard(self, shard: int) -> ShardColumns:
        """The columns of one shard; raises ``ArtifactError`` when its data is gone."""
        folder = self.path / "shards" / f"{shard:06d}"
        if not folder.is_dir():
            raise ArtifactError(f"{folder} is missing; run the command that made {self.path} again")
        return ShardColumns(folder)

    def column(self, name: str) -> NDArray:
        """One fixed-size column of all shards, joined in memory."""
        parts = [self.shard(m.shard)[name] for m in self.markers]
        return np.concatenate(parts) if parts else np.zeros(0)

    @cached_property
    def keys(self) -> list[str]:
        """The image keys, in order."""
        return [k for m in self.markers for k in unpack_strings(self.shard(m.shard), "key")]

    @cached_property
    def skipped(self) -> tuple[Skipped, ...]:
        """The inputs that were left out, in order."""
        return tuple(s for m in self.markers for s in m.skipped)

    @cached_property
    def digest(self) -> str:
        """Digest of identity and content as the ledger records them; costs and times are left out."""
        return digest_of(self.manifest, self.markers)


def digest_of(manifest: Manifest, markers: tuple[ShardMarker, ...]) -> str:
    """blake2b over the manifest's identity and every shard's digest and skips, 32 hex digits."""
    digest = hashlib.blake2b(json.dumps(manifest.identity(), sort_keys=True).encode(), digest_size=16)
    for marker in markers:
        digest.update(marker.model_dump_json(exclude={"costs"}).encode())
    return digest.hexdigest()


def _read_ledger(path: Path) -> tuple[ShardMarker, ...]:
    files = sorted((path / "ledger").glob("[0-9]*.json"))
    try:
        return tuple(ShardMarker.model_validate_json(f.read_bytes()) for f in files)
    except ValidationError as error:
        raise ArtifactError(
            f"a marker in {path}/ledger is damaged; make the artifact again with --overwrite"
        ) from error
