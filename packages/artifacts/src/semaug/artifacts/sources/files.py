"""Images that are files: what a folder, a list and an index all come down to."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import decode_image
from semaug.artifacts.errors import SourceError, UnreadableImage
from semaug.artifacts.sources.base import Source, content_hash, fingerprint_of

_HASHING_THREADS = 4


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
        if fingerprint is not None:
            self.__dict__["fingerprint"] = fingerprint

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
            data = path.read_bytes()
        except OSError as error:
            raise UnreadableImage(f"cannot be opened: {error.strerror or error}") from error
        if self._file_sizes is not None and len(data) != self._file_sizes[index]:
            raise SourceError(
                f"{path} has {len(data)} bytes, {self._file_sizes[index]} when it was indexed; "
                "run `semaug data index` again with --overwrite"
            )
        return data

    def read(self, index: int) -> NDArray[np.uint8]:
        return decode_image(self.encoded(index))

    def content_hash(self, index: int) -> bytes:
        try:
            return content_hash(self.encoded(index))
        except UnreadableImage:
            return content_hash(b"")  # a file that cannot be opened counts as an empty one

    @cached_property
    def fingerprint(self) -> str:
        with ThreadPoolExecutor(_HASHING_THREADS) as pool:
            return fingerprint_of(zip(self._keys, pool.map(self.content_hash, range(len(self))), strict=True))
