"""Images that are files: what a folder, a list and an index all come down to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import decode_image
from semaug.artifacts.errors import SourceError, UnreadableImage
from semaug.artifacts.outside import read_regular
from semaug.artifacts.sources.base import Source, content_hash, fingerprint_of

_HASHING_THREADS = 4
_SETTLED = 2_000_000_000
"""Nanoseconds after which a file's next change is sure to show in its times."""
_NOTHING = content_hash(b"")
_KNOWN: dict[bytes, tuple[str, frozenset[int]]] = {}
"""Fingerprints of files as they were listed, with those that could not be opened: one process reads a set once."""


class FileSource(Source):
    """Images in files below ``root`` (or anywhere: absolute names), with their keys and labels (-1 for none).

    ``fingerprint`` and ``file_sizes`` come from an index, where there is one; a file whose size differs is refused.
    """

    def __init__(
        self,
        spec: str,
        root: Path,
        names: Sequence[str],
        keys: Sequence[str],
        labels: Sequence[int],
        class_names: Sequence[str] = (),
        *,
        fingerprint: str | None = None,
        file_sizes: Sequence[int] | None = None,
    ) -> None:
        self.spec = spec
        self.root = root
        self._names = tuple(names)
        self._keys = self._names if list(names) == list(keys) else tuple(keys)
        self._labels = np.asarray(labels, np.int32)
        self.class_names = tuple(class_names)
        self._file_sizes = None if file_sizes is None else np.asarray(file_sizes, np.int64)
        self._absent: frozenset[int] | None = None  # the files that could not be opened, once the others are hashed
        if fingerprint is not None:
            self.__dict__["fingerprint"] = fingerprint
            self._absent = frozenset(np.flatnonzero(self._file_sizes == 0).tolist() if file_sizes is not None else ())

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        return self._keys[index]

    def path(self, index: int) -> Path:
        """Where the image's file is."""
        return self.root / self._names[index]

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def encoded(self, index: int) -> bytes:
        """The file's bytes; raises ``UnreadableImage`` when it cannot be read, ``SourceError`` when it has changed."""
        path = self.path(index)
        try:
            data = read_regular(path)
        except OSError as error:
            raise self._unreadable(index, error.strerror or str(error)) from error
        if self._file_sizes is not None and len(data) != self._file_sizes[index]:
            raise SourceError(
                f"{path} has {len(data)} bytes, {self._file_sizes[index]} when it was indexed; "
                "run `semaug data index` again with --overwrite"
            )
        return data

    def _unreadable(self, index: int, reason: str) -> Exception:
        """What to raise: a file that was hashed and cannot be opened now is no broken file but a set that changed."""
        if self._absent is None or index in self._absent:
            return UnreadableImage(f"cannot be opened: {reason}")
        return SourceError(
            f"{self.path(index)} could be opened when the images were listed and cannot now ({reason}); put it back "
            "and run the same command again, it resumes"
        )

    def read(self, index: int) -> NDArray[np.uint8]:
        return decode_image(self.encoded(index))

    def content_hash(self, index: int) -> bytes:
        try:
            return content_hash(self.encoded(index))
        except UnreadableImage:
            return _NOTHING  # a file that cannot be opened counts as an empty one

    @cached_property
    def fingerprint(self) -> str:
        state = self._state()
        if state is not None and state in _KNOWN:
            found, self._absent = _KNOWN[state]
            return found
        with ThreadPoolExecutor(_HASHING_THREADS) as pool:
            hashes = list(pool.map(self.content_hash, range(len(self))))
        found = fingerprint_of(zip(self._keys, hashes, strict=True))
        self._absent = frozenset(i for i, content in enumerate(hashes) if content == _NOTHING)
        if state is not None and state == self._state():
            _KNOWN[state] = found, self._absent
        return found

    def _state(self) -> bytes | None:
        """A digest of the files as the disk lists them; None where one changed so lately that it may change unseen."""
        if self._file_sizes is not None:  # an index, whose sizes are to be checked
            return None
        digest = hashlib.blake2b(digest_size=16)
        settled = time.time_ns() - _SETTLED
        for index, key in enumerate(self._keys):
            path = self.path(index)
            try:
                found = path.stat()
            except OSError:
                return None
            if max(found.st_mtime_ns, found.st_ctime_ns) > settled:
                return None
            state = (key, str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            digest.update(repr(state).encode(errors="surrogateescape"))
        return digest.digest()
