"""Images of a source in batches, decoded ahead of the model that works on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.schemas import Skipped
from semaug.artifacts.sources import ImageSource

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some images of a source, and those that could not be read."""

    indices: list[int]
    keys: list[str]
    images: list[Image]
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.keys) + len(self.skipped)


def read_batches(source: ImageSource, indices: Sequence[int], size: int) -> Iterator[Batch]:
    """The images at ``indices``, ``size`` at a time; the next batch is decoded while the last one is worked on."""
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]
    with ThreadPoolExecutor(1, thread_name_prefix="semaug-read") as reader:
        ahead: Future[Batch] | None = None
        for place, part in enumerate(parts):
            current = _read(source, part) if ahead is None else ahead.result()
            ahead = reader.submit(_read, source, parts[place + 1]) if place + 1 < len(parts) else None
            yield current


def _read(source: ImageSource, indices: Sequence[int]) -> Batch:
    batch = Batch([], [], [], [])
    for index in indices:
        key = source.key(index)
        try:
            batch.images.append(source.read(index))
        except UnreadableImage as error:
            batch.skipped.append(Skipped(key=key, reason=str(error)))
            continue
        batch.indices.append(index)
        batch.keys.append(key)
    return batch
