"""``semaug data index``: read a source once, and keep its keys, hashes, sizes, labels and unreadable files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import decode_image
from semaug.artifacts.errors import SourceError, UnreadableImage
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.ragged import pack_strings, unpack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest, Skipped
from semaug.artifacts.shards import ShardResult, Tick, Workers, process_shards
from semaug.artifacts.sources.base import DIGEST_SIZE, Source, content_hash, fingerprint_of, fingerprint_of_ordered
from semaug.artifacts.sources.files import FileSource
from semaug.artifacts.sources.protocol import ImageSource
from semaug.artifacts.store import ArtifactSummary, ArtifactWriter

SHARD_SIZE = 4096


def index_source(
    source: ImageSource,
    out: str | os.PathLike[str],
    *,
    workers: Workers = 1,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ArtifactSummary:
    """Index ``source`` into the artifact ``out``; ``open_source(out)`` gives the same images, fingerprint ready.

    Every image is decoded; those that cannot be are listed as skipped, with size (0, 0), and stay part of the set.
    Raises ``SourceError`` for a source that is not one of semaug's own, and what ``ArtifactWriter.open`` raises.
    """
    if not isinstance(source, Source):
        raise SourceError(
            f"a {type(source).__name__} cannot be indexed; give a folder or another source of open_source"
        )
    info: dict[str, str] = {"spec": source.spec}
    if isinstance(source, FileSource):
        info["root"] = str(source.root)
    manifest = Manifest(
        kind="index",
        items=len(source),
        shard_size=SHARD_SIZE,
        config={"class_names": list(source.class_names)},
        inputs={"listing": _listing(source)},
        info=info,
    )
    with ArtifactWriter.open(out, manifest, overwrite=overwrite) as writer:
        process_shards(writer, IndexWork(source), stage="index", workers=workers, on_progress=on_progress)
        return writer.finish({"fingerprint": fingerprint_of_index(Artifact.open(out, "index"))})


def _listing(source: Source) -> str:
    """Names and sizes of the files: another listing is another index."""
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    if not isinstance(source, FileSource):
        return source.fingerprint
    for index in range(len(source)):
        try:
            size = source.path(index).stat().st_size
        except OSError:
            size = -1
        digest.update(f"{source.key(index)}\x1f{size}\n".encode())
    return digest.hexdigest()


def fingerprint_of_index(artifact: Artifact) -> str:
    """The fingerprint of the images of an index, shard by shard where their keys stand in order."""
    if all(before < after for before, after in pairwise(key for key, _ in _contents(artifact))):
        return fingerprint_of_ordered(_contents(artifact))
    return fingerprint_of(_contents(artifact))


def _contents(artifact: Artifact) -> Iterator[tuple[str, bytes]]:
    for marker in artifact.markers:
        columns = artifact.shard(marker.shard)
        hashes = (row.tobytes() for row in np.asarray(columns["content_hash"]))
        yield from zip(unpack_strings(columns, "key"), hashes, strict=True)


@dataclass(frozen=True, slots=True)
class _Entry:
    content: bytes
    size: tuple[int, int]
    file_bytes: int


@dataclass(frozen=True, slots=True)
class IndexWork:
    """Index the shards of ``source`` (picklable; see ``shards.ShardWork``)."""

    source: Source

    def open(self) -> IndexWork:
        return self

    def run(self, indices: range, tick: Tick) -> ShardResult:
        entries, skipped = [], []
        for index in indices:
            entry, problem = self._entry(index)
            entries.append(entry)
            if problem is not None:
                skipped.append(Skipped(key=self.source.key(index), reason=problem))
            tick(1)
        labels = [-1 if (v := self.source.label(i)) is None else v for i in indices]
        columns: dict[str, NDArray] = {
            **pack_strings("key", [self.source.key(i) for i in indices]),
            **pack_strings("file", [self._file(i) for i in indices]),
            "label": np.array(labels, np.int32),
            "content_hash": np.frombuffer(b"".join(e.content for e in entries), np.uint8).reshape(-1, DIGEST_SIZE),
            "size": np.array([e.size for e in entries], np.int32).reshape(-1, 2),
            "file_bytes": np.array([e.file_bytes for e in entries], np.int64),
        }
        return ShardResult(columns, skipped)

    def _file(self, index: int) -> str:
        if not isinstance(self.source, FileSource):
            return ""
        return os.path.relpath(self.source.path(index), self.source.root)

    def _entry(self, index: int) -> tuple[_Entry, str | None]:
        data: bytes | None = None
        try:
            data = self.source.encoded(index)
            image = self.source.read(index) if data is None else decode_image(data)
        except UnreadableImage as error:
            return _Entry(content_hash(data or b""), (0, 0), len(data or b"")), str(error)
        content = self.source.content_hash(index) if data is None else content_hash(data)
        return _Entry(content, (image.shape[0], image.shape[1]), len(data or b"")), None
