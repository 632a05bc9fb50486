"""What a study's folder holds, compared: every number beside the paper's, every variant against its best control."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from semaug.eval.statistics import PairedDifference, Summary, holm, summarise
from semaug.studies.comparison import Compared, best_control
from semaug.studies.runner import RESULT
from semaug.studies.study.catalogue import printed_cells, settings_of
from semaug.studies.study.jobs import ERROR, SECONDS
from semaug.studies.study.kinds import Longer, kind_of
from semaug.studies.study.measurements import measured_rows
from semaug.studies.study.paper import PaperCell
from semaug.studies.study.plan import Study, study_of
from semaug.studies.study.prepare import Prepared, Ready
from semaug.studies.study.weights import ROLES


@dataclass(frozen=True, slots=True)
class Run:
    """One job's place, and its measures or why there are none."""

    setting: str
    variant: str
    seed: int
    steps: int
    folder: Path
    rows: Mapping[str, Any] | None
    error: str = ""

    def value(self, metric: str) -> float | None:
        """One measure; None where the run failed or does not have it."""
        found = (self.rows or {}).get(metric)
        return None if found is None else found["value"]


@dataclass(frozen=True, slots=True)
class Line:
    """One number beside its printed one; ``ours`` is in the paper's unit, None with a ``reason``."""

    setting: str
    variant: str
    metric: str
    cell: PaperCell
    ours: Summary | None
    reason: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        if self.ours is None or self.cell.value is None:
            return None
        return self.ours.mean - self.cell.value


@dataclass(frozen=True, slots=True)
class Gain:
    """A variant minus its best control in the primary metric, at equal steps and, where it costs more, at equal total
    cost; ``p_value`` is Holm's over the variants of a setting. ``paper`` is what the paper prints, in points."""

    setting: str
    variant: str
    control: str
    at_steps: PairedDifference
    p_value: float | None
    at_cost: PairedDifference | None
    longer: Longer | None
    paper: float | None

    @property
    def separated(self) -> bool:
        """Whether the seeds tell it from zero, after Holm's adjustment.

        Differences that are all the same, as accuracies on few images may be, have no spread that could tell.
        """
        low, high = self.at_steps.low or 0.0, self.at_steps.high or 0.0
        return self.p_value is not None and self.p_value < 0.05 and high - low > 1e-9


@dataclass(frozen=True)
class Results:
    """Everything that a report of a study says."""

    study: Study
    runs: tuple[Run, ...]
    artifacts: tuple[Prepared, ...]
    longer: tuple[Longer, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """One line for every artifact and job that failed, or has not run."""
        made = (f"artifact {a.name} of {a.data}: {a.error}" for a in self.artifacts if a.error)
        runs = (
            f"{run.setting} {run.variant} seed {run.seed}: {run.error or 'has not run'}"
            for run in self.runs
            if run.rows is None
        )
        return (*made, *runs)

    @cached_property
    def measured(self) -> dict[str, Any]:
        """Metrics that belong to the study and to no run."""
        return measured_rows(self.study)

    def of(self, setting: str, variant: str) -> list[Run]:
        """The runs of one place, by seed."""
        found = (run for run in self.runs if (run.setting, run.variant) == (setting, variant))
        return sorted(found, key=lambda run: run.seed)

    def score(self, setting: str, variant: str, metrics: Sequence[str]) -> Compared:
        """The measures of one place, by the seeds of its setting; None where it has no run of a seed."""
        seeds = sorted({run.seed for run in self.runs if run.setting == setting})
        known = {run.seed: run for run in self.of(setting, variant)}
        runs = [known.get(seed) for seed in seeds]
        return Compared({metric: [run.value(metric) if run else None for run in runs] for metric in metrics})

    def summary(self, setting: str, variant: str, metric: str, scale: float = 1.0) -> Summary | None:
        """Mean, deviation and n of one measure; a measurement of the study stands in where no run has it."""
        values = [scale * v for run in self.of(setting, variant) if (v := run.value(metric)) is not None]
        if not values and self.measured.get(metric, {}).get("value") is not None:
            values = [scale * self.measured[metric]["value"]]
        return summarise(values) if values else None

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Every printed cell with our number."""
        cells = self.study.preset.cells
        scale = 1.0 if cells is None else cells.unit_scale
        return tuple(
            Line(setting, variant, metric, cell, ours, "" if ours else self._why_not(setting, variant, metric))
            for (setting, variant, metric), cell in printed_cells(self.study.preset).items()
            for ours in (self.summary(setting, variant, metric, scale),)
        )

    def _why_not(self, setting: str, variant: str, metric: str) -> str:
        if reason := self.measured.get(metric, {}).get("reason"):
            return str(reason)
        runs = self.of(setting, variant)
        if not runs:
            return "this variant was left out"
        for run in runs:
            if run.rows is None:
                return run.error or "it has not run"
        return str((runs[0].rows or {}).get(metric, {}).get("reason") or f"{metric} was not measured")

    @cached_property
    def gains(self) -> tuple[Gain, ...]:
        """Every variant against its best control, in every setting."""
        if not kind_of(self.study.preset).compares:
            return ()
        return tuple(g for setting in settings_of(self.study.preset) for g in self._gains(setting))

    def _gains(self, setting: str) -> list[Gain]:
        preset, primary = self.study.preset, self.study.preset.primary
        scores = {name: self.score(setting, name, [primary]) for name in preset.variants}
        scores = {name: score for name, score in scores.items() if score.n}
        found = []
        for variant in scores:
            controls = [name for name, v in preset.variants.items() if v.control and name != variant]
            control = best_control(scores, controls, primary)
            if preset.variants[variant].control or control is None:
                continue
            if not scores[variant].pairs(scores[control], primary):
                continue
            found.append(self._gain(setting, variant, control, scores))
        adjusted = holm([gain.p_value for gain in found])
        return [replace(gain, p_value=p) for gain, p in zip(found, adjusted, strict=True)]

    def _gain(self, setting: str, variant: str, control: str, scores: Mapping[str, Compared]) -> Gain:
        primary = self.study.preset.primary
        longer = next((a for a in self.longer if (a.setting, a.variant) == (setting, variant)), None)
        at_cost = None
        if longer is not None:
            other = self.score(setting, longer.control if longer.factor == 1 else longer.name, [primary])
            at_cost = scores[variant].against(other, primary) if other.n else None
        steps = scores[variant].against(scores[control], primary)
        return Gain(
            setting, variant, control, steps, steps.p_value, at_cost, longer, self._printed(setting, variant, control)
        )

    def _printed(self, setting: str, variant: str, control: str) -> float | None:
        """What the paper prints for the same difference, in its unit."""
        cells, primary = printed_cells(self.study.preset), self.study.preset.primary
        values = [cells.get((setting, name, primary)) for name in (variant, control)]
        numbers = [cell.value for cell in values if cell is not None and cell.value is not None]
        return numbers[0] - numbers[1] if len(numbers) == 2 else None

    def seconds(self, setting: str, variant: str) -> float | None:
        """Mean training time of a place."""
        found = self.summary(setting, variant, SECONDS)
        return None if found is None else found.mean


def read_results(out: Path) -> tuple[Results, Ready]:
    """What a study's folder holds now, whether or not it is done; raises ``InvalidOption`` where it holds none."""
    study, record = study_of(out)
    runs = tuple(_run(out, row) for row in record["jobs"])
    artifacts = tuple(Prepared.of(row) for row in record["artifacts"])
    longer = tuple(Longer(**row) for row in record["longer"])
    ready = Ready(study.data, {(a.name, a.data): a for a in artifacts})
    return Results(study, runs, artifacts, longer), ready


def _run(out: Path, row: Mapping[str, Any]) -> Run:
    folder = out / row["out"]
    found, error = None, ""
    if (folder / ERROR).is_file():
        error = (folder / ERROR).read_text("utf-8")
    elif (folder / RESULT).is_file():
        found = json.loads((folder / RESULT).read_text("utf-8"))["result"]
    return Run(row["setting"], row["variant"], row["seed"], row["steps"], folder, found, error)


def not_comparable(study: Study) -> tuple[str, ...]:
    """Why the printed numbers are another experiment's; empty where nothing is known to differ."""
    reasons = []
    if study.scale_name != "paper":
        scale = study.scale
        steps = f"{scale.steps:,} steps" if scale.steps else "the paper's epochs"
        seeds = len(study.chosen_seeds)
        reasons.append(
            f"scale {study.scale_name}: {scale.backbone or 'each own network'} at "
            f"{scale.size} pixels, {steps}, {seeds} {'seed' if seeds == 1 else 'seeds'}"
        )
    for data in study.data.values():
        if data.origin == "stand-in":
            reasons.append(f"generated or small images stand in for {data.wants}")
        elif data.origin == "given":
            reasons.append(f"the data given as {data.name} may not be {data.wants}")
    if study.random_weights:
        names = ", ".join(name for name, w in study.weights.items() if w.origin == "random")
        reasons.append(f"tiny models with random weights generate ({names}): their images mean nothing")
    elif any(w.origin == "given" for w in study.weights.values()):
        reasons.append("the models given may not be the paper's")
    oracles = [w for w in study.weights.values() if w.origin == "stand-in" and w.role != "annotations"]
    reasons += [f"{w.model} stands in for {ROLES[w.role].title}" for w in oracles]
    return (*dict.fromkeys(reasons), *study.preset.reasons)
