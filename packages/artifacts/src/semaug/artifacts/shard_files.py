"""The files of an artifact's shards: on a disk, in a store through the cache, or in a store as they are."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactError, SemaugError, StoreError
from semaug.artifacts.object_cache import FOLDER_VARIABLE, LIMIT_VARIABLE, ObjectCache, Rereads, Wanted
from semaug.artifacts.outside import parse_json
from semaug.artifacts.places import AnyPath, RemotePath, using
from semaug.artifacts.schemas.manifest import MOST_ITEMS

Shape = tuple[int, ...]
_SMALL = 256 * 1024
"""Objects of at most this many bytes are fetched many at a time."""
_BATCH = 64
_MD5 = re.compile("[0-9a-f]{32}")


class ShardFiles(Protocol):
    """How the files of one artifact are read; names are relative to its place, as in `shards/000000/key/c/0`."""

    def markers(self) -> list[bytes]:
        """The markers of the ledger, in order."""
        ...

    def folders(self, name: str) -> list[str]:
        """The folders in a folder, by name; raises ``FileNotFoundError`` where it is not there."""
        ...

    def read(self, name: str) -> bytes:
        """A small file; raises ``FileNotFoundError``."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file, 0 where it is not there."""
        ...

    def map(self, name: str, dtype: np.dtype[Any], shape: Shape) -> NDArray:
        """A file as a read-only array of this shape, which it has the size of."""
        ...

    def prefetch(self, names: Iterable[str]) -> None:
        """Say that these files are about to be read."""
        ...

    def total_bytes(self) -> int:
        """Bytes of all files of the shards."""
        ...

    def fits(self) -> bool:
        """Whether all files can be at hand at once, as reading in random order needs it."""
        ...

    def require_fitting(self) -> None:
        """Raise ``StoreError`` where they cannot."""
        ...


class LocalFiles:
    """Files of a folder, read through memory maps."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def markers(self) -> list[bytes]:
        return [file.read_bytes() for file in sorted((self._path / "ledger").glob("[0-9]*.json"))]

    def folders(self, name: str) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self._path / name) if entry.is_dir())

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def size(self, name: str) -> int:
        try:
            return (self._path / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def map(self, name: str, dtype: np.dtype[Any], shape: Shape) -> NDArray:
        return np.memmap(self._path / name, dtype=dtype, mode="r", shape=shape)

    def prefetch(self, names: Iterable[str]) -> None:
        return None

    def total_bytes(self) -> int:
        return sum(p.stat().st_size for p in (self._path / "shards").rglob("*") if p.is_file())

    def fits(self) -> bool:
        return True

    def require_fitting(self) -> None:
        return None


class _Listed:
    """Objects below one place, as the store lists them: one request for a thousand of them, when first needed."""

    def __init__(self, path: RemotePath) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return type(self), (self.path,)

    @cached_property
    def _shards(self) -> dict[str, Wanted]:
        return self._listed("shards")

    @cached_property
    def _folders(self) -> dict[str, set[str]]:
        """Of each shard, by `shards/000000`, its columns."""
        found: dict[str, set[str]] = {}
        for name in self._shards:
            parts = name.split("/")
            columns = found.setdefault("/".join(parts[:2]), set())
            if len(parts) > 3:
                columns.add(parts[2])
        return found

    def _listed(self, folder: str) -> dict[str, Wanted]:
        root = f"{self.path.key}/"
        found = (self.path / folder).find()
        return {
            key.removeprefix(root): Wanted(self._identity(info), info["size"], _md5_of(info))
            for key, info in found.items()
        }

    def _identity(self, info: dict[str, Any]) -> str:
        """What the store says of an object's content, as hexadecimal digits."""
        content = info.get("ETag") or info.get("etag") or info.get("md5Hash") or sorted(map(str, info.items()))
        return hashlib.blake2b(f"{self.path}|{content}|{info['size']}".encode(), digest_size=20).hexdigest()

    def folders(self, name: str) -> list[str]:
        if name not in self._folders:
            raise FileNotFoundError(name)
        return sorted(self._folders[name])

    def size(self, name: str) -> int:
        return self._shards[name].size if name in self._shards else 0

    def total_bytes(self) -> int:
        return sum(wanted.size for wanted in self._shards.values())

    def _cat(self, names: Sequence[str]) -> list[bytes]:
        """Many small objects at once."""
        keys = [(self.path / name).key for name in names]
        with using(self.path):
            found = self.path.filesystem().cat(keys)
            return [found[key] for key in keys]


class StraightFiles(_Listed):
    """Objects as they are in the store now, each read whole into memory: for checking them."""

    def markers(self) -> list[bytes]:
        return self._cat(sorted(self._listed("ledger")))

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def map(self, name: str, dtype: np.dtype[Any], shape: Shape) -> NDArray:
        return np.frombuffer(self.read(name), dtype).reshape(shape)

    def prefetch(self, names: Iterable[str]) -> None:
        return None

    def fits(self) -> bool:
        return False

    def require_fitting(self) -> None:
        raise StoreError(f"{self.path} is read past the cache, which random order does not bear; read it through it")


class CachedFiles(_Listed):
    """Objects fetched once, whole, into the cache of this machine, and then read from its disk.

    Small objects of a shard come together. What reads at random needs all of a store in the cache: a process that
    fetches the same objects again and again is stopped.
    """

    def __init__(self, path: RemotePath) -> None:
        super().__init__(path)
        self._cache = ObjectCache.from_environment()
        self._opened: set[str] = set()

    @cached_property
    def _rereads(self) -> Rereads:
        return Rereads(sum(1 for wanted in self._shards.values() if wanted.size > _SMALL))

    def markers(self) -> list[bytes]:
        ledger = self._listed("ledger")
        self._gather(ledger, sorted(ledger))
        return [self._read(name, ledger[name]) for name in sorted(ledger)]

    def read(self, name: str) -> bytes:
        self._open_shard(name)
        return self._read(name, self._wanted(name))

    def map(self, name: str, dtype: np.dtype[Any], shape: Shape) -> NDArray:
        self._open_shard(name)
        wanted = self._wanted(name)
        with self._cache.open(wanted, lambda path: self._fetch(name, wanted, path)) as file:
            return np.memmap(file, dtype=dtype, mode="r", shape=shape)  # the map keeps the file's lock

    def prefetch(self, names: Iterable[str]) -> None:
        self._gather(self._shards, [n for n in names if n in self._shards and self._shards[n].size <= _SMALL])

    def fits(self) -> bool:
        return self.total_bytes() <= self._cache.room

    def require_fitting(self) -> None:
        if not self.fits():
            raise StoreError(
                f"{self.path} is read in random order and its {self.total_bytes() / 1e9:,.3g} GB do not fit into the "
                f"{self._cache.limit / 1e9:,.3g} GB of {self._cache.folder}; set {LIMIT_VARIABLE}, or {FOLDER_VARIABLE}"
            )

    def _wanted(self, name: str) -> Wanted:
        if name not in self._shards:
            raise FileNotFoundError(str(self.path / name))
        return self._shards[name]

    def _read(self, name: str, wanted: Wanted) -> bytes:
        with self._cache.open(wanted, lambda path: self._fetch(name, wanted, path)) as file:
            return file.read()

    def _fetch(self, name: str, wanted: Wanted, to: Path) -> None:
        if wanted.size > _SMALL and self._rereads.note(wanted.name):
            self.require_fitting()
        remote = self.path / name
        try:
            with using(remote):
                remote.filesystem().get_file(remote.key, str(to))
        except FileNotFoundError as error:
            raise ArtifactError(f"{remote} is gone; run the command that made {self.path} again") from error
        with open(to, "rb") as file:
            self._check(name, wanted, hashlib.file_digest(file, _md5).hexdigest())

    def _check(self, name: str, wanted: Wanted, md5: str) -> None:
        """Refuse an object that is not the one that was listed. Of encrypted ones the etag is no MD5."""
        if not wanted.md5 or wanted.md5 == md5:
            return
        remote = self.path / name
        with using(remote):
            now = _md5_of(remote.filesystem().info(remote.key))
        if now != wanted.md5:
            raise ArtifactError(f"{remote} was changed while it was read; open {self.path} anew")

    def _open_shard(self, name: str) -> None:
        """At a shard's first use fetch its small objects together."""
        folder = "/".join(name.split("/")[:2])
        if folder in self._opened:
            return
        self._opened.add(folder)
        prefix = f"{folder}/"
        self.prefetch(f"{prefix}{c}/{f}" for c in self._folders.get(folder, ()) for f in _FILES)

    def _gather(self, listed: dict[str, Wanted], names: Sequence[str]) -> None:
        lacking = {
            listed[n].name: n
            for n, lacks in zip(names, self._cache.lacks([listed[n] for n in names]), strict=True)
            if lacks
        }
        for batch in _batches(sorted(lacking.values())):
            for name, data in zip(batch, self._cat(batch), strict=True):
                self._check(name, listed[name], _md5(data).hexdigest())
                self._cache.accept(listed[name], data)


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _md5_of(info: dict[str, Any]) -> str:
    """The etag of an object that was sent in one part, which is its MD5 unless it is encrypted; else nothing."""
    etag = str(info.get("ETag", "")).strip('"')
    return etag if _MD5.fullmatch(etag) else ""


_FILES = ("zarr.json", "c/0", "c/0/0", "c/0/0/0", "c/0/0/0/0")
"""A column's files: what it is, and its one chunk, by the number of dimensions."""


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def files_of(path: AnyPath, *, straight: bool = False) -> ShardFiles:
    """The files of the artifact at ``path``; ``straight``: past the cache."""
    if isinstance(path, RemotePath):
        return StraightFiles(path) if straight else CachedFiles(path)
    return LocalFiles(path)


def column_files(shard: int, column: str, dimensions: int = 1) -> tuple[str, str]:
    """The two files of a column: what it is, and its data."""
    folder = f"shards/{shard:06d}/{column}"
    return f"{folder}/zarr.json", "/".join([folder, "c", *["0"] * dimensions])


_PLAIN = "biuf"
"""Kinds of numbers; the bytes of a column of Python objects would be taken for addresses."""
_MOST_AXES = 8


def _described(meta: dict[str, Any]) -> tuple[Shape, np.dtype[Any]]:
    shape, dtype = tuple(meta["shape"]), np.dtype(meta["data_type"])
    if dtype.kind not in _PLAIN:
        raise TypeError(f"a column of {dtype} is no column of numbers")
    if len(shape) > _MOST_AXES or not all(type(n) is int and 0 <= n <= MOST_ITEMS for n in shape):
        raise ValueError(f"a column of the shape {str(shape)[:80]}")
    return shape, dtype


def shard_is_whole(files: ShardFiles, place: AnyPath, shard: int) -> bool:
    """Whether a shard's folder is there, and every column in it has the size that it says."""
    folder = f"shards/{shard:06d}"
    try:
        parse_json(files.read(f"{folder}/zarr.json"))
        for name in files.folders(folder):
            _checked(files, place, f"{folder}/{name}")
    except (OSError, KeyError, ValueError):
        return False
    return True


def read_column(files: ShardFiles, place: AnyPath, folder: str) -> NDArray:
    """One column as a read-only array; raises ``KeyError`` if absent and ``ArtifactError`` if damaged."""
    chunk, shape, dtype = _checked(files, place, folder)
    return np.zeros(shape, dtype) if 0 in shape else files.map(chunk, dtype, shape)


def _checked(files: ShardFiles, place: AnyPath, folder: str) -> tuple[str, Shape, np.dtype[Any]]:
    """The file of a column's data, which has the size that its shape and type say; raises as ``read_column``."""
    try:
        shape, dtype = _described(parse_json(files.read(f"{folder}/zarr.json")))
    except SemaugError:
        raise
    except FileNotFoundError as error:
        raise KeyError(folder.rpartition("/")[2]) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{place / folder}/zarr.json is damaged; make the artifact again with --overwrite"
        ) from error
    chunk = "/".join([folder, "c", *["0"] * len(shape)])
    expected = math.prod(shape) * dtype.itemsize
    if expected and (size := files.size(chunk)) != expected:
        raise ArtifactError(
            f"{place / chunk} has {size} bytes, {expected} expected; make the artifact again with --overwrite"
        )
    return chunk, shape, dtype
