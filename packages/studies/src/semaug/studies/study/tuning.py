"""The crop scale of the baseline, chosen before anything is compared: same budget, never a look at the test images.

Studies of kind `compare` choose one for all variants; those of kind `training` that list ``scales`` have a control of
their own, ``tuned``, beside the baseline of the paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.sources import inputs_of, open_source
from semaug.studies.assemble import TrainingPlan
from semaug.studies.runner import RESULT
from semaug.studies.study.catalogue import WHOLE, settings_of
from semaug.studies.study.jobs import ERROR
from semaug.studies.study.kinds import Planned
from semaug.studies.study.plan import Study
from semaug.studies.study.prepare import Ready
from semaug.studies.study.schema import Preset

if TYPE_CHECKING:
    from semaug.eval.report import Section

SCALES = "scales"
"""The option that lists the scales to choose among; the first stands where none could be tried."""
TUNED_AT = "tuned_at"
"""The option that names the scales of a study at which kind `training` has the control ``tuned``."""
BASELINE, TUNED = "standard", "tuned"
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


def with_tuned(preset: Preset, scale_name: str) -> Preset:
    """The preset with the control ``tuned``: the baseline at the crop scale that is best on a part of the training
    images. Only where its options ask for it at this scale, and accuracy decides.
    """
    base, asked = baseline_of(preset), preset.options.get(TUNED_AT, ())
    if base is None or scale_name not in asked or preset.kind != "training" or preset.primary != "linear/top1":
        return preset
    title = f"{preset.variants[base].title or base}, their scale tuned"
    tuned = preset.variants[base].model_copy(update={"title": title, "cell": ""})
    return preset.model_copy(update={"variants": {**preset.variants, TUNED: tuned}})


def baseline_of(preset: Preset) -> str | None:
    """The first control with plain pairs."""
    return next((name for name, v in preset.variants.items() if v.control and v.pairs == "standard"), None)


def tuning_jobs(study: Study, ready: Ready) -> list[Planned]:
    """In each setting one run of the baseline for each scale to choose among, all of the first seed; none where there
    is no choice."""
    from semaug.studies.study.kind_training import steps_of, training_plan

    scales, seed, base = scales_of(study), study.chosen_seeds[0], baseline_of(study.preset)
    if len(scales) < 2 or not study.preset.evaluations or base is None:
        return []
    jobs = []
    for setting in settings_of(study.preset):
        steps, within = steps_of(study, ready, setting, base), f"{setting} " if study.preset.settings else ""
        for scale in scales:
            plan = training_plan(with_scale(study, scale), ready, setting, base, seed, steps)
            job = TrainAndSelect(f"{within}{base} at {scale[0]:g}", folder_of(study, scale, setting), plan)
            jobs.append(Planned(setting, base, seed, job))
    return jobs


def scales_of(study: Study) -> list[Range]:
    """The scales to choose among."""
    return [(float(low), float(high)) for low, high in study.preset.options.get(SCALES, ())]


def folder_of(study: Study, scale: Range, setting: str = WHOLE) -> Path:
    """Where the run of one scale lies."""
    from semaug.studies.study.kind_training import slug

    within = study.out / "tuning" / slug(setting) if study.preset.settings else study.out / "tuning"
    return within / f"{scale[0]:g}-{scale[1]:g}"


def tried(study: Study, setting: str = WHOLE) -> dict[Range, float | str]:
    """What each scale came to: accuracy on the selection part, or why there is none."""
    return {scale: _found(folder_of(study, scale, setting)) for scale in scales_of(study)}


def _found(folder: Path) -> float | str:
    if (folder / ERROR).is_file():
        return (folder / ERROR).read_text("utf-8")
    try:
        result: Mapping[str, Any] = json.loads((folder / RESULT).read_text("utf-8"))["result"]
    except (OSError, ValueError):
        return "it has not run"
    return float(result[CHOSEN_BY]["value"])


def best_scale(study: Study, setting: str = WHOLE) -> Range | None:
    """The scale that was best on the selection part; the first one where none was tried, None where there are none."""
    scales = scales_of(study)
    known = {scale: value for scale, value in tried(study, setting).items() if isinstance(value, float)}
    return max(known, key=lambda scale: known[scale], default=scales[0] if scales else None)


def tuned(study: Study) -> Study:
    """The study at the scale that was best, for every variant; as it is where there are none to choose among."""
    best = best_scale(study)
    return study if best is None else with_scale(study, best)


def tuned_options(study: Study, setting: str, variant: str) -> dict[str, Any]:
    """The crop scale of the control ``tuned`` in a setting; nothing for any other variant."""
    best = best_scale(study, setting) if variant == TUNED else None
    return {} if best is None else {"scale": best}


def tuning_section(study: Study) -> list[Section]:
    """What the scales of each setting came to, where there is a control ``tuned``."""
    from semaug.eval.report import Column, Missing, Section, Table

    if TUNED not in study.preset.variants or (study.only and TUNED not in study.only):
        return []
    scales, rows = scales_of(study), []
    for setting in settings_of(study.preset):
        found, best = tried(study, setting), best_scale(study, setting)
        cells = [value if isinstance(value, float) else Missing(value) for value in found.values()]
        rows.append((setting, *cells, f"{best[0]:g} to {best[1]:g}" if best else ""))
    columns = (
        Column("setting"), *(Column(f"{low:g} to {high:g}", unit="%", scale=100) for low, high in scales),
        Column("chosen"),
    )  # fmt: skip
    note = (
        f"`{TUNED}` is the baseline with the best of these crop scales. Each was tried by one run as long as any "
        "other, of the first seed; a linear probe is fitted to four fifths of the training images and scored on the "
        "rest. These runs count in no cost. The test images are read once, at the end."
    )
    table = Table("Accuracy on the selection part by crop scale", columns, tuple(rows), note)
    return [Section("How the tuned control was chosen", (table,))]
