"""Content and perceptual hashes of images, and which of two sets look alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semaug.artifacts.errors import MissingDependency, UnreadableImage
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.sources import ImageSource
from semaug.artifacts.sources.base import Source, pixels_hash

DISTANCE = 8
"""Bits of 64 in which the perceptual hashes of one picture may differ."""
COLOUR_DISTANCE = 16.0
"""Mean levels (0-255) in which its thumbnails may differ: many pictures of one layout share a hash."""
_THUMBNAIL = 16
_BLOCK = 1 << 22


@dataclass(frozen=True)
class ImageHashes:
    """Hashes of n images: content (n, 16) uint8, perceptual (n,) uint64, thumbnails (n, 16 * 16 * 3) uint8.

    ``reasons`` says of unreadable images, by position, why; their rows are zero and match nothing.
    """

    content: NDArray[np.uint8]
    perceptual: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    reasons: dict[int, str]

    def content_of(self, row: int) -> bytes:
        """The content hash of one image; of an unreadable one a value of its own."""
        return f"unreadable {row}".encode() if row in self.reasons else self.content[row].tobytes()

    def alike(self, row: int, other: ImageHashes, other_row: int) -> bool:
        """Whether two images show the same picture, maybe resized or compressed anew."""
        bits = int(np.bitwise_count(self.perceptual[row] ^ other.perceptual[other_row]))
        return bits <= DISTANCE and self._colours_alike(row, other, other_row)

    def matches(self, other: ImageHashes) -> Iterator[tuple[int, int]]:
        """Every (row, row of ``other``) that shows the same picture."""
        step = max(1, _BLOCK // max(1, len(other.perceptual)))
        for start in range(0, len(self.perceptual), step):
            block = self.perceptual[start : start + step, None] ^ other.perceptual
            for row, other_row in np.argwhere(np.bitwise_count(block) <= DISTANCE).tolist():
                if self._colours_alike(start + row, other, other_row):
                    yield start + row, other_row

    def _colours_alike(self, row: int, other: ImageHashes, other_row: int) -> bool:
        if row in self.reasons or other_row in other.reasons:
            return False
        difference = self.thumbnails[row].astype(np.int16) - other.thumbnails[other_row]
        return float(np.abs(difference).mean()) <= COLOUR_DISTANCE


def hash_images(
    source: ImageSource,
    indices: Sequence[int],
    *,
    threads: int = 2,
    stage: str = "hash",
    on_progress: OnProgress = ignore_progress,
) -> ImageHashes:
    """Hash the images of ``source`` at ``indices``. Raises ``MissingDependency`` without imagehash."""
    try:
        import imagehash
    except ImportError as error:
        raise MissingDependency("hashing needs imagehash; pip install 'semaug-pairs-dataset[propose]'") from error

    def one(index: int) -> tuple[bytes, int, bytes] | str:
        try:
            pixels = source.read(index)
            content = source.content_hash(index) if isinstance(source, Source) else pixels_hash(pixels)
        except UnreadableImage as error:
            return str(error)
        image = Image.fromarray(pixels)
        bits = np.packbits(imagehash.phash(image).hash).tobytes()
        return content, int.from_bytes(bits), np.asarray(image.resize((_THUMBNAIL,) * 2, _FILTER)).tobytes()

    rows: list[tuple[bytes, int, bytes] | str] = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for done, row in enumerate(pool.map(one, indices), 1):
            rows.append(row)
            on_progress(Progress(stage, done, len(indices)))
    return _collect(rows)


_FILTER = Image.Resampling.BOX
_NOTHING = (bytes(16), 0, bytes(_THUMBNAIL * _THUMBNAIL * 3))


def _collect(rows: Sequence[tuple[bytes, int, bytes] | str]) -> ImageHashes:
    plain = [_NOTHING if isinstance(row, str) else row for row in rows]
    return ImageHashes(
        np.frombuffer(b"".join(r[0] for r in plain), np.uint8).reshape(len(rows), 16),
        np.array([r[1] for r in plain], np.uint64),
        np.frombuffer(b"".join(r[2] for r in plain), np.uint8).reshape(len(rows), len(_NOTHING[2])),
        {i: row for i, row in enumerate(rows) if isinstance(row, str)},
    )
