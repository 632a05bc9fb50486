"""LMM-MPA from images to synthetic positives: the stages one after another, and how well they kept the objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources import open_source
from semaug.artifacts.synthetic_table import SyntheticTable

if TYPE_CHECKING:
    from semaug.artifacts.store import ArtifactSummary
    from semaug.oracles.catalogue import OracleSpec
    from semaug.prompt_synthesis.captions import Captioner
    from semaug.prompt_synthesis.generation import GenerationPlan
    from semaug.prompt_synthesis.generators import Generator
    from semaug.prompt_synthesis.mask_maps import Panoptic
    from semaug.prompt_synthesis.parts import Part
    from semaug.prompt_synthesis.pipeline import Running, StageCost
    from semaug.prompt_synthesis.rewriting import Rewriter
    from semaug.prompt_synthesis.similarity import ImageEmbedder


@dataclass(frozen=True, slots=True)
class SynthesisPlan:
    """The models of all stages, and what they make.

    ``size`` is the side of what the generator makes, in pixels. ``captions``, ``prompts`` and ``maps`` are finished
    artifacts that are taken as they are. A model that no stage needs may be None: the rewriter without ``n_sem``, the
    panoptic model for visual prompts without a map, ``clip`` where nothing is to be measured.
    """

    generator: Part[Generator]
    generation: GenerationPlan
    size: int
    captioner: Part[Captioner] | None = None
    rewriter: Part[Rewriter] | None = None
    panoptic: Part[Panoptic] | None = None
    clip: Part[ImageEmbedder] | None = None
    captions: Path | None = None
    prompts: Path | None = None
    maps: Path | None = None
    more_labels: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    shard_size: int = 64


@dataclass(frozen=True, slots=True)
class Synthesised:
    """What ``synthesise`` wrote: the synthetic images, every artifact by stage, and what each stage took."""

    summary: ArtifactSummary
    artifacts: dict[str, Path]
    costs: tuple[StageCost, ...]


def stage_path(out: Path, stage: str) -> Path:
    """Where a stage before (or after) the synthetic images of ``out`` is kept: beside them."""
    return out.with_name(f"{out.stem}-{stage}.zarr")


def synthesise(images: str, out: Path, plan: SynthesisPlan, *, running: Running | None = None) -> Synthesised:
    """Caption, rewrite, segment, generate and compare, as far as ``plan`` needs it; rerunning resumes each stage.

    One stage's model is open at a time, unless ``running.models`` keeps them. Raises ``InvalidOption`` for a stage that
    is needed and has neither a model nor an artifact, and what the stages raise.
    """
    from semaug.prompt_synthesis.generation import generate_images
    from semaug.prompt_synthesis.pipeline import Running, stage_costs
    from semaug.prompt_synthesis.similarity import measure_similarity

    source, running = open_source(images), running or Running()
    _check_models(plan)
    found = _before(source, out, plan, running)
    try:
        summary = generate_images(
            source, out, plan.generator, found["captions"], size=plan.size, plan=plan.generation,
            prompts=found.get("prompts"), maps=found.get("maps"), seed=plan.seed, shard_size=plan.shard_size,
            running=running,
        )  # fmt: skip
        found["synthetic"] = out
        if plan.clip is not None:
            found["similarity"] = stage_path(out, "similarity")
            measure_similarity(source, out, found["similarity"], plan.clip, running=running)
    finally:
        running.models.close()
    return Synthesised(summary, found, tuple(stage_costs(list(found.values()))))


def _check_models(plan: SynthesisPlan) -> None:
    """Refuse, before the first stage, a plan that a later one cannot carry out."""
    needs = (
        ("captions", True, plan.captions, plan.captioner, "a captioner"),
        ("prompts", plan.generation.n_sem > 0, plan.prompts, plan.rewriter, "a rewriter"),
        ("mask maps", plan.generation.visual.needs_mask_map, plan.maps, plan.panoptic, "a panoptic model"),
    )
    for what, needed, path, model, remedy in needs:
        if needed and path is None and model is None:
            raise InvalidOption(f"this plan needs {what}; give {remedy}, or {what} that are there already")
    for part in (plan.captioner, plan.rewriter, plan.panoptic, plan.generator, plan.clip):
        if part is not None:
            part.identity()  # a model that is not there is found before hours of captioning


def _before(source: Any, out: Path, plan: SynthesisPlan, running: Running) -> dict[str, Path]:
    """The artifacts that generation reads, made where they are not given."""
    from semaug.prompt_synthesis.pipeline import caption_images, rewrite_captions, segment_images

    shared: dict[str, Any] = {"shard_size": plan.shard_size, "running": running}
    found = {"captions": plan.captions or stage_path(out, "captions")}
    if plan.captions is None and plan.captioner is not None:
        caption_images(source, found["captions"], plan.captioner, seed=plan.seed, **shared)
    if plan.generation.n_sem:
        found["prompts"] = plan.prompts or stage_path(out, "prompts")
        if plan.prompts is None and plan.rewriter is not None:
            n_sem = plan.generation.n_sem
            rewrite_captions(found["captions"], found["prompts"], plan.rewriter, n_sem=n_sem, seed=plan.seed, **shared)
    if plan.generation.visual.needs_mask_map:
        found["maps"] = plan.maps or stage_path(out, "maps")
        if plan.maps is None and plan.panoptic is not None:
            segment_images(source, found["maps"], plan.panoptic, more_labels=plan.more_labels, **shared)
    return found


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the guidance of synthetic images agrees with that of their real ones; a report, never a filter.

    ``overlap`` is the mean intersection over union of both images' best boxes in relative coordinates, 0 where only
    one has any; ``kept`` the share of images with a box on both; ``size_ratio`` the median of the synthetic box's area
    over the real one's. Images where neither has a box are left out of all, and counted by ``empty``.
    ``similarity_correlation`` is Spearman's between overlap and cosine, None without similarities.
    """

    images: int
    overlap: float
    quartiles: tuple[float, float, float]
    kept: float
    size_ratio: float | None
    empty: int
    similarity_correlation: float | None = None


def compare_guidance(
    table: SyntheticTable, real: GuidanceTable, synthetic: GuidanceTable, cosines: dict[str, float] | None = None
) -> Agreement:
    """The agreement between guidance of the real images and of the synthetic ones.

    Raises ``ArtifactError`` for guidance of other images, ``InvalidOption`` where no image has any.
    """
    real.require_source(table.source)
    synthetic.require_source(table.images.fingerprint)
    overlaps, ratios, alike, empty = [], [], [], 0
    for row in table.rows:
        boxes = [_best_box(real.get(row.origin)), _best_box(synthetic.get(row.key))]
        if boxes[0] is None and boxes[1] is None:
            empty += 1
            continue
        overlaps.append(0.0 if boxes[0] is None or boxes[1] is None else overlap_of(boxes[0], boxes[1]))
        if boxes[0] is not None and boxes[1] is not None:
            ratios.append(_area(boxes[1]) / _area(boxes[0]))
        alike.append((cosines or {}).get(row.key, np.nan))
    if not overlaps:
        raise InvalidOption("neither the real nor the synthetic images have any box; take another detector")
    quartiles = np.quantile(overlaps, (0.25, 0.5, 0.75)).tolist()
    return Agreement(
        len(overlaps), float(np.mean(overlaps)), (quartiles[0], quartiles[1], quartiles[2]),
        len(ratios) / len(overlaps), float(np.median(ratios)) if ratios else None, empty,
        _correlation(overlaps, alike),
    )  # fmt: skip


def _best_box(guidance: Guidance | None) -> NDArray[np.float64] | None:
    """The first box in shares of the image's sides, xyxy; None where there is none."""
    if guidance is None or not len(guidance.boxes):
        return None
    return guidance.boxes[0].astype(np.float64) / [guidance.width, guidance.height, guidance.width, guidance.height]


def _area(box: NDArray[np.float64]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def overlap_of(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes, xyxy.

    >>> overlap_of(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.5, 0.0, 1.5, 1.0]))
    0.3333333333333333
    """
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.clip(sides, 0, None)))
    return shared / (_area(a) + _area(b) - shared)


def _correlation(overlaps: Sequence[float], cosines: Sequence[float]) -> float | None:
    known = ~np.isnan(cosines)
    if known.sum() < 3 or len(set(np.asarray(overlaps)[known])) < 2 or len(set(np.asarray(cosines)[known])) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(np.asarray(overlaps)[known], np.asarray(cosines)[known]).statistic)


def measure_agreement(
    images: str, synthetic: Path, out: Path, detector: OracleSpec, *, cosines: dict[str, float] | None = None,
    running: Running | None = None,
) -> Agreement:  # fmt: skip
    """Find boxes on the real and on the synthetic images by one detector, and compare them.

    Guidance is kept beside ``out`` and read again by a rerun. Raises what ``extract_guidance`` raises.
    """
    from semaug.oracles.extract import extract_guidance
    from semaug.prompt_synthesis.pipeline import Running

    running, table = running or Running(), SyntheticTable.open(synthetic)
    found = []
    for source, name in ((open_source(images), "real-guidance"), (table.images, "synthetic-guidance")):
        path = stage_path(out, name)
        extract_guidance(
            source, path, detector=detector, granularity="object", workers=running.workers,
            overwrite=running.overwrite, on_progress=running.on_progress,
        )  # fmt: skip
        found.append(GuidanceTable.open(path))
    return compare_guidance(table, found[0], found[1], cosines)
