"""Descriptors of images for proposals: object, context, light and size, as an artifact that is made once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactError, UnreadableImage
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.outside import reading
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest, QualityScore, Skipped
from semaug.artifacts.shards import ShardResult, Tick, Workers, process_shards
from semaug.artifacts.sources import ImageSource, inputs_of
from semaug.artifacts.store import ArtifactSummary, ArtifactWriter
from semaug.pairs_dataset.appearance import (
    context_statistics,
    difference_hash,
    mean_luminance,
    object_statistics,
)
from semaug.pairs_dataset.regions import Cut, Pixels, cut, object_region

STATISTICS = "colour and texture statistics"
CROP_SIDE = 64
"""Pixels a side of the object's crop where no encoder says otherwise."""
BATCH = 64
VERSION = 1
"""Raised whenever some descriptor of an image changes."""

Floats = NDArray[np.float32]


class RegionEncoder(Protocol):
    """A picklable encoder of image regions, loaded where ``open`` is called."""

    @property
    def name(self) -> str:
        """What it is called in records."""
        ...

    @property
    def size(self) -> int:
        """Pixels a side of the images it takes."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides its features, as plain values."""
        ...

    def open(self) -> EncodeRegions: ...


class EncodeRegions(Protocol):
    """Features float32 (n, d) of images uint8 (n, S, S, 3)."""

    def __call__(self, images: Pixels) -> Floats: ...


class ScoreImage(Protocol):
    """The quality score of an image, by its key or of its pixels."""

    def __call__(self, key: str, image: Pixels) -> QualityScore: ...


@dataclass(frozen=True, slots=True)
class DescribeWork:
    """Describe the shards of ``source`` (picklable; see ``shards.ShardWork``)."""

    source: ImageSource
    guidance: GuidanceTable | None
    score: ScoreImage
    encoder: RegionEncoder | None

    def open(self) -> _Describer:
        """Load the encoder."""
        return _Describer(self, self.encoder.open() if self.encoder is not None else None)


class _Describer:
    def __init__(self, work: DescribeWork, encode: EncodeRegions | None) -> None:
        self.work, self.encode = work, encode
        self.size = work.encoder.size if work.encoder is not None else CROP_SIDE

    def run(self, indices: range, tick: Tick) -> ShardResult:
        """Columns of the images at ``indices``; unreadable images are skipped."""
        batches, skipped = [], []
        for start in range(indices.start, indices.stop, BATCH):
            found: list[_Described] = []
            for index in range(start, min(start + BATCH, indices.stop)):
                key = self.work.source.key(index)
                try:
                    found.append(self._describe(key, self.work.source.read(index)))
                except UnreadableImage as error:
                    skipped.append(Skipped(key=key, reason=str(error)))
                tick(1)
            if found:
                batches.append(self._columns(found))
        return ShardResult(_joined(batches, self.work.encoder is not None), skipped)

    def _describe(self, key: str, image: Pixels) -> _Described:
        region = object_region(self.work.guidance.get(key) if self.work.guidance is not None else None)
        return _Described(key, cut(image, region, self.size), self.work.score(key, image), region.found)

    def _columns(self, rows: Sequence[_Described]) -> dict[str, Any]:
        parts = [row.part for row in rows]
        light = [(*mean_luminance(row.part), row.quality.diversity) for row in rows]
        columns = {
            "key": [row.key for row in rows],
            "object": np.stack([object_statistics(part) for part in parts]),
            "context": np.stack([context_statistics(part) for part in parts]),
            "light": np.array(light, np.float32),
            "side": np.array([_object_side(row) for row in rows], np.float32),
            "share": np.array([part.share for part in parts], np.float32),
            "hash": np.array([difference_hash(part.small) for part in parts], np.uint64),
            "found": np.array([row.found for row in rows], bool),
        }
        if self.encode is not None:
            columns["object_features"] = self.encode(np.stack([part.crop for part in parts]))
            columns["context_features"] = self.encode(np.stack([part.context(self.size) for part in parts]))
        return columns


@dataclass(frozen=True, slots=True)
class _Described:
    key: str
    part: Cut
    quality: QualityScore
    found: bool


def _object_side(row: _Described) -> float:
    """Root of the object's area in pixels of the image as it was scored."""
    return float(np.sqrt(max(row.part.share, 1e-4) * row.quality.height * row.quality.width))


def _joined(batches: Sequence[Mapping[str, Any]], encoded: bool) -> dict[str, NDArray]:
    if not batches:
        empty: dict[str, NDArray] = {name: np.zeros((0, 0), np.float32) for name in ("object", "context", "light")}
        empty |= {"side": np.zeros(0, np.float32), "share": np.zeros(0, np.float32), "found": np.zeros(0, bool)}
        empty |= {name: np.zeros((0, 0), np.float32) for name in ("object_features", "context_features") if encoded}
        return {**pack_strings("key", []), **empty, "hash": np.zeros(0, np.uint64)}
    columns = {name: np.concatenate([b[name] for b in batches]) for name in batches[0] if name != "key"}
    return {**pack_strings("key", [key for b in batches for key in b["key"]]), **columns}


def describe_source(
    source: ImageSource,
    out: str | os.PathLike[str],
    *,
    score: ScoreImage,
    guidance: GuidanceTable | None = None,
    encoder: RegionEncoder | None = None,
    inputs: Mapping[str, str] | None = None,
    workers: Workers = 1,
    shard_size: int = 512,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ArtifactSummary:
    """Write the ``descriptors`` artifact of every image of ``source``.

    The object is where ``guidance`` says (the largest mask, else box), without it the centre of the image. ``score``
    gives the quality of an image, ``encoder`` features of object and context beside the colour and texture statistics.
    ``inputs`` are digests of what these read. Rerunning resumes. Raises ``ArtifactError`` for guidance of other images,
    ``ArtifactMismatch`` where ``out`` was made otherwise.
    """
    if guidance is not None and guidance.source:
        guidance.require_source(source.fingerprint)
    manifest = Manifest(
        kind="descriptors",
        items=len(source),
        shard_size=shard_size,
        config={"version": VERSION, "encoder": encoder.identity() if encoder is not None else None},
        inputs={
            **inputs_of(source),
            **({"guidance": guidance.digest} if guidance is not None else {}),
            **(inputs or {}),
        },
        info={"spec": source.spec, "encoder": encoder.name if encoder is not None else STATISTICS},
    )
    with ArtifactWriter.open(out, manifest, overwrite=overwrite) as writer:
        work = DescribeWork(source, guidance, score, encoder)
        process_shards(writer, work, stage="describe", workers=workers, on_progress=on_progress)
        return writer.finish()


@dataclass(frozen=True)
class Descriptors:
    """All descriptors of an artifact, in the order of ``keys``.

    ``object`` and ``context`` float32 (n, d) are statistics of unit length, ``object_features`` and
    ``context_features`` (n, e) an encoder's, None without one. ``light`` (n, 3) holds the luminance of object and
    background and the diversity (D of the quality score), in [0, 1]; ``side`` (n,) the object's side in pixels,
    ``share`` its part of the image; ``hash`` uint64 (n,) a perceptual hash. ``found`` says where guidance had an
    object; ``encoder`` which features these are.
    """

    keys: tuple[str, ...] = field(repr=False)
    object: Floats = field(repr=False)
    context: Floats = field(repr=False)
    light: Floats = field(repr=False)
    side: Floats = field(repr=False)
    share: Floats = field(repr=False)
    hash: NDArray[np.uint64] = field(repr=False)
    found: NDArray[np.bool_] = field(repr=False)
    object_features: Floats | None = field(default=None, repr=False)
    context_features: Floats | None = field(default=None, repr=False)
    encoder: str = STATISTICS
    digest: str = ""
    source: str = ""
    guided: bool = False
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Descriptors:
        """Read a whole artifact into memory; raises ``ArtifactError``."""
        artifact = Artifact.open(path, "descriptors")
        manifest = artifact.manifest
        if manifest.config.get("version") != VERSION:
            raise ArtifactError(
                f"{path} holds descriptors of version {manifest.config.get('version')}, this semaug makes {VERSION}; "
                "delete it and propose again"
            )
        names = ["object", "context", "light", "side", "share", "hash", "found"]
        if manifest.config.get("encoder") is not None:
            names += ["object_features", "context_features"]
        filled = [m.shard for m in artifact.markers if m.items]
        shards = [artifact.shard(s) for s in filled] or [artifact.shard(m.shard) for m in artifact.markers[:1]]
        with reading(path):
            columns: dict[str, Any] = {name: np.concatenate([s[name] for s in shards]) for name in names}
            return cls(
                tuple(artifact.keys), **columns, encoder=str(manifest.info.get("encoder", STATISTICS)),
                digest=artifact.digest, source=manifest.inputs.get("source", ""), guided="guidance" in manifest.inputs,
                skipped=artifact.skipped,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.keys)
