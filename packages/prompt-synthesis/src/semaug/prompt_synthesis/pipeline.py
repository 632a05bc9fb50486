"""The stages of LMM-MPA over a whole image source, each one artifact (spec S2, S5): captions, prompts and mask maps;
``generation`` has the last one.

Every stage works shard by shard and resumes; a shard's batches are the same in every run, so that an interrupted run
ends with the artifact of an undisturbed one, bit for bit. One stage's model is open at a time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import ArtifactKind, Manifest
from semaug.artifacts.shards import ShardResult, Tick, Workers, process_shards
from semaug.artifacts.sources import ImageSource, inputs_of
from semaug.artifacts.store import ArtifactSummary, ArtifactWriter
from semaug.prompt_synthesis.captions import Captioner
from semaug.prompt_synthesis.mask_maps import Panoptic
from semaug.prompt_synthesis.parts import Models, Part
from semaug.prompt_synthesis.reading import read_batches
from semaug.prompt_synthesis.rewriting import Rewriter
from semaug.prompt_synthesis.store import (
    CaptionTable,
    caption_columns,
    map_columns,
    prompt_columns,
)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Running:
    """How a stage runs, which never decides what it writes.

    ``workers`` processes (of this machine, or of an engine) work on shards of their own, each with its own model;
    ``models`` are those open here.
    """

    workers: Workers = 1
    overwrite: bool = False
    on_progress: OnProgress = ignore_progress
    models: Models = field(default_factory=Models)


def write_stage(manifest: Manifest, work: Any, out: PathLike, stage: str, running: Running) -> ArtifactSummary:
    """Run the work of one stage shard by shard into the artifact at ``out``, and close its model."""
    with running.models.stage(), ArtifactWriter.open(out, manifest, overwrite=running.overwrite) as writer:
        process_shards(writer, work, stage=stage, workers=running.workers, on_progress=running.on_progress)
        return writer.finish()


@dataclass(frozen=True, slots=True)
class CaptionWork:
    """Captions of the shards of a source."""

    source: ImageSource
    part: Part[Captioner]
    seed: int
    models: Models

    def open(self) -> CaptionWork:
        self.models.take(self.part)
        return self

    def run(self, indices: range, tick: Tick) -> ShardResult:
        captioner = self.models.take(self.part)
        keys, captions, skipped = [], [], []
        for batch in read_batches(self.source, indices, self.part.batch_size):
            captions += captioner.caption(batch.images, self.seed, batch.keys) if batch.keys else []
            keys += batch.keys
            skipped += batch.skipped
            tick(len(batch))
        return ShardResult(caption_columns(keys, captions), skipped)


def caption_images(
    source: ImageSource,
    out: PathLike,
    captioner: Part[Captioner],
    *,
    seed: int = 0,
    shard_size: int = 256,
    running: Running | None = None,
) -> ArtifactSummary:
    """Write a ``captions`` artifact: one caption an image. Rerunning resumes.

    Raises what the captioner and ``ArtifactWriter.open`` raise.
    """
    running = running or Running()
    manifest = Manifest(
        kind="captions",
        items=len(source),
        shard_size=shard_size,
        seed=seed,
        config={"captioner": captioner.identity(), "batch_size": captioner.batch_size},
        inputs=inputs_of(source),
        info={"spec": source.spec},
    )
    work = CaptionWork(source, captioner, seed, running.models)
    return write_stage(manifest, work, out, "caption", running)


@dataclass(frozen=True)
class RewriteWork:
    """Rewritten prompts of the shards of a captions artifact, in its order."""

    captions: str
    part: Part[Rewriter]
    n_sem: int
    seed: int
    models: Models

    @cached_property
    def rows(self) -> list[tuple[str, str]]:
        """Keys and captions."""
        return [(key, caption.text) for key, caption in CaptionTable.open(self.captions).captions.items()]

    def open(self) -> RewriteWork:
        self.models.take(self.part)
        assert self.rows
        return self

    def run(self, indices: range, tick: Tick) -> ShardResult:
        rewriter = self.models.take(self.part)
        rows = [(*self.rows[i], draw) for i in indices for draw in range(1, self.n_sem + 1)]
        texts = []
        for start in range(0, len(rows), self.part.batch_size):
            keys, captions, draws = zip(*rows[start : start + self.part.batch_size], strict=True)
            texts += rewriter.rewrite(captions, keys, draws, self.seed)
            tick(len(texts) // self.n_sem - start // self.n_sem)
        return ShardResult(prompt_columns([self.rows[i][0] for i in indices], texts, self.n_sem))


def rewrite_captions(
    captions: PathLike,
    out: PathLike,
    rewriter: Part[Rewriter],
    *,
    n_sem: int = 1,
    seed: int = 0,
    shard_size: int = 256,
    running: Running | None = None,
) -> ArtifactSummary:
    """Write a ``prompts`` artifact: ``n_sem`` rewritings of every caption. Rerunning resumes.

    Raises ``InvalidOption`` for no rewriting, and what the rewriter and ``ArtifactWriter.open`` raise.
    """
    if n_sem < 1:
        raise InvalidOption(f"n_sem is {n_sem}: nothing is to be rewritten; give 1 or more")
    running, table = running or Running(), CaptionTable.open(captions)
    manifest = Manifest(
        kind="prompts",
        items=len(table.captions),
        shard_size=shard_size,
        seed=seed,
        config={"rewriter": rewriter.identity(), "batch_size": rewriter.batch_size, "n_sem": n_sem},
        inputs={"source": table.source, "captions": table.digest},
        info={"captions": str(captions)},
    )
    work = RewriteWork(os.fspath(captions), rewriter, n_sem, seed, running.models)
    return write_stage(manifest, work, out, "rewrite", running)


@dataclass(frozen=True, slots=True)
class SegmentWork:
    """Mask maps of the shards of a source; ``more_labels`` map the model's labels to ADE20K's names."""

    source: ImageSource
    part: Part[Panoptic]
    more_labels: Mapping[str, str]
    models: Models

    def open(self) -> SegmentWork:
        self.models.take(self.part)
        return self

    def run(self, indices: range, tick: Tick) -> ShardResult:
        segmenter = self.models.take(self.part)
        keys, maps, skipped = [], [], []
        for batch in read_batches(self.source, indices, self.part.batch_size):
            found = segmenter.segment(batch.images) if batch.keys else []
            maps += [one.classes(self.more_labels) for one in found]
            keys += batch.keys
            skipped += batch.skipped
            tick(len(batch))
        return ShardResult(map_columns(keys, maps), skipped)


def segment_images(
    source: ImageSource,
    out: PathLike,
    panoptic: Part[Panoptic],
    *,
    more_labels: Mapping[str, str] | None = None,
    shard_size: int = 256,
    running: Running | None = None,
) -> ArtifactSummary:
    """Write a ``mask_maps`` artifact: the ADE20K class of every pixel. Rerunning resumes.

    ``more_labels`` maps labels of the model that are neither ADE20K's nor COCO's to ADE20K's names. Raises what the
    segmenter and ``ArtifactWriter.open`` raise.
    """
    running = running or Running()
    manifest = Manifest(
        kind="mask_maps",
        items=len(source),
        shard_size=shard_size,
        config={
            "panoptic": panoptic.identity(),
            "batch_size": panoptic.batch_size,
            "more_labels": dict(more_labels or {}),
        },
        inputs=inputs_of(source),
        info={"spec": source.spec},
    )
    work = SegmentWork(source, panoptic, dict(more_labels or {}), running.models)
    return write_stage(manifest, work, out, "segment", running)


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage took: seconds of one worker, those spent loading models apart, and memory in bytes."""

    stage: str
    items: int
    seconds: float
    load_seconds: float
    peak_memory: int

    @property
    def per_1000(self) -> float:
        """Seconds for 1,000 images."""
        return 1000 * self.seconds / self.items if self.items else 0.0


STAGES: dict[ArtifactKind, str] = {
    "captions": "caption",
    "prompts": "rewrite",
    "mask_maps": "segment",
    "synthetic": "generate",
    "similarity": "similarity",
}
"""Kind of artifact -> the stage that writes it."""


def stage_costs(paths: Sequence[PathLike]) -> list[StageCost]:
    """What each stage took (Table 13), read off the artifacts they wrote."""
    rows = []
    for path in paths:
        artifact = Artifact.open(path)
        costs = [marker.costs for marker in artifact.markers]
        rows.append(
            StageCost(
                STAGES.get(artifact.manifest.kind, artifact.manifest.kind),
                artifact.manifest.items,
                sum(c.seconds for c in costs),
                sum(c.warm_seconds for c in costs),
                max((c.peak_memory for c in costs), default=0),
            )
        )
    return rows
