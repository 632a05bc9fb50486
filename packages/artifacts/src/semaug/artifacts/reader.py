"""Reading artifacts: manifests, ledgers, and columns as memory maps (never through zarr's per-item path)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from semaug.artifacts.errors import ArtifactError, SemaugError
from semaug.artifacts.outside import parse_json, reading
from semaug.artifacts.places import AnyPath, as_path
from semaug.artifacts.ragged import OFFSETS, unpack_strings
from semaug.artifacts.schemas import SCHEMA_VERSION, ArtifactKind, Manifest, ShardMarker, Skipped
from semaug.artifacts.shard_files import ShardFiles, column_files, files_of, read_column


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
    path = as_path(path)
    file = path / "zarr.json"
    try:
        raw = dict(parse_json(file.read_bytes())["attributes"]["semaug"])
    except SemaugError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{path} is not a semaug artifact (no zarr.json); check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file} holds no semaug manifest; make the artifact again with --overwrite") from error
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read ({error.strerror or error}); check its permissions") from error
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

    def __init__(self, files: ShardFiles, place: AnyPath, folder: str) -> None:
        self._files, self._place, self._folder = files, place, folder
        self._loaded: dict[str, NDArray] = {}

    def __getitem__(self, name: str) -> NDArray:
        if name not in self._loaded:
            self._loaded[name] = read_column(self._files, self._place, f"{self._folder}/{name}")
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files.folders(self._folder))

    def __len__(self) -> int:
        return len(self._files.folders(self._folder))


@dataclass(frozen=True)
class Artifact:
    """A read-only artifact.

    ``shard(s)[column]`` is a memory map; ``column(name)`` joins all shards in memory.
    """

    path: AnyPath
    manifest: Manifest
    markers: tuple[ShardMarker, ...] = field(repr=False)
    files: ShardFiles = field(repr=False, compare=False)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        kind: ArtifactKind | None = None,
        *,
        partial: bool = False,
        straight: bool = False,
    ) -> Artifact:
        """Open the artifact at ``path``, a folder or a URL; refuses another kind, and an unfinished one unless
        ``partial``. ``straight`` reads what is in a store past the cache of this machine.
        """
        path = as_path(path)
        manifest = read_manifest(path)
        if kind is not None and manifest.kind != kind:
            raise ArtifactError(f"{path} is a {manifest.kind} artifact, a {kind} artifact is needed here")
        files = files_of(path, straight=straight)
        markers = _read_ledger(path, files)
        if not partial and len(markers) < manifest.shards:
            raise ArtifactError(
                f"{path} is unfinished: {len(markers)} of {manifest.shards} shards; run the command that made it again"
            )
        _require_fitting(path, manifest, markers)
        return cls(path, manifest, markers, files)

    def shard(self, shard: int) -> ShardColumns:
        """The columns of one shard; raises ``ArtifactError`` when its data is gone."""
        folder = f"shards/{shard:06d}"
        try:
            self.files.folders(folder)
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{self.path / folder} is missing; run the command that made {self.path} again"
            ) from error
        return ShardColumns(self.files, self.path, folder)

    def column(self, name: str) -> NDArray:
        """One fixed-size column of all shards, joined in memory."""
        self.prefetch(name)
        with reading(self.path):
            parts = [self.shard(m.shard)[name] for m in self.markers]
            _require_rows(self.path, name, map(len, parts), self.markers)
            return np.concatenate(parts) if parts else np.zeros(0)

    def prefetch(self, *columns: str) -> None:
        """Say that these columns of all shards are about to be read: from a store, small ones then come together."""
        for name in columns:
            self.files.prefetch(column_files(m.shard, name)[0] for m in self.markers)
            self.files.prefetch(column_files(m.shard, name)[1] for m in self.markers)

    @cached_property
    def keys(self) -> list[str]:
        """The image keys, in order."""
        self.prefetch("key", "key" + OFFSETS)
        with reading(self.path):
            parts = [unpack_strings(self.shard(m.shard), "key") for m in self.markers]
            _require_rows(self.path, "key", map(len, parts), self.markers)
        return [key for part in parts for key in part]

    @cached_property
    def skipped(self) -> tuple[Skipped, ...]:
        """The inputs that were left out, in order."""
        return tuple(s for m in self.markers for s in m.skipped)

    @cached_property
    def digest(self) -> str:
        """Digest of identity and content as the ledger records them; costs and times are left out."""
        return digest_of(self.manifest, self.markers)


def _require_fitting(path: AnyPath, manifest: Manifest, markers: tuple[ShardMarker, ...]) -> None:
    """Refuse markers of shards that the manifest does not have, or of more items than they hold."""
    known = {m.shard for m in markers}
    for marker in markers:
        if not (0 <= marker.shard < manifest.shards and marker.items >= 0 and len(known) == len(markers)):
            raise ArtifactError(
                f"a marker of {path} names shard {marker.shard} of {manifest.shards} with {marker.items} items, or one "
                "shard twice; make the artifact again with --overwrite"
            )


def _require_rows(path: AnyPath, name: str, lengths: Iterable[int], markers: tuple[ShardMarker, ...]) -> None:
    for length, marker in zip(lengths, markers, strict=True):
        if length != marker.items:
            raise ArtifactError(
                f"shard {marker.shard} of {path} has {length} rows in its column {name!r} and {marker.items} items; "
                "make the artifact again with --overwrite"
            )


def digest_of(manifest: Manifest, markers: tuple[ShardMarker, ...]) -> str:
    """blake2b over the manifest's identity and every shard's digest and skips, 32 hex digits."""
    digest = hashlib.blake2b(json.dumps(manifest.identity(), sort_keys=True).encode(), digest_size=16)
    for marker in markers:
        digest.update(marker.model_dump_json(exclude={"costs"}).encode())
    return digest.hexdigest()


def _read_ledger(path: AnyPath, files: ShardFiles) -> tuple[ShardMarker, ...]:
    try:
        return tuple(ShardMarker.model_validate_json(data) for data in files.markers())
    except ValidationError as error:
        raise ArtifactError(
            f"a marker in {path}/ledger is damaged; make the artifact again with --overwrite"
        ) from error
