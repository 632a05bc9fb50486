"""Kind `semantic-pairs`: the arms of ``semantic_pairs_study`` as variants, its cells as settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from semaug.artifacts.errors import InvalidOption
from semaug.studies.study.catalogue import references, settings_of
from semaug.studies.study.evaluations import check_evaluation
from semaug.studies.study.kind_training import evaluations_of, run_folder
from semaug.studies.study.kinds import Kind, Planned
from semaug.studies.study.makers import check_artifact
from semaug.studies.study.plan import Study
from semaug.studies.study.prepare import Ready
from semaug.studies.study.schema import Preset

PAIRS, ITEM, SCORED, OTHER = "pairs", "item", "scored", "other"
"""The artifact (and option) of pairs, the option of the item, and the data that score and that T2 compares."""


def check(preset: Preset) -> None:
    """Raise ``InvalidOption`` where the item, its cells and arms, or the artifact of pairs are not there."""
    from semaug.studies.semantic_pairs_study import CONTROLS, chosen, pair_items

    item = chosen("item", str(preset.options.get(ITEM)), pair_items())
    cells, arms = {c.name for c in item.cells}, {*item.arms, *CONTROLS}
    if unknown := sorted(set(preset.settings) - cells) + sorted(set(preset.variants) - arms):
        raise InvalidOption(f"{preset.name}: {item.name} has no {unknown[0]!r}; it has {sorted(cells)}, {sorted(arms)}")
    lacks = [name for name, table in ((PAIRS, references(preset.options)), (SCORED, preset.data)) if name not in table]
    if lacks or not preset.settings:
        raise InvalidOption(f"{preset.name}: needs settings, options.{PAIRS} and data {SCORED!r}; it lacks {lacks}")
    for name, options in preset.evaluations.items():
        check_evaluation(name, options, preset.data)
    for name, artifact in preset.artifacts.items():
        check_artifact(name, artifact.kind, artifact.options)


def plan(study: Study, ready: Ready) -> list[Planned]:
    """One job for each cell, arm and seed: the plans that semantic pairs makes, scored as the preset says."""
    from semaug.pairs_dataset.pair_table import PairTable
    from semaug.studies.semantic_pairs_study import study_jobs

    made = ready.artifacts[PAIRS, "main"]
    if made.path is None:
        return _cannot_run(study, made.error)
    grouped = study_jobs(_pair_study(study, ready), PairTable.open(made.path), study.out)
    return [
        Planned(cell, arm, job.plan.seed, _job(study, ready, job))
        for cell, arms in grouped.items()
        for arm, jobs in arms.items()
        if arm in _variants(study)
        for job in jobs
    ]


def _job(study: Study, ready: Ready, job: Any) -> Any:
    """The job of semantic pairs, scored by the preset; the scale's option `recipes` lightens a method's heads."""
    from semaug.studies.study.jobs import TrainAndEvaluate

    data, lighter = ready.data[SCORED], study.scale.options.get("recipes", {})
    plan = replace(job.plan, recipe=lighter.get(job.plan.method, job.plan.recipe))
    return TrainAndEvaluate(job.name, job.out, plan, data.train, data.test, evaluations_of(study), ready.data)


def _cannot_run(study: Study, reason: str) -> list[Planned]:
    from semaug.studies.study.jobs import CannotRun

    return [
        Planned(s, v, seed, CannotRun(f"{s} {v} seed {seed}", run_folder(study.out, s, v, seed), 1, reason))
        for seed in study.chosen_seeds
        for s in settings_of(study.preset)
        for v in _variants(study)
    ]


def _variants(study: Study) -> tuple[str, ...]:
    return study.only or tuple(study.preset.variants)


def _pair_study(study: Study, ready: Ready) -> Any:
    from semaug.studies.semantic_pairs_study import CONTROLS, PairScale, PairStudy, pair_items

    scale, scored = study.scale, ready.data[SCORED]
    sized = PairScale(
        study.scale_name, scale.text, study.chosen_seeds, scale.size, scale.batch_size or 256, scale.backbone,
        scale.steps, scale.options.get("per_class"), scale.optimizer, scale.lr,
    )  # fmt: skip
    other = ready.data[OTHER].train if OTHER in ready.data else None
    item, images = pair_items()[str(study.preset.options[ITEM])], ready.data["main"].train
    controls, only = bool(set(CONTROLS) & set(_variants(study))), tuple(study.preset.settings)
    return PairStudy(item, sized, images, scored.train, scored.test, other, controls, only)


KIND = Kind("semantic pairs against augmented pairs, with their controls", check, plan)
