"""Packed stores: images in a few big files that are read through memory maps."""

from __future__ import annotations

import os
from bisect import bisect_right
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import decode_image
from semaug.artifacts.errors import ArtifactError, SemaugError
from semaug.artifacts.outside import DAMAGE, damaged, reading
from semaug.artifacts.ragged import slice_of
from semaug.artifacts.reader import Artifact, ShardColumns
from semaug.artifacts.sources.base import Source, fingerprint_of

PIXELS = "pixels"
ENCODED = "encoded"
_OPEN_SHARDS = 4096
_FEW_SHARDS = 2
"""Of a store that the cache of this machine does not hold, so that others can be dropped."""
_MOST_KEYS = 2_000_000
"""Keys are held as text for stores of at most this many images (90 bytes each), and read one by one beyond."""
_MOST_UNNAMED = 1 << 24
"""Labels without class names are below this: counting them takes memory for as many classes."""


class _Shard(Protocol):
    def read(self, row: int) -> NDArray[np.uint8]: ...

    def encoded(self, row: int) -> bytes | None: ...


def _bytes_of(columns: ShardColumns, axes: int) -> NDArray[np.uint8]:
    pixels = columns[PIXELS].view(np.ndarray)  # a memmap's own indexing costs microseconds
    if pixels.dtype != np.uint8 or pixels.ndim != axes or (axes == 4 and pixels.shape[3] != 3):
        raise ValueError(f"pixels of {pixels.dtype} {pixels.shape}")
    return pixels


class _FixedShard:
    """Images of one size: the column ``pixels`` is (n, height, width, 3)."""

    def __init__(self, columns: ShardColumns) -> None:
        self._pixels = _bytes_of(columns, 4)

    def read(self, row: int) -> NDArray[np.uint8]:
        return self._pixels[row].copy()

    def encoded(self, row: int) -> bytes | None:
        return None


class _RaggedShard:
    """Images of several sizes end to end, with their offsets and sizes (n, 2)."""

    def __init__(self, columns: ShardColumns) -> None:
        self._pixels = _bytes_of(columns, 1)
        self._offsets: list[int] = columns[PIXELS + "_offsets"].tolist()
        self._sizes: list[list[int]] = columns["size"].tolist()

    def read(self, row: int) -> NDArray[np.uint8]:
        flat = self._pixels[self._offsets[row] : self._offsets[row + 1]]
        return flat.reshape(*self._sizes[row], 3).copy()

    def encoded(self, row: int) -> bytes | None:
        return None


class _EncodedShard:
    """Encoded files end to end, with their offsets."""

    def __init__(self, columns: ShardColumns) -> None:
        self._columns = columns

    def read(self, row: int) -> NDArray[np.uint8]:
        return decode_image(self.encoded(row))

    def encoded(self, row: int) -> bytes:
        return slice_of(self._columns, ENCODED, row).tobytes()


def _open_shard(columns: ShardColumns) -> _Shard:
    if ENCODED in columns:
        return _EncodedShard(columns)
    return _FixedShard(columns) if columns[PIXELS].ndim == 4 else _RaggedShard(columns)


class PackedSource(Source):
    """The images of an artifact, with the keys, labels, class names and fingerprint of where they came from.

    ``read`` gives a copy, so what is done to it never reaches the store. Guidance made on the origin fits the pack:
    it keeps the size it was made at, and its readers scale it.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.spec = str(artifact.path)
        manifest = artifact.manifest
        self.class_names = tuple(manifest.config.get("class_names", ()))
        self._starts = [0, *accumulate(m.items for m in artifact.markers)]
        self._shards = [m.shard for m in artifact.markers]
        held = _OPEN_SHARDS if artifact.files.fits() else _FEW_SHARDS
        self._shard = lru_cache(held)(self._open)
        self._columns = lru_cache(held)(lambda place: artifact.shard(self._shards[place]))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PackedSource:
        """Open a finished store; raises ``ArtifactError``."""
        return cls(Artifact.open(path))

    def __reduce__(self) -> Any:
        return type(self).open, (self.spec,)

    def __len__(self) -> int:
        return self._starts[-1]

    def key(self, index: int) -> str:
        if len(self) <= _MOST_KEYS:
            return self.artifact.keys[index]
        place, row = self._locate(index)
        with reading(self.artifact.path):
            return slice_of(self._columns(place), "key", row).tobytes().decode()

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def read(self, index: int) -> NDArray[np.uint8]:
        place, row = self._locate(index)
        try:
            return self._shard(place).read(row)
        except DAMAGE as error:
            raise self._damaged(error) from error

    def encoded(self, index: int) -> bytes | None:
        place, row = self._locate(index)
        try:
            return self._shard(place).encoded(row)
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> SemaugError:
        return error if isinstance(error, SemaugError) else damaged(self.artifact.path, error)

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the images that were packed, as they were before any resize."""
        with reading(self.artifact.path):
            return self.artifact.manifest.inputs["source"]

    @property
    def pixels(self) -> str:
        """The store's digest where images were resized on their way in, else what its origin says."""
        manifest = self.artifact.manifest
        return self.artifact.digest if manifest.config.get("size") is not None else manifest.inputs.get("pixels", "")

    @cached_property
    def _labels(self) -> NDArray:
        labels, known = self.artifact.column("label"), len(self.class_names) or _MOST_UNNAMED
        if labels.dtype.kind != "i" or labels.ndim != 1 or labels.max(initial=-1) >= known:
            raise ArtifactError(
                f"{self.artifact.path} has labels of {labels.dtype} up to {labels.max(initial=-1)} and "
                f"{len(self.class_names)} class names; pack the images again"
            )
        return labels

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self._starts[-1]:
            raise IndexError(f"image {index} of {self._starts[-1]}")
        place = bisect_right(self._starts, index) - 1
        return place, index - self._starts[place]

    def _open(self, place: int) -> _Shard:
        return _open_shard(self._columns(place))


def require_random_reads(source: object) -> None:
    """Refuse a packed store that is to be read in random order and does not fit into this machine's cache.

    Raises ``StoreError`` with the sizes of both.
    """
    if isinstance(source, PackedSource):
        source.artifact.files.require_fitting()


class GeneratedSource(PackedSource):
    """Images that an artifact made and keeps: their fingerprint and pixels are their own, not those of an origin."""

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the images as they are kept, from the hashes that were written beside them."""
        with reading(self.artifact.path):
            return fingerprint_of(zip(self.artifact.keys, map(bytes, self.artifact.column("content")), strict=True))

    @property
    def pixels(self) -> str:
        """Nothing: these are the images of the fingerprint."""
        return ""
