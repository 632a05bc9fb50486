"""The artifact store: one zarr v3 group, written by whole shards, with a ledger of marker files.

Layout (decision record 1)::

    X.zarr/zarr.json                   group attributes: {"semaug": manifest}
    X.zarr/shards/000000/<column>/     one zarr array a column, one chunk, no codec: its file can be memory-mapped
    X.zarr/ledger/000000.json          written after the shard's data is on the disk; its presence means done
    X.zarr/costs.json, skipped.csv     totals, and the inputs that were left out
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactError, ArtifactMismatch
from semaug.artifacts.files import write_atomic
from semaug.artifacts.local_place import LocalPlace, take_lock
from semaug.artifacts.places import AnyPath, RemotePath, as_path
from semaug.artifacts.reader import Artifact, hash_columns, read_manifest
from semaug.artifacts.remote_place import RemotePlace
from semaug.artifacts.schemas import Costs, Manifest, ShardCosts, ShardMarker, Skipped

__all__ = [
    "ArtifactSummary", "ArtifactWriter", "Place", "package_versions", "place_of", "require_same", "take_lock",
    "write_shard", "write_skipped",
]  # fmt: skip

Columns = Mapping[str, NDArray]


class Place(Protocol):
    """Where an artifact is written; picklable, so that a worker can write shards into it."""

    @property
    def path(self) -> AnyPath:
        """The folder, or the prefix of the store."""
        ...

    def claim(self, overwrite: bool) -> None:
        """Get the place ready, without what is there if ``overwrite``; raises ``SemaugError``."""
        ...

    def release(self) -> None: ...

    def begin(self, manifest: Manifest) -> None:
        """Write the manifest unless there is one."""
        ...

    def describe(self, manifest: Manifest) -> None:
        """Write the manifest in place of the one that is there."""
        ...

    def is_empty(self) -> bool:
        """Whether no shard has a marker."""
        ...

    def clear_shards(self) -> None: ...

    def done(self, shards: range) -> set[int]:
        """Those of ``shards`` that have a marker and data."""
        ...

    def put_shard(self, shard: int, columns: Mapping[str, NDArray], marker: Callable[[], ShardMarker]) -> ShardMarker:
        """Write the data, and when it is safe what ``marker`` gives."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a small file whole or not at all."""
        ...

    def remove(self, name: str) -> None: ...


def place_of(path: str | os.PathLike[str]) -> Place:
    """The place that a path or a URL names."""
    found = as_path(path)
    return RemotePlace(found) if isinstance(found, RemotePath) else LocalPlace(found)


@dataclass(frozen=True, slots=True)
class ArtifactSummary:
    """What a finished step wrote."""

    path: AnyPath
    manifest: Manifest
    skipped: tuple[Skipped, ...]
    costs: Costs


def write_shard(
    place: Place,
    shard: int,
    columns: Columns,
    *,
    skipped: Sequence[Skipped] = (),
    costs: ShardCosts | None = None,
) -> ShardMarker:
    """Write one shard whole, then its marker. Safe to call from any process that owns the shard.

    Every shard has the ragged column ``key`` (``ragged.pack_strings``); other columns are what the kind needs.
    Raises ``OutputError`` for a disk, ``StoreError`` for a store.
    """

    def marker() -> ShardMarker:
        return ShardMarker(
            shard=shard,
            items=len(columns["key_offsets"]) - 1,
            digest=hash_columns(columns),
            skipped=tuple(skipped),
            costs=costs or ShardCosts(),
        )

    return place.put_shard(shard, columns, marker)


class ArtifactWriter:
    """The one writer of an artifact: creates it, or resumes it when the manifest's identity is the same.

    A context manager; it holds the artifact's lock, where there is one, until it is closed.
    """

    def __init__(self, place: Place, manifest: Manifest) -> None:
        self.place = place
        self.path = place.path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], manifest: Manifest, *, overwrite: bool = False) -> ArtifactWriter:
        """Create or resume the artifact at ``path``, a folder or a URL.

        Raises ``ArtifactMismatch`` when another config or input made it, ``ArtifactLocked`` when it is being
        written, ``OutputError`` or ``StoreError`` when the place cannot be written.
        """
        place = place_of(path)
        place.claim(overwrite)
        try:
            return cls(place, _create_or_match(place, _stamp(manifest)))
        except BaseException:
            place.release()
            raise

    def pending(self) -> list[int]:
        """The shards that are still to be written: those without a marker and data."""
        done = self.place.done(range(self.manifest.shards))
        return [shard for shard in range(self.manifest.shards) if shard not in done]

    def write(
        self,
        shard: int,
        columns: Columns,
        *,
        skipped: Sequence[Skipped] = (),
        costs: ShardCosts | None = None,
    ) -> ShardMarker:
        """Write one shard from this process."""
        return write_shard(self.place, shard, columns, skipped=skipped, costs=costs)

    def finish(self, info: Mapping[str, Any] | None = None) -> ArtifactSummary:
        """Write ``costs.json`` and ``skipped.csv``; ``info`` is added to the manifest's notes."""
        if missing := self.pending():
            raise ArtifactError(f"{self.path} lacks {len(missing)} of {self.manifest.shards} shards; run it again")
        if info:
            merged = {**self.manifest.info, **info}
            self.manifest = self.manifest.model_copy(update={"info": merged})
            self.place.describe(self.manifest)
        artifact = Artifact.open(self.path)
        skipped, costs = artifact.skipped, _total(artifact)
        self.place.write("costs.json", costs.model_dump_json(indent=1).encode())
        if skipped:
            self.place.write("skipped.csv", _skipped_csv(skipped))
        else:
            self.place.remove("skipped.csv")
        return ArtifactSummary(self.path, self.manifest, skipped, costs)

    def close(self) -> None:
        """Release the artifact's lock."""
        self.place.release()

    def __enter__(self) -> ArtifactWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_skipped(path: Path, skipped: Sequence[Skipped]) -> None:
    """List what was left out, or remove the list when nothing was."""
    if not skipped:
        path.unlink(missing_ok=True)
        return
    write_atomic(path, _skipped_csv(skipped))


def _skipped_csv(skipped: Sequence[Skipped]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["key", "reason"])
    rows.writerows((s.key, s.reason) for s in skipped)
    return text.getvalue().encode()


def package_versions() -> dict[str, str]:
    """Versions of the installed semaug packages and of what they compute with."""
    names = ["semaug", "semaug-artifacts", "numpy", "zarr", "torch"]
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _stamp(manifest: Manifest) -> Manifest:
    plain = json.loads(manifest.model_dump_json())  # tuples become lists, so that a rerun compares equal
    plain |= {"versions": package_versions(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    return Manifest.model_validate(plain)


def _create_or_match(place: Place, manifest: Manifest) -> Manifest:
    place.begin(manifest)
    found = read_manifest(place.path)
    if found.identity() != manifest.identity() and place.is_empty():
        place.clear_shards()  # a run that failed before its first shard holds nothing to protect
        place.describe(manifest)
        return manifest
    require_same(place.path, found.identity(), manifest.identity())
    return found


def require_same(path: AnyPath, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ``ArtifactMismatch``, naming the first difference, unless both identities are equal."""
    differences = _differences(found, wanted)
    if differences:
        name, old, new = differences[0]
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise ArtifactMismatch(
            f"{path} was made with {name} = {old!r}, this run has {new!r}{more}; "
            "choose another --out, or start anew with --overwrite"
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    rows: list[tuple[str, Any, Any]] = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            rows += _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            rows.append((prefix + name, a, b))
    return rows


def _total(artifact: Artifact) -> Costs:
    costs = [m.costs for m in artifact.markers]
    seconds, images = sum(c.seconds for c in costs), artifact.manifest.items
    return Costs(
        images=images,
        seconds=seconds,
        warm_seconds=sum(c.warm_seconds for c in costs),
        peak_memory=max((c.peak_memory for c in costs), default=0),
        seconds_per_1000=seconds / images * 1000 if images else 0.0,
    )
