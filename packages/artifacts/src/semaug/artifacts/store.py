"""The artifact store: one zarr v3 group, written by whole shards, with a ledger of marker files.

Layout (decision record 1)::

    X.zarr/zarr.json                   group attributes: {"semaug": manifest}
    X.zarr/shards/000000/<column>/     one zarr array a column, one chunk, no codec: its file can be memory-mapped
    X.zarr/ledger/000000.json          written after the shard's data is on the disk; its presence means done
    X.zarr/costs.json, skipped.csv     totals, and the inputs that were left out
"""

from __future__ import annotations

import csv
import fcntl
import glob
import io
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError

from semaug.artifacts.errors import ArtifactError, ArtifactLocked, ArtifactMismatch
from semaug.artifacts.files import fsync_path, fsync_tree, write_atomic, writing
from semaug.artifacts.reader import Artifact, hash_columns, read_manifest
from semaug.artifacts.schemas import Costs, Manifest, ShardCosts, ShardMarker, Skipped

Columns = Mapping[str, NDArray]


@dataclass(frozen=True, slots=True)
class ArtifactSummary:
    """What a finished step wrote."""

    path: Path
    manifest: Manifest
    skipped: tuple[Skipped, ...]
    costs: Costs


def write_shard(
    path: Path,
    shard: int,
    columns: Columns,
    *,
    skipped: Sequence[Skipped] = (),
    costs: ShardCosts | None = None,
) -> ShardMarker:
    """Write one shard whole, flush it, then its marker. Safe to call from any process that owns the shard.

    Every shard has the ragged column ``key`` (``ragged.pack_strings``); other columns are what the kind needs.
    Raises ``OutputError``.
    """
    final = path / "shards" / f"{shard:06d}"
    partial = final.with_name(f"{final.name}.{uuid.uuid4().hex}.partial")
    with writing(path):
        try:
            _write_columns(partial, columns)
            fsync_tree(partial)
            shutil.rmtree(final, ignore_errors=True)  # a shard without its marker, left by a crash
            os.rename(partial, final)
            fsync_path(final.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    marker = ShardMarker(
        shard=shard,
        items=len(columns["key_offsets"]) - 1,
        digest=hash_columns(columns),
        skipped=tuple(skipped),
        costs=costs or ShardCosts(),
    )
    write_atomic(path / "ledger" / f"{shard:06d}.json", marker.model_dump_json().encode())
    return marker


def _write_columns(folder: Path, columns: Columns) -> None:
    import zarr

    group = zarr.open_group(folder, mode="w", zarr_format=3)
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


class ArtifactWriter:
    """The one writer of an artifact: creates it, or resumes it when the manifest's identity is the same.

    A context manager; it holds the artifact's lock until it is closed.
    """

    def __init__(self, path: Path, manifest: Manifest, lock: int) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock

    @classmethod
    def open(cls, path: str | os.PathLike[str], manifest: Manifest, *, overwrite: bool = False) -> ArtifactWriter:
        """Create or resume the artifact at ``path``.

        Raises ``ArtifactMismatch`` when another config or input made it, ``ArtifactLocked`` when it is being
        written, ``OutputError`` when the place cannot be written.
        """
        path = Path(path)
        manifest = _stamp(manifest)
        with writing(path):
            _make_folder(path, overwrite)
        lock = take_lock(path)
        try:
            return cls(path, _create_or_match(path, manifest), lock)
        except BaseException:
            os.close(lock)
            raise

    def pending(self) -> list[int]:
        """The shards that are still to be written: those without a readable marker and a folder of data."""
        return [s for s in range(self.manifest.shards) if not self._is_done(s)]

    def _is_done(self, shard: int) -> bool:
        try:
            ShardMarker.model_validate_json((self.path / "ledger" / f"{shard:06d}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return False
        return (self.path / "shards" / f"{shard:06d}").is_dir()

    def write(
        self,
        shard: int,
        columns: Columns,
        *,
        skipped: Sequence[Skipped] = (),
        costs: ShardCosts | None = None,
    ) -> ShardMarker:
        """Write one shard from this process."""
        return write_shard(self.path, shard, columns, skipped=skipped, costs=costs)

    def finish(self, info: Mapping[str, Any] | None = None) -> ArtifactSummary:
        """Write ``costs.json`` and ``skipped.csv``; ``info`` is added to the manifest's notes."""
        if missing := self.pending():
            raise ArtifactError(f"{self.path} lacks {len(missing)} of {self.manifest.shards} shards; run it again")
        if info:
            merged = {**self.manifest.info, **info}
            self.manifest = self.manifest.model_copy(update={"info": merged})
            _write_manifest(self.path, self.manifest)
        artifact = Artifact.open(self.path)
        skipped, costs = artifact.skipped, _total(artifact)
        write_atomic(self.path / "costs.json", costs.model_dump_json(indent=1).encode())
        write_skipped(self.path / "skipped.csv", skipped)
        return ArtifactSummary(self.path, self.manifest, skipped, costs)

    def close(self) -> None:
        """Release the artifact's lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> ArtifactWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_skipped(path: Path, skipped: Sequence[Skipped]) -> None:
    """List what was left out, or remove the list when nothing was."""
    if not skipped:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["key", "reason"])
    rows.writerows((s.key, s.reason) for s in skipped)
    write_atomic(path, text.getvalue().encode())


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


def _make_folder(path: Path, overwrite: bool) -> None:
    if path.exists() and not path.is_dir():
        raise ArtifactMismatch(f"{path} is a file, not an artifact; choose another --out")
    if path.is_dir() and not _is_ours(path):
        raise ArtifactMismatch(f"{path} exists and is not a semaug artifact; choose another --out")
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.trash"):  # of an --overwrite that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    if overwrite and path.is_dir():
        lock = take_lock(path)
        try:
            trash = path.with_name(f".{path.name}.{uuid.uuid4().hex}.trash")
            os.rename(path, trash)
            shutil.rmtree(trash)
        finally:
            os.close(lock)
    path.mkdir(parents=True, exist_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether the folder may be written to, and with --overwrite removed: ours (maybe damaged), or empty."""
    if not (path / "zarr.json").exists():
        return not any(map(_is_foreign, path.iterdir()))
    if (path / "ledger").is_dir() and (path / "shards").is_dir():
        return True
    try:
        read_manifest(path)
    except ArtifactError:
        return False
    return True


def _is_foreign(path: Path) -> bool:
    return path.name != ".lock" and path.suffix != ".partial"


def take_lock(path: Path) -> int:
    """Hold the folder ``path`` for this process; closing the descriptor returned, or dying, lets go of it.

    Raises ``ArtifactLocked`` while another process holds it.
    """
    with writing(path):
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ArtifactLocked(
            f"{path} is being written by another process; wait for it or choose another --out"
        ) from error
    return lock


def _create_or_match(path: Path, manifest: Manifest) -> Manifest:
    with writing(path):
        if not (path / "zarr.json").exists():
            _write_manifest(path, manifest)
        for folder in ("shards", "ledger"):
            (path / folder).mkdir(exist_ok=True)
        for leftover in (*path.glob("*.partial"), *path.glob("shards/*.partial"), *path.glob("ledger/*.partial")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    found = read_manifest(path)
    if found.identity() != manifest.identity() and not any((path / "ledger").iterdir()):
        with writing(path):  # a run that failed before its first shard holds nothing to protect
            for unfinished in (path / "shards").iterdir():
                shutil.rmtree(unfinished)
        _write_manifest(path, manifest)
        return manifest
    require_same(path, found.identity(), manifest.identity())
    return found


def _write_manifest(path: Path, manifest: Manifest) -> None:
    import zarr

    with writing(path):
        attributes = {"semaug": json.loads(manifest.model_dump_json())}
        if (path / "zarr.json").exists():
            zarr.open_group(path, mode="r+").update_attributes(attributes)
        else:
            zarr.create_group(path, zarr_format=3, attributes=attributes)
        fsync_path(path / "zarr.json")
        fsync_path(path)


def require_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
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
