"""One column of an artifact as one array: its shards' files, mapped end to end in the address space.

A column is read from the disk page by page as it is used, and no more of it is held than its reader asks to keep.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.reader import Artifact

_PAGE = mmap.PAGESIZE
_MAP_FIXED = 0x10
_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_FAILED = ctypes.c_void_p(-1).value
_DROP = getattr(mmap, "MADV_DONTNEED", 4)
_MOST_MAPS = 16_384
"""Linux allows a process 65,530 maps; what would need more than this is copied."""


class MappedRows(np.ndarray):
    """An array whose pages come from files; to be read, never written.

    ``release(start, stop)`` gives the memory of these rows back until they are read again.
    """

    _address: int | None = None

    def release(self, start: int, stop: int) -> None:
        """Give back the memory of rows ``start`` to ``stop``; does nothing on a part or a copy of the mapped array."""
        if self._address is None or not self.size:
            return
        row = self.nbytes // len(self)
        first, last = start * row // _PAGE * _PAGE, -(-min(stop, len(self)) * row // _PAGE) * _PAGE
        if last > first:
            _libc().madvise(ctypes.c_void_p(self._address + first), ctypes.c_size_t(last - first), _DROP)


def release_rows(values: NDArray, start: int, stop: int) -> None:
    """Give back the memory of these rows where ``values`` is mapped from files; else do nothing."""
    if isinstance(values, MappedRows):
        values.release(start, stop)


def join_column(artifact: Artifact, name: str) -> NDArray[Any]:
    """All rows of a fixed-size column, in order, without reading them.

    The files are mapped beside each other where every shard but the last fills whole pages, as 1,024 float32 rows and
    their multiples do. Others (some images could not be read) are first copied to an unnamed temporary file. Raises
    ``ArtifactError`` where a shard is gone or damaged, ``KeyError`` without such a column.
    """
    columns = [artifact.shard(m.shard)[name] for m in artifact.markers]
    parts = [c for c in columns if c.size]
    if not parts:
        return columns[0] if columns else np.zeros(0)
    shape, dtype = (sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype
    if any(p.dtype != dtype or p.shape[1:] != shape[1:] for p in parts):
        raise ArtifactError(f"the shards of {artifact.path} differ in their {name}; make it again with --overwrite")
    adjacent = len(parts) <= _MOST_MAPS and all(p.nbytes % _PAGE == 0 for p in parts[:-1])
    pieces = list(_files(parts)) if adjacent else [_copied(parts)]
    try:
        return _map(pieces, shape, dtype)
    finally:
        for piece in pieces:
            os.close(piece.descriptor)


@dataclass(frozen=True, slots=True)
class _Piece:
    descriptor: int
    size: int


def _files(parts: Sequence[NDArray]) -> Iterator[_Piece]:
    for part in parts:
        yield _Piece(os.open(part.filename, os.O_RDONLY), part.nbytes)  # type: ignore[attr-defined]


def _copied(parts: Sequence[NDArray]) -> _Piece:
    """All parts end to end in a file without a name: it is gone with the last map of it."""
    with tempfile.TemporaryFile(prefix="semaug-features-") as file:
        for part in parts:
            part.tofile(file)
        file.flush()
        return _Piece(os.dup(file.fileno()), sum(p.nbytes for p in parts))


def _map(pieces: Sequence[_Piece], shape: tuple[int, ...], dtype: DTypeLike) -> MappedRows:
    total = sum(piece.size for piece in pieces)
    length = -(-total // _PAGE) * _PAGE
    private = mmap.MAP_PRIVATE | _NORESERVE
    address = _mmap(None, length, 0, private | mmap.MAP_ANONYMOUS, -1)
    buffer = (ctypes.c_char * total).from_address(address)
    weakref.finalize(buffer, _unmap, address, length)
    at = address
    for piece in pieces:
        _mmap(at, piece.size, mmap.PROT_READ | mmap.PROT_WRITE, private | _MAP_FIXED, piece.descriptor)
        at += piece.size
    rows = np.frombuffer(memoryview(buffer).cast("B"), dtype).reshape(shape).view(MappedRows)
    rows._address = address
    return rows


def _mmap(address: int | None, length: int, protection: int, flags: int, descriptor: int) -> int:
    found = _libc().mmap(address, length, protection, flags, descriptor, 0)
    if found == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot map {length:,} bytes of a features artifact: {os.strerror(code)}")
    return int(found)


def _unmap(address: int, length: int) -> None:
    _libc().munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))


@cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong
    ]  # fmt: skip
    return library
