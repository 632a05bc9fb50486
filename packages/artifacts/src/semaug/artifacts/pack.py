"""``semaug data pack``: copy images into a store that is read through memory maps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import decode_image, encode_jpeg, resize_short_side
from semaug.artifacts.errors import InvalidOption, UnreadableImage
from semaug.artifacts.files import require_space
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.ragged import pack_arrays, pack_bytes, pack_strings
from semaug.artifacts.schemas import Manifest, Skipped
from semaug.artifacts.shards import ShardResult, Tick, Workers, process_shards
from semaug.artifacts.sources.base import inputs_of
from semaug.artifacts.sources.packed import ENCODED, PIXELS
from semaug.artifacts.sources.protocol import ImageSource
from semaug.artifacts.store import ArtifactSummary, ArtifactWriter

Format = Literal["auto", "raw", "jpeg"]
FORMATS: tuple[Format, ...] = ("auto", "raw", "jpeg")
RAW_LIMIT = 256 * 256 * 3
"""``auto`` stores pixels where all images have one size of at most this many bytes."""
SHARD_BYTES = 64 * 2**20
"""A shard's data, which a worker holds in memory."""
PROBES = 48
"""Images that are read ahead to choose the layout and to estimate the space."""
TICK = 16


def pack_images(
    source: ImageSource,
    out: str | os.PathLike[str],
    *,
    size: int | None = None,
    format: Format = "auto",
    quality: int = 95,
    shard_size: int | None = None,
    workers: Workers = 1,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ArtifactSummary:
    """Pack ``source`` into the artifact ``out``; keys, labels, class names and fingerprint are kept.

    ``size`` resizes the shorter side (pixels) and never crops. ``raw`` stores decoded pixels: lossless, and read at
    the speed of a memory map. ``jpeg`` stores files: byte for byte as they are where nothing is resized, else anew as
    JPEG of ``quality``. ``auto`` takes ``raw`` where a sample of images has one small size (``RAW_LIMIT``), else
    ``jpeg``. Images that cannot be decoded are listed as skipped. Memory is about three shards a worker, whatever the
    number of images. Raises ``InvalidOption``, ``OutputError``, and what ``ArtifactWriter.open`` raises.
    """
    _check(size, format, quality, shard_size)
    plan = _plan(source, size, format, quality)
    manifest = Manifest(
        kind="images",
        items=len(source),
        shard_size=shard_size or plan.shard_size,
        config={
            "format": plan.layout,
            "size": size,
            "quality": quality if plan.layout == "jpeg" else None,
            "class_names": list(source.class_names),
        },
        inputs=inputs_of(source),
        info={"spec": source.spec},
    )
    with ArtifactWriter.open(out, manifest, overwrite=overwrite) as writer:
        todo = len(writer.pending()) / max(1, manifest.shards)
        require_space(out, int(plan.item_bytes * len(source) * todo), f"packing {len(source):,} images")
        work = PackWork(source, plan.layout, size, quality)
        process_shards(writer, work, stage="pack", workers=workers, on_progress=on_progress)
        return writer.finish()


def _check(size: int | None, format: str, quality: int, shard_size: int | None) -> None:
    if format not in FORMATS:
        raise InvalidOption(f"format {format!r} is none of {', '.join(FORMATS)}")
    if size is not None and size < 1:
        raise InvalidOption(f"size {size} is no side in pixels; give 1 or more")
    if not 1 <= quality <= 100:
        raise InvalidOption(f"JPEG quality {quality} is not between 1 and 100")
    if shard_size is not None and shard_size < 1:
        raise InvalidOption(f"shard size {shard_size} holds no image; give 1 or more")


@dataclass(frozen=True, slots=True)
class _Plan:
    layout: Literal["raw", "jpeg"]
    item_bytes: float
    shard_size: int


def _plan(source: ImageSource, size: int | None, format: Format, quality: int) -> _Plan:
    """Choose layout and shard size from images spread evenly over the source: the same on every rerun."""
    probes = list(_probes(source, size))
    raw = float(np.mean([image.nbytes for image, _ in probes])) if probes else 1.0
    same = len({image.shape for image, _ in probes}) == 1
    layout: Literal["raw", "jpeg"] = "raw" if same and raw <= RAW_LIMIT else "jpeg"
    if format != "auto":
        layout = format
    if layout == "raw":
        item = raw
    else:
        item = float(np.mean([len(_file_of(i, d, quality)) for i, d in probes])) if probes else 1.0
    shard = int(min(4096, max(16, SHARD_BYTES // raw)))  # decoded: what a worker may have to hold
    return _Plan(layout, item, shard)


def _probes(source: ImageSource, size: int | None) -> Iterator[tuple[NDArray[np.uint8], bytes | None]]:
    for index in np.unique(np.linspace(0, len(source) - 1, min(PROBES, len(source))).astype(int)).tolist():
        try:
            yield _load(source, index, size)
        except UnreadableImage:
            continue


def _load(source: ImageSource, index: int, size: int | None) -> tuple[NDArray[np.uint8], bytes | None]:
    """The image as it is to be stored, and its file where that can be kept as it is."""
    encoded = getattr(source, "encoded", None)
    data: bytes | None = encoded(index) if encoded is not None else None
    image = source.read(index) if data is None else decode_image(data)
    if size is None or min(image.shape[:2]) == size:
        return image, data
    return resize_short_side(image, size), None


def _file_of(image: NDArray[np.uint8], data: bytes | None, quality: int) -> bytes:
    return data if data is not None else encode_jpeg(image, quality)


@dataclass(frozen=True, slots=True)
class PackWork:
    """Pack the shards of ``source`` (picklable; see ``shards.ShardWork``)."""

    source: ImageSource
    layout: Literal["raw", "jpeg"]
    size: int | None
    quality: int

    def open(self) -> PackWork:
        return self

    def run(self, indices: range, tick: Tick) -> ShardResult:
        rows = _Rows(self.layout)
        skipped: list[Skipped] = []
        for done, index in enumerate(indices, 1):
            key = self.source.key(index)
            try:
                image, data = _load(self.source, index, self.size)
                rows.add(key, self.source.label(index), image, self._stored(image, data))
            except UnreadableImage as error:
                skipped.append(Skipped(key=key, reason=str(error)))
            if done % TICK == 0 or done == len(indices):
                tick(done % TICK or TICK)
        return ShardResult(rows.columns(), skipped)

    def _stored(self, image: NDArray[np.uint8], data: bytes | None) -> Any:
        return image if self.layout == "raw" else _file_of(image, data, self.quality)


class _Rows:
    """What one shard has gathered."""

    def __init__(self, layout: Literal["raw", "jpeg"]) -> None:
        self._layout = layout
        self._keys: list[str] = []
        self._labels: list[int] = []
        self._sizes: list[tuple[int, int]] = []
        self._stored: list[Any] = []

    def add(self, key: str, label: int | None, image: NDArray[np.uint8], stored: Any) -> None:
        self._keys.append(key)
        self._labels.append(-1 if label is None else label)
        self._sizes.append((image.shape[0], image.shape[1]))
        self._stored.append(stored)

    def columns(self) -> dict[str, NDArray]:
        return {
            **pack_strings("key", self._keys),
            "label": np.array(self._labels, np.int32),
            "size": np.array(self._sizes, np.int32).reshape(-1, 2),
            **(self._pixels() if self._layout == "raw" else pack_bytes(ENCODED, self._stored)),
        }

    def _pixels(self) -> dict[str, NDArray]:
        if len(set(self._sizes)) == 1:
            return {PIXELS: np.stack(self._stored)}
        flat = [image.reshape(-1) for image in self._stored]
        return pack_arrays(PIXELS, flat, np.zeros(0, np.uint8))
