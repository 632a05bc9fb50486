"""Writing an artifact into a folder: under other names first, flushed, then renamed."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError

from semaug.artifacts.errors import ArtifactError, ArtifactLocked, ArtifactMismatch
from semaug.artifacts.files import fsync_path, fsync_tree, write_atomic, writing
from semaug.artifacts.outside import parse_json
from semaug.artifacts.reader import read_manifest
from semaug.artifacts.schemas import Manifest, ShardMarker
from semaug.artifacts.shard_files import LocalFiles, shard_is_whole
from semaug.artifacts.zarr_files import group_file, write_columns

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems say that have no locks; there the ledger alone guards an artifact."""


class LocalPlace:
    """The folder ``path`` on a disk of this machine, or on one that it shares with others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def __reduce__(self) -> Any:
        return type(self), (self.path,)

    def claim(self, overwrite: bool) -> None:
        """Make the folder and hold its lock; removes first what is there if ``overwrite``."""
        with writing(self.path):
            _make_folder(self.path, overwrite)
        self._lock = take_lock(self.path)

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def begin(self, manifest: Manifest) -> None:
        """Write the manifest where there is none, and the folders of shards and markers; removes torn writes."""
        if not _is_whole_json(self.path / "zarr.json") and not any(self.path.glob("ledger/*.json")):
            self.describe(manifest)
        with writing(self.path):
            for folder in ("shards", "ledger"):
                (self.path / folder).mkdir(exist_ok=True)
            _clear_partials(self.path)

    def describe(self, manifest: Manifest) -> None:
        """Write the manifest."""
        write_atomic(self.path / "zarr.json", group_file(manifest))

    def is_empty(self) -> bool:
        """Whether the ledger has no marker."""
        return not any((self.path / "ledger").iterdir())

    def clear_shards(self) -> None:
        """Remove the data of all shards."""
        with writing(self.path):
            for unfinished in (self.path / "shards").iterdir():
                shutil.rmtree(unfinished)

    def done(self, shards: range) -> set[int]:
        """Those of ``shards`` with a readable marker and columns that have their sizes."""
        return {shard for shard in shards if self._is_done(shard)}

    def _is_done(self, shard: int) -> bool:
        try:
            ShardMarker.model_validate_json((self.path / "ledger" / f"{shard:06d}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return False
        return shard_is_whole(LocalFiles(self.path), self.path, shard)

    def put_shard(self, shard: int, columns: Mapping[str, NDArray], marker: Callable[[], ShardMarker]) -> ShardMarker:
        """Write a shard's data whole and flush it, then its marker."""
        final = self.path / "shards" / f"{shard:06d}"
        partial = final.with_name(f"{final.name}.{uuid.uuid4().hex}.partial")
        with writing(self.path):
            try:
                write_columns(partial, columns)
                fsync_tree(partial)
                shutil.rmtree(final, ignore_errors=True)  # a shard without its marker, left by a crash
                os.rename(partial, final)
                fsync_path(final.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        made = marker()
        self.write(f"ledger/{shard:06d}.json", made.model_dump_json().encode())
        return made

    def write(self, name: str, data: bytes) -> None:
        """Write a small file whole."""
        write_atomic(self.path / name, data)

    def remove(self, name: str) -> None:
        """Remove a small file, if it is there."""
        (self.path / name).unlink(missing_ok=True)


def take_lock(path: Path) -> int:
    """Hold the folder ``path`` for this process; closing the descriptor returned, or dying, lets go of it.

    Raises ``ArtifactLocked`` while another process holds it. A file system without locks holds nothing.
    """
    with writing(path):
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return lock
        os.close(lock)
        raise ArtifactLocked(
            f"{path} is being written by another process; wait for it or choose another --out"
        ) from error
    return lock


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Make the folder ``path`` where it is not there, and hold it; raises as ``take_lock``."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    lock = take_lock(path)
    try:
        yield
    finally:
        os.close(lock)


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


def _clear_partials(path: Path) -> None:
    for leftover in (*path.glob("*.partial"), *path.glob("shards/*.partial"), *path.glob("ledger/*.partial")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _is_ours(path: Path) -> bool:
    """Whether the folder may be written to, and with --overwrite removed: ours (maybe damaged), or empty."""
    if not _is_whole_json(path / "zarr.json"):  # not written yet, or torn by a power cut
        return not any(map(_is_foreign, path.iterdir())) or _has_parts(path)
    if _has_parts(path):
        return True
    try:
        read_manifest(path)
    except ArtifactError:
        return False
    return True


def _is_foreign(path: Path) -> bool:
    return path.name not in (".lock", "zarr.json") and path.suffix != ".partial"


def _has_parts(path: Path) -> bool:
    return all((path / name).exists() for name in ("zarr.json", "ledger", "shards"))


def _is_whole_json(path: Path) -> bool:
    try:
        parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True
