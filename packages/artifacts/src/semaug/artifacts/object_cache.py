"""A folder of this machine that keeps whole objects of a store, so that what is read again is read from the disk.

An object is kept under what the store says identifies its content (its etag), so that a changed one is fetched anew.
Any number of processes share the folder: an object is fetched under a lock and appears by a rename, and a file that is
in use holds a shared lock, which keeps it from being dropped. Whoever dies lets go of its locks.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from semaug.artifacts.errors import InvalidOption, StoreError
from semaug.artifacts.files import writing

FOLDER_VARIABLE = "SEMAUG_CACHE"
LIMIT_VARIABLE = "SEMAUG_CACHE_GB"
DEFAULT_LIMIT = 64 * 10**9
_SLACK = 32
"""The folder is looked through again whenever this part of its limit has come in."""
_ABANDONED = 3600.0
"""Seconds after which a fetch that has not grown is that of a process which was killed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object to keep: under which name (hexadecimal digits), its size in bytes, and its MD5 where that is known."""

    name: str
    size: int
    md5: str = ""


Fetch = Callable[[Path], None]
"""Fetches an object into the file given; raises where it cannot."""


def cache_folder() -> Path:
    """``SEMAUG_CACHE``, else ``semaug/objects`` in the user's cache folder."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semaug" / "objects"


def cache_limit() -> int:
    """Bytes that the folder may hold: ``SEMAUG_CACHE_GB``, else 64 GB. Raises ``InvalidOption`` for no number."""
    given = os.environ.get(LIMIT_VARIABLE)
    if not given:
        return DEFAULT_LIMIT
    try:
        limit = int(float(given) * 1e9)
    except ValueError as error:
        raise InvalidOption(f"{LIMIT_VARIABLE} is {given!r}, which is no number of gigabytes") from error
    if limit <= 0:
        raise InvalidOption(f"{LIMIT_VARIABLE} is {given}; give more than 0 gigabytes")
    return limit


class ObjectCache:
    """Objects kept in ``folder``, at most ``limit`` bytes of them but for what is in use.

    The files that were opened longest ago go first. One object may be larger than the limit by no means.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._came = limit  # the first fetch looks through the folder
        self.room = limit - limit // _SLACK
        """Bytes that are left in the folder when room is made."""

    @classmethod
    def from_environment(cls) -> ObjectCache:
        """The cache that the environment names; see ``cache_folder`` and ``cache_limit``."""
        return cls(cache_folder(), cache_limit())

    def path(self, wanted: Wanted) -> Path:
        """Where an object is, when it is there."""
        return self.folder / wanted.name[:2] / wanted.name

    def open(self, wanted: Wanted, fetch: Fetch) -> BinaryIO:
        """The object's file, open for reading; it stays on the disk while this file or a map of it is open.

        ``fetch`` is called when the object is not there. Raises ``OutputError`` where the folder cannot be written,
        ``StoreError`` where there is no room, and what ``fetch`` raises.
        """
        while True:
            found = self._open(wanted)
            if found is not None:
                return found
            with writing(self.folder), self._alone(wanted):
                if not self.path(wanted).exists():
                    self._bring(wanted, fetch)

    def lacks(self, wanted: Sequence[Wanted]) -> list[bool]:
        """Of each object, whether it is not there."""
        return [not self.path(w).exists() for w in wanted]

    def accept(self, wanted: Wanted, data: bytes) -> None:
        """Keep an object that was fetched already."""
        with writing(self.folder):
            self._bring(wanted, lambda path: _fill(path, data))

    def _open(self, wanted: Wanted) -> BinaryIO | None:
        path = self.path(wanted)
        try:
            file = open(path, "rb")  # noqa: SIM115, the caller closes it
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_nlink == 0:  # dropped between the two calls
            file.close()
            return None
        with suppress(OSError):
            os.utime(path)  # what the order of dropping goes by
        return file

    @contextmanager
    def _alone(self, wanted: Wanted) -> Iterator[None]:
        """Hold one of 256 locks, so that two processes do not fetch one object at once."""
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(locks / wanted.name[:2], "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _bring(self, wanted: Wanted, fetch: Fetch) -> None:
        self._make_room(wanted.size)
        final, partial = self.path(wanted), self.folder / "partial" / uuid.uuid4().hex
        for folder in (final.parent, partial.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            fetch(partial)
            size = partial.stat().st_size
            if size != wanted.size:
                raise StoreError(f"an object of {wanted.size} bytes came with {size}; run the same command again")
            os.replace(partial, final)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        self._came += size
        if self._came <= self.limit // _SLACK:
            return
        kept = sorted(self._kept())
        total = sum(entry.size for entry in kept) + size
        for entry in kept:
            if total <= self.room:
                break
            if _drop(entry.path):
                total -= entry.size
        if total > self.limit:
            raise StoreError(
                f"{size / 1e6:,.1f} MB do not fit into {self.folder}, where {(total - size) / 1e9:,.3g} GB are in use "
                f"and {self.limit / 1e9:,.3g} GB are allowed; set {LIMIT_VARIABLE}, or {FOLDER_VARIABLE} to a larger "
                "disk"
            )
        self._came = size if total <= self.room else self.limit

    def _kept(self) -> Iterator[_Kept]:
        for folder in ("??", "partial"):
            for path in self.folder.glob(f"{folder}/*"):
                try:
                    found = path.stat()
                except FileNotFoundError:
                    continue
                if folder == "partial":
                    if time.time() - found.st_mtime > _ABANDONED:
                        path.unlink(missing_ok=True)
                else:
                    yield _Kept(found.st_mtime_ns, found.st_size, path)


@dataclass(frozen=True, slots=True, order=True)
class _Kept:
    used: int
    size: int
    path: Path


def _fill(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _drop(path: Path) -> bool:
    """Remove a file that nobody has open."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


class Rereads:
    """Notices a process that fetches the same objects over and over, as random reads of what does not fit do.

    In order, an object comes again after all the others; at random, much sooner.
    """

    def __init__(self, objects: int) -> None:
        self._recent: deque[str] = deque(maxlen=max(1, min(16, objects // 2)))

    def note(self, name: str) -> bool:
        """Note a fetch; returns whether the same one was among the latest."""
        again = name in self._recent
        self._recent.append(name)
        return again
