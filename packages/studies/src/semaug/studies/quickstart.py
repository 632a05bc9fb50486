"""``semaug quickstart``: from generated images to a report, in about four minutes on two cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.sources import ImageSource, ScenesSource, open_source
from semaug.studies.assemble import OnlineKnn, TrainingPlan
from semaug.studies.jobs import TrainAndScore
from semaug.studies.runner import Outcome, run_jobs

if TYPE_CHECKING:
    from semaug.pairs_dataset.retention import Retention

Say = Callable[[str], None]
VARIANTS = ("standard", "random_box", "guided")
"""The baseline, the control that shares the guidance's crop sizes, and the guidance."""


@dataclass(frozen=True, slots=True)
class QuickstartPlan:
    """What quickstart computes; the defaults fit four minutes on two cores."""

    train_images: int = 2000
    test_images: int = 800
    view_size: int = 48
    steps: int = 240
    batch_size: int = 128
    seeds: tuple[int, ...] = (0, 1, 2)
    p_guided: float = 0.7
    lr: float = 0.25
    temperature: float = 0.2
    preset: str = "symmetric_weak"


@dataclass(frozen=True, slots=True)
class Guided:
    """What the steps before training found, for the report and the terminal."""

    images: ImageSource
    guidance: GuidanceTable
    truth: GuidanceTable
    routes: Mapping[str, int]
    quantiles: Mapping[str, Mapping[str, float]]
    recall: Mapping[str, float]
    retention: Mapping[str, Retention]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuickstartResult:
    """Where the report is, and its headline numbers."""

    report: Path
    linear: Mapping[str, float]
    knn: Mapping[str, float]
    failed: tuple[str, ...]


def run_quickstart(
    out: Path,
    plan: QuickstartPlan = QuickstartPlan(),
    *,
    workers: int = 2,
    on_progress: OnProgress = ignore_progress,
    say: Say = print,
) -> QuickstartResult:
    """Generate, score, route, extract, measure retention, train three variants, evaluate, report.

    Everything lands below ``out``; a second call goes on where the first one stopped. ``say`` gets one line a step.
    """
    from semaug.studies.quickstart_report import write_quickstart_report

    started = time.perf_counter()
    say(f"Scenes: {plan.train_images:,} images to learn from, {plan.test_images:,} to test on, made on this machine.")
    guided = prepare(out, plan, workers=workers, on_progress=on_progress, say=say)
    jobs = training_jobs(out, plan)
    say(f"Training: {len(VARIANTS)} variants x {len(plan.seeds)} seeds, {plan.steps} steps each.")
    outcomes = run_jobs(jobs, workers=workers, stage="train", on_progress=on_progress)
    guided.seconds["whole run"] = time.perf_counter() - started
    return write_quickstart_report(out, plan, guided, by_variant(jobs, outcomes), say=say)


def prepare(out: Path, plan: QuickstartPlan, *, workers: int, on_progress: OnProgress, say: Say) -> Guided:
    """Pack, score, route and extract; then what the guidance is worth against the scenes' true boxes."""
    from semaug.oracles.extract import extract_guidance
    from semaug.quality_policy import QualityTable, make_policy, quality_report, score_source

    scenes = ScenesSource("train", plan.train_images)
    images = _packed(out / "train.zarr", scenes, workers, on_progress)
    _packed(out / "test.zarr", ScenesSource("test", plan.test_images), workers, on_progress)
    score_source(images, out / "quality.zarr", workers=workers, on_progress=on_progress)
    quality, policy = QualityTable.open(out / "quality.zarr"), make_policy("soft")
    scored = quality_report(quality, policy)
    say("Routes: " + ", ".join(f"{name} {count:,}" for name, count in scored["routing"].items()) + ".")
    summary = extract_guidance(
        images, out / "guidance.zarr", policy=policy, quality=quality, workers=workers, on_progress=on_progress
    )
    guidance = GuidanceTable.open(out / "guidance.zarr")
    truth = GuidanceTable.of([scenes.guidance(i) for i in range(len(scenes))])
    retained = retention_table(images, guidance, truth, plan)
    for name, row in retained.items():
        say(
            f"Retention, {name:<11} keeps half the object {row.keeps:.2f}, object fills 30% {row.filled:.2f}, "
            f"both views keep it {row.same:.2f}."
        )
    seconds = {
        "extraction (all workers together)": summary.costs.seconds,
        "extraction per 1,000 images": summary.costs.seconds_per_1000,
    }
    recall = {"saliency and GrabCut": box_recall(guidance, truth)}
    return Guided(images, guidance, truth, scored["routing"], scored["quantiles"], recall, retained, seconds)


def box_recall(guidance: GuidanceTable, truth: GuidanceTable) -> float:
    """Share of the true boxes that some box of the guidance overlaps at IoU 0.5 or more."""
    from semaug.oracles.annotations import box_overlaps

    hits = total = 0
    for key, row in truth.rows.items():
        found = guidance.get(key)
        total += len(row.boxes)
        if found is not None and len(found.boxes):
            hits += int((box_overlaps(row.boxes, found.boxes) >= 0.5).any(axis=1).sum())
    return hits / total if total else 0.0


def _packed(path: Path, source: ImageSource, workers: int, on_progress: OnProgress) -> ImageSource:
    from semaug.artifacts.pack import pack_images

    pack_images(source, path, format="raw", workers=workers, shard_size=256, on_progress=on_progress)
    return open_source(path)


def pair_options(name: str, plan: QuickstartPlan) -> dict[str, Any]:
    """Options of ``make_pairs`` for one variant."""
    options: dict[str, Any] = {"preset": plan.preset}
    return options if name == "standard" else {**options, "p_guided": plan.p_guided}


def retention_table(
    images: ImageSource, guidance: GuidanceTable, truth: GuidanceTable, plan: QuickstartPlan
) -> dict[str, Retention]:
    """Retention (the paper's rho) of every variant, and of guided crops on the true boxes."""
    from semaug.pairs_dataset import make_pairs, measure_retention

    tables = {"standard": guidance, "random_box": guidance, "guided": guidance, "true boxes": truth}
    rows = {}
    for name, table in tables.items():
        form = "guided" if name == "true boxes" else name
        pairs = make_pairs(form, images, size=plan.view_size, guidance=table, **pair_options(form, plan))
        rows[name] = measure_retention(pairs, truth, draws=5)
    return rows


def training_jobs(out: Path, plan: QuickstartPlan) -> list[TrainAndScore]:
    """One job a variant and seed; seeds are paired, so variants share weights, order and colours."""
    train, test, guidance = (str((out / n).resolve()) for n in ("train.zarr", "test.zarr", "guidance.zarr"))
    jobs = []
    for seed in plan.seeds:
        for name in VARIANTS:
            training = TrainingPlan(
                train, pairs=name, guidance=guidance, pair_options=pair_options(name, plan),
                backbone="small-cnn", size=plan.view_size, small_stem=False, steps=plan.steps,
                batch_size=plan.batch_size, hyperparameters={"temperature": plan.temperature},
                lr=plan.lr, warmup=plan.steps // 20, seed=seed,
                online_knn=OnlineKnn(train, test, max(1, plan.steps // 4), limit=800),
            )  # fmt: skip
            jobs.append(
                TrainAndScore(
                    f"{name} seed {seed}", out / "runs" / f"{name}-{seed}", training, train, test,
                    keep_features=seed == plan.seeds[0],
                )
            )  # fmt: skip
    return jobs


def by_variant(jobs: list[TrainAndScore], outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each variant, in the order of the seeds."""
    grouped: dict[str, list[Outcome]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        grouped.setdefault(job.plan.pairs, []).append(outcome)
    return grouped


def config_of(plan: QuickstartPlan) -> dict[str, Any]:
    """The plan as plain JSON values."""
    return asdict(plan)
