"""Writing files so that what is there after a crash is whole, and errors that name the remedy."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semaug.artifacts.errors import OutputError, SemaugError
from semaug.artifacts.places import RemotePath, as_path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's write errors into one line that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SemaugError):
            raise
        raise OutputError(_explain(path, error)) from error


def _explain(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left while writing {path}; free some and run the same command again, it resumes"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write {path}: {os.strerror(error.errno).lower()}; choose another --out"
    return f"cannot write {path}: {error}"


def fsync_path(path: Path) -> None:
    """Flush one file or folder entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """Flush every file and folder below ``root``, and ``root`` itself."""
    for folder, _, names in os.walk(root):
        for name in names:
            fsync_path(Path(folder, name))
        fsync_path(Path(folder))


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that is either the old one or wholly the new one, whatever happens."""
    with writing(path):
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            fsync_path(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """blake2b of a file's bytes, 32 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def require_space(folder: str | os.PathLike[str], needed: int, what: str) -> None:
    """Refuse a write that is known not to fit. ``needed`` is in bytes; an object store has room."""
    place = as_path(folder)
    if isinstance(place, RemotePath):
        return
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"{what} needs about {needed / 1e6:,.1f} MB and {place} has {free / 1e6:,.1f} MB free; "
            "free some space or choose another --out"
        )
