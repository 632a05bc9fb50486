"""The crop scale of the baseline, chosen before anything is compared: same budget, never a look at the test images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.sources import inputs_of, open_source
from semaug.studies.assemble import TrainingPlan
from semaug.studies.runner import RESULT
from semaug.studies.study.catalogue import WHOLE
from semaug.studies.study.jobs import ERROR
from semaug.studies.study.kinds import Planned
from semaug.studies.study.plan import Study
from semaug.studies.study.prepare import Ready

SCALES = "scales"
"""The option that lists the scales to choose among; the first stands where none could be tried."""
BASELINE = "standard"
CHOSEN_BY = "selection/linear"
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class TrainAndSelect:
    """Train by ``plan`` on all training images, then a linear probe fitted on a part of them and scored on the rest."""

    name: str
    out: Path
    plan: TrainingPlan
    device: str = "cpu"

    @property
    def steps(self) -> int:
        return self.plan.steps

    def on(self, device: str) -> TrainAndSelect:
        return replace(self, device=device)

    def describe(self) -> dict[str, Any]:
        """The plan and the content of its images."""
        return {"plan": self.plan.describe(), "images": inputs_of(open_source(self.plan.images)), "by": CHOSEN_BY}

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """Train (or go on) and score."""
        from semaug.eval.splits import selection_split
        from semaug.ssl_methods.pretrain import Hardware
        from semaug.studies.assemble import embed_run, train
        from semaug.studies.evaluation import run_linear

        train(self.plan, self.out, hardware=Hardware(self.device), on_progress=on_progress)
        images = open_source(self.plan.images)
        features = embed_run(self.out, images, device=self.device, on_progress=ignore_progress).labelled()
        fit, selection = selection_split(features.labels, seed=self.plan.seed)
        found = run_linear(features.take(fit), features.take(selection), device=self.device, seed=self.plan.seed)
        return {CHOSEN_BY: {"value": found.top1, "n": len(selection)}}


def with_scale(study: Study, scale: Sequence[float]) -> Study:
    """The study with a crop's share of the image for every variant."""
    low, high = scale
    options = {**study.preset.pair_options, "scale": (low, high)}
    return replace(study, preset=study.preset.model_copy(update={"pair_options": options}))


def tuning_jobs(study: Study, ready: Ready) -> list[Planned]:
    """One run of the baseline for each scale to choose among, all of the first seed; none where there is no choice."""
    from semaug.studies.study.kind_training import steps_of, training_plan

    scales, seed = scales_of(study), study.chosen_seeds[0]
    if len(scales) < 2 or not study.preset.evaluations:
        return []
    steps, jobs = steps_of(study, ready, WHOLE, BASELINE), []
    for scale in scales:
        plan = training_plan(with_scale(study, scale), ready, WHOLE, BASELINE, seed, steps)
        job = TrainAndSelect(f"{BASELINE} at {scale[0]:g}", folder_of(study, scale), plan)
        jobs.append(Planned(WHOLE, BASELINE, seed, job))
    return jobs


def scales_of(study: Study) -> list[Range]:
    """The scales to choose among."""
    return [(float(low), float(high)) for low, high in study.preset.options.get(SCALES, ())]


def folder_of(study: Study, scale: Range) -> Path:
    """Where the run of one scale lies."""
    return study.out / "tuning" / f"{scale[0]:g}-{scale[1]:g}"


def tried(study: Study) -> dict[Range, float | str]:
    """What each scale came to: accuracy on the selection part, or why there is none."""
    return {scale: _found(folder_of(study, scale)) for scale in scales_of(study)}


def _found(folder: Path) -> float | str:
    if (folder / ERROR).is_file():
        return (folder / ERROR).read_text("utf-8")
    try:
        result: Mapping[str, Any] = json.loads((folder / RESULT).read_text("utf-8"))["result"]
    except (OSError, ValueError):
        return "it has not run"
    return float(result[CHOSEN_BY]["value"])


def tuned(study: Study) -> Study:
    """The study at the scale that was best on the selection part; at the first one where none was tried, and as it is
    where there are none to choose among."""
    scales = scales_of(study)
    if not scales:
        return study
    known = {scale: value for scale, value in tried(study).items() if isinstance(value, float)}
    best: Range = max(known, key=lambda scale: known[scale], default=scales[0])
    return with_scale(study, best)
