"""Guidance of a whole image source, shard by shard, as one artifact."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption, UnreadableImage
from semaug.artifacts.guidance_table import guidance_columns
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import SCALES, Guidance, Manifest, Skipped
from semaug.artifacts.shards import ShardResult, Tick, Workers, process_shards
from semaug.artifacts.sources import ImageSource, inputs_of
from semaug.artifacts.store import ArtifactSummary, ArtifactWriter
from semaug.oracles.adaptive import AdaptiveOracle, DeferredDetector, DeferredSegmenter, FixedScale, Routing
from semaug.oracles.catalogue import OracleSpec, open_detector, open_segmenter, trained_on
from semaug.oracles.protocols import Image
from semaug.oracles.routing import ScoredRouting, TableRouting
from semaug.quality_policy.policies import Granularity, RoutingPolicy, make_policy
from semaug.quality_policy.scoring import Scoring
from semaug.quality_policy.table import QualityTable

SALIENCY, GRABCUT = OracleSpec("saliency"), OracleSpec("grabcut")


class Guide(Protocol):
    """What turns a batch of images into guidance; ``AdaptiveOracle`` is one."""

    def guide(self, keys: Sequence[str], images: Sequence[Image]) -> list[Guidance]: ...


class GuidanceRunner:
    """Runs a guide over shards; the next batch is decoded while the models work on this one."""

    def __init__(self, source: ImageSource, guide: Guide, batch_size: int, deferred: Sequence[Any] = ()) -> None:
        """``deferred`` oracles have ``load_seconds``, which the shard's time leaves out."""
        self._source, self._guide, self._batch_size, self._deferred = source, guide, batch_size, deferred
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="semaug-read")

    def run(self, indices: range, tick: Tick) -> ShardResult:
        """Guidance columns of the images at ``indices``; unreadable images are skipped."""
        loaded = self._load_seconds()
        rows: list[Guidance] = []
        skipped: list[Skipped] = []
        for keys, images, missed in self._batches(indices):
            rows += self._guide.guide(keys, images) if keys else []
            skipped += missed
            tick(len(keys) + len(missed))
        return ShardResult(guidance_columns(rows), skipped, self._load_seconds() - loaded)

    def _load_seconds(self) -> float:
        return float(sum(oracle.load_seconds for oracle in self._deferred))

    def _batches(self, indices: range) -> Iterator[tuple[list[str], list[Image], list[Skipped]]]:
        starts = range(indices.start, indices.stop, self._batch_size)
        parts = [range(start, min(start + self._batch_size, indices.stop)) for start in starts]
        ahead: Future[Any] | None = None
        for i, part in enumerate(parts):
            current = ahead.result() if ahead is not None else self._read(part)
            ahead = self._reader.submit(self._read, parts[i + 1]) if i + 1 < len(parts) else None
            yield current

    def _read(self, part: range) -> tuple[list[str], list[Image], list[Skipped]]:
        keys, images, skipped = [], [], []
        for index in part:
            key = self._source.key(index)
            try:
                images.append(self._source.read(index))
                keys.append(key)
            except UnreadableImage as error:
                skipped.append(Skipped(key=key, reason=str(error)))
        return keys, images, skipped


@dataclass(frozen=True, slots=True)
class ExtractionWork:
    """The picklable description of an extraction; a worker opens each oracle at most once."""

    source: ImageSource
    detector: OracleSpec
    segmenter: OracleSpec
    routing: Routing
    eager: tuple[str, ...]
    batch_size: int
    max_boxes: int | None

    def open(self) -> GuidanceRunner:
        """Load the models that every image needs; the others wait for their first use."""
        detector = DeferredDetector(lambda: open_detector(self.detector.placed()), self.detector.name)
        segmenter = DeferredSegmenter(lambda: open_segmenter(self.segmenter.placed()), self.segmenter.name)
        if isinstance(self.routing, ScoredRouting):
            self.routing.warm_up()
        if "detector" in self.eager:
            detector.open()
        if "segmenter" in self.eager:
            segmenter.open()
        oracle = AdaptiveOracle(detector, segmenter, self.routing, max_boxes=self.max_boxes)
        return GuidanceRunner(self.source, oracle, self.batch_size, (detector, segmenter))


_EAGER: Mapping[Granularity, tuple[str, ...]] = {
    "auto": (),
    "object": ("detector",),
    "pixel": ("segmenter",),
    "hybrid": ("detector", "segmenter"),
}


def extract_guidance(
    source: ImageSource,
    out: str | os.PathLike[str],
    *,
    detector: OracleSpec = SALIENCY,
    segmenter: OracleSpec = GRABCUT,
    granularity: Granularity = "auto",
    policy: RoutingPolicy | None = None,
    quality: QualityTable | None = None,
    scoring: Scoring | None = None,
    max_boxes: int | None = None,
    batch_size: int = 16,
    workers: Workers = 1,
    shard_size: int = 256,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ArtifactSummary:
    """Write a ``guidance`` artifact of every image of ``source`` (SDI, spec S1.2 and S1.3).

    ``granularity`` other than ``auto`` sends every image one way; ``auto`` routes by ``policy`` (by default the
    soft one, drawn with ``seed``) on the scores of ``quality``, or on scores computed on the fly by ``scoring``.
    Rerunning resumes. Memory does not grow with the number of images.

    Raises ``InvalidOption``, ``MissingWeights``, ``MissingDependency`` and ``OracleError`` for the oracles,
    ``ArtifactError`` for scores of other images, ``ArtifactMismatch`` where ``out`` was made otherwise.
    """
    if batch_size < 1 or (max_boxes is not None and max_boxes < 1):
        raise InvalidOption(f"batch_size={batch_size} and max_boxes={max_boxes}: give at least 1")
    routing, config, inputs = _routing(source, granularity, policy or make_policy("soft", seed=seed), quality, scoring)
    config["max_boxes"] = max_boxes
    learned = {}
    if granularity != "pixel":
        config["detector"] = detector.identity()
        learned["detector"] = trained_on("detector", detector)
    if granularity != "object":
        config["segmenter"] = segmenter.identity()
        learned["segmenter"] = trained_on("segmenter", segmenter)
    info = {"spec": source.spec, "detector": str(detector), "segmenter": str(segmenter), "trained_on": learned}
    manifest = Manifest(
        kind="guidance",
        items=len(source),
        shard_size=shard_size,
        seed=seed,
        config=config,
        inputs={**inputs_of(source), **inputs},
        info=info,
    )
    work = ExtractionWork(source, detector, segmenter, routing, _EAGER[granularity], batch_size, max_boxes)
    return write_guidance(manifest, work, out, "guide", workers, overwrite, on_progress)


def _routing(
    source: ImageSource,
    granularity: Granularity,
    policy: RoutingPolicy,
    quality: QualityTable | None,
    scoring: Scoring | None,
) -> tuple[Routing, dict[str, Any], dict[str, str]]:
    """The routing, and what of it belongs into the manifest's config and inputs."""
    config: dict[str, Any] = {"granularity": granularity}
    if granularity != "auto":
        return FixedScale(granularity), config, {}
    scoring = scoring or (quality.scoring if quality is not None else Scoring())
    config["routing"] = {**policy.identity(), "scoring": scoring.identity()}
    if quality is None:
        return ScoredRouting(policy, scoring), config, {}
    quality.require_source(source)
    return TableRouting.of(quality.rescored(scoring), policy), config, {"quality": quality.digest}


def write_guidance(
    manifest: Manifest,
    work: Any,
    out: str | os.PathLike[str],
    stage: str,
    workers: Workers,
    overwrite: bool,
    on_progress: OnProgress,
) -> ArtifactSummary:
    """Run guidance work shard by shard into the artifact at ``out``."""
    with ArtifactWriter.open(out, manifest, overwrite=overwrite) as writer:
        process_shards(writer, work, stage=stage, workers=workers, on_progress=on_progress)
        return writer.finish()


@dataclass(frozen=True, slots=True)
class GuidanceReport:
    """What a guidance artifact holds, in counts."""

    images: int
    scales: dict[str, int]
    fallback: int
    boxes: int
    masks: int
    skipped: int

    @property
    def fallback_share(self) -> float:
        """Share of the images whose oracles found nothing."""
        return self.fallback / self.images if self.images else 0.0


def report_guidance(path: str | os.PathLike[str]) -> GuidanceReport:
    """Count the scales used, the misses, the boxes and the masks of a guidance artifact."""
    artifact = Artifact.open(path, "guidance")
    scales, fallback = np.zeros(len(SCALES), np.int64), 0
    images = boxes = masks = 0
    for marker in artifact.markers:
        columns = artifact.shard(marker.shard)
        scales += np.bincount(columns["scale"], minlength=len(SCALES))
        fallback += int(columns["fallback"].sum())
        images += marker.items
        boxes += int(_last(columns["boxes_offsets"]))
        masks += int(_last(columns["mask_row_offsets"]))
    counts = {str(name): int(n) for name, n in zip(SCALES, scales, strict=True)}
    return GuidanceReport(images, counts, fallback, boxes, masks, len(artifact.skipped))


def _last(offsets: NDArray[np.int64]) -> int:
    return int(offsets[-1])


def costs_per_1000(path: str | os.PathLike[str]) -> dict[str, float]:
    """Seconds of one worker per 1,000 images (loading models left out), loading seconds, and peak memory in MB."""
    artifact = Artifact.open(path)
    costs = [marker.costs for marker in artifact.markers]
    images = max(1, artifact.manifest.items)
    return {
        "seconds": sum(c.seconds for c in costs) / images * 1000,
        "load_seconds": sum(c.warm_seconds for c in costs),
        "peak_memory_mb": max((c.peak_memory for c in costs), default=0) / 1e6,
    }
