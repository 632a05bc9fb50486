"""Scoring a whole image source into a ``quality`` artifact, and the table that reads one."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactError, UnreadableImage
from semaug.artifacts.outside import reading
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest, QualityScore, Scale, Skipped
from semaug.artifacts.shards import ShardResult, Tick, Workers, process_shards
from semaug.artifacts.sources.base import inputs_of
from semaug.artifacts.sources.protocol import ImageSource
from semaug.artifacts.store import ArtifactSummary, ArtifactWriter
from semaug.quality_policy.normalisers import RobustRange
from semaug.quality_policy.policies import RoutingPolicy, routing_histogram
from semaug.quality_policy.scores import ImageStatistics, image_statistics
from semaug.quality_policy.scoring import Components, RawStatistics, Scoring

_COMPONENTS = ("resolution", "clarity", "diversity", "quality")
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class ScoreWork:
    """Score the shards of ``source`` (picklable; see ``shards.ShardWork``)."""

    source: ImageSource
    scoring: Scoring

    def open(self) -> ScoreWork:
        """Compile, or load from the cache, outside the time of the images."""
        image_statistics(np.zeros((2, 2, 3), np.uint8))
        return self

    def run(self, indices: range, tick: Tick) -> ShardResult:
        """Columns of the images at ``indices``; unreadable images are skipped."""
        keys: list[str] = []
        rows: list[ImageStatistics] = []
        skipped: list[Skipped] = []
        for index in indices:
            key = self.source.key(index)
            try:
                rows.append(image_statistics(self.source.read(index)))
                keys.append(key)
            except UnreadableImage as error:
                skipped.append(Skipped(key=key, reason=str(error)))
            tick(1)
        return ShardResult(_columns(keys, RawStatistics.of(rows), self.scoring), skipped)


def _columns(keys: Sequence[str], raw: RawStatistics, scoring: Scoring) -> dict[str, NDArray]:
    """Raw statistics always; R, C, D and Q only where one image decides them (no ``dataset`` normaliser)."""
    columns: dict[str, NDArray] = {
        **pack_strings("key", keys),
        "size": np.stack([raw.height, raw.width], axis=1).astype(np.int32),
        "laplacian_variance": raw.laplacian_variance,
        "entropy": raw.entropy,
    }
    if not scoring.fitted_names:
        parts = scoring.components(raw)
        columns |= {name: getattr(parts, name) for name in _COMPONENTS}
    return columns


def score_source(
    source: ImageSource,
    out: str | os.PathLike[str],
    *,
    scoring: Scoring | None = None,
    workers: Workers = 1,
    shard_size: int = 1024,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ArtifactSummary:
    """Write the ``quality`` artifact of every image of ``source`` as ``read`` gives it, before any resize.

    Rerunning resumes. The ranges of ``dataset`` normalisers are fitted over the whole set at the end and kept in the
    manifest's notes; scores that depend on them are derived when the artifact is read. Unreadable images are skipped.
    Raises ``ArtifactMismatch`` where ``out`` was made otherwise.
    """
    scoring = scoring or Scoring()
    manifest = Manifest(
        kind="quality",
        items=len(source),
        shard_size=shard_size,
        config={"scoring": scoring.identity()},
        inputs=inputs_of(source),
        info={"spec": source.spec},
    )
    with ArtifactWriter.open(out, manifest, overwrite=overwrite) as writer:
        process_shards(writer, ScoreWork(source, scoring), stage="score", workers=workers, on_progress=on_progress)
        fitted = scoring.fit(_read_raw(Artifact.open(out, "quality")))
        ranges = {name: [r.low, r.high] for name, r in fitted.ranges.items()}
        return writer.finish({"ranges": ranges} if ranges else None)


def _read_raw(artifact: Artifact) -> RawStatistics:
    if not artifact.markers:
        return RawStatistics.of([])
    size = artifact.column("size")
    variance, entropy = artifact.column("laplacian_variance"), artifact.column("entropy")
    return RawStatistics(size[:, 0], size[:, 1], variance, entropy)


@dataclass(frozen=True)
class QualityTable:
    """All scores of an artifact: arrays in the order of ``keys``, and single scores by key.

    ``digest`` identifies the artifact, ``source`` and ``pixels`` its images (``inputs_of``). Scoring anew needs no
    image: ``rescored`` gives the table under other weights or normalisers.
    """

    keys: tuple[str, ...] = field(repr=False)
    raw: RawStatistics = field(repr=False)
    scoring: Scoring
    digest: str = ""
    source: str = ""
    skipped: tuple[Skipped, ...] = ()
    pixels: str = ""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> QualityTable:
        """Read a whole quality artifact into memory; raises ``ArtifactError``."""
        artifact = Artifact.open(path, "quality")
        inputs = artifact.manifest.inputs
        source, pixels = inputs.get("source", ""), inputs.get("pixels", "")
        with reading(path):
            raw = _read_raw(artifact)
            scoring = Scoring.from_identity(artifact.manifest.config["scoring"])
            scoring = _with_ranges(scoring, artifact.manifest.info.get("ranges", {}), raw)
            return cls(tuple(artifact.keys), raw, scoring, artifact.digest, source, artifact.skipped, pixels)

    def rescored(self, scoring: Scoring) -> QualityTable:
        """The same images under another scoring; ``dataset`` ranges are fitted to this table where none are given."""
        return replace(self, scoring=_with_ranges(scoring, {}, self.raw))

    @cached_property
    def components(self) -> Components:
        """R, C, D and Q: float64, shape (n,) each."""
        return self.scoring.components(self.raw)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self.keys)}

    def get(self, key: str) -> QualityScore | None:
        """The score of one image, or None when it was skipped."""
        row = self._rows.get(key)
        return None if row is None else self.score(row)

    def score(self, row: int) -> QualityScore:
        """The score of the image ``keys[row]``."""
        raw, parts = self.raw, self.components
        return QualityScore(
            int(raw.height[row]),
            int(raw.width[row]),
            float(raw.laplacian_variance[row]),
            float(raw.entropy[row]),
            *(float(getattr(parts, name)[row]) for name in _COMPONENTS),
        )

    def routes(self, policy: RoutingPolicy) -> list[Scale]:
        """The scale of every image, in the order of ``keys``."""
        return [policy.route(key, self.score(i)) for i, key in enumerate(self.keys)]

    def require_source(self, source: ImageSource) -> None:
        """Refuse scores that were made on other images, or on these at another size (quality is of the size read)."""
        if not self.source:
            return
        found = inputs_of(source)
        ours, theirs = (self.source, self.pixels), (found["source"], found.get("pixels", ""))
        if ours != theirs:
            raise ArtifactError(
                f"the scores were made on images {' resized to '.join(filter(None, ours))}, these are "
                f"{' resized to '.join(filter(None, theirs))}; run `semaug quality score` on this folder"
            )

    def __len__(self) -> int:
        return len(self.keys)


def _with_ranges(scoring: Scoring, stored: dict[str, list[float]], raw: RawStatistics) -> Scoring:
    if not scoring.fitted_names or scoring.ranges:
        return scoring
    if not stored:
        return scoring.fit(raw)
    return replace(scoring, ranges={name: RobustRange(*ends) for name, ends in stored.items()})


def quality_report(table: QualityTable, policy: RoutingPolicy) -> dict[str, Any]:
    """n, skipped, the routing histogram, and the quantiles of R, C, D and Q, as plain values."""
    parts = table.components
    quantiles = {
        name: {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(getattr(parts, name), QUANTILES), strict=True)}
        for name in _COMPONENTS
        if len(table)
    }
    return {
        "n": len(table),
        "skipped": len(table.skipped),
        "routing": routing_histogram(table.routes(policy)),
        "quantiles": quantiles,
        "scoring": table.scoring.identity(),
        "policy": policy.identity(),
    }


def write_csv(table: QualityTable, policy: RoutingPolicy, file: TextIO) -> None:
    """One row an image: key, size, raw statistics, R, C, D, Q and the route."""
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["key", "height", "width", "laplacian_variance", "entropy", *_COMPONENTS, "route"])
    for i, (key, route) in enumerate(zip(table.keys, table.routes(policy), strict=True)):
        score = table.score(i)
        values = (score.laplacian_variance, score.entropy, *(getattr(score, name) for name in _COMPONENTS))
        rows.writerow([key, score.height, score.width, *map(repr, values), route])
