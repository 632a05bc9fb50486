"""Kind `training`: variants x settings x seeds, each trained and scored; then the best control at equal total cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption
from semaug.studies.study.catalogue import WHOLE, references, settings_of
from semaug.studies.study.evaluations import check_evaluation
from semaug.studies.study.kinds import Found, Kind, Longer, Planned
from semaug.studies.study.makers import check_artifact
from semaug.studies.study.measurements import check_measurements, measurement_sections
from semaug.studies.study.plan import Study
from semaug.studies.study.prepare import NotPrepared, Ready, artifact_order
from semaug.studies.study.schema import Preset, Setting, Variant

if TYPE_CHECKING:
    from semaug.eval.report import Section

EQUAL = 1.05
"""A cost ratio up to which equal steps count as equal total cost."""


def check(preset: Preset) -> None:
    """Raise ``InvalidOption`` for a preset without variants or a control, or with options that nobody knows."""
    if not preset.variants or not any(v.control for v in preset.variants.values()):
        raise InvalidOption(
            f"{preset.name}: variants {list(preset.variants)} need a control; mark one `control = true`"
        )
    for names in (preset.settings, preset.variants):
        if len({slug(name) for name in names}) < len(names):
            raise InvalidOption(f"{preset.name}: two of {', '.join(names)} would share a folder; name them otherwise")
    for name, options in preset.evaluations.items():
        check_evaluation(name, options, preset.data)
    for name, artifact in preset.artifacts.items():
        check_artifact(name, artifact.kind, artifact.options)
    check_measurements(preset)


def plan(study: Study, ready: Ready) -> list[Planned]:
    """One job for each setting, variant and seed; all variants of a setting share seeds, steps and first weights."""
    variants = {n: v for n, v in study.preset.variants.items() if not study.only or n in study.only}
    return [
        planned(study, ready, setting, variant, seed)
        for seed in study.chosen_seeds
        for setting in settings_of(study.preset)
        for variant in variants
    ]


def planned(
    study: Study, ready: Ready, setting: str, variant: str, seed: int, factor: float = 1.0, name: str = ""
) -> Planned:
    """The job of one place; ``factor`` times the steps, under another ``name``."""
    from semaug.studies.study.jobs import CannotRun, TrainAndEvaluate

    name = name or variant
    title = f"{setting} {name} seed {seed}" if study.preset.settings else f"{name} seed {seed}"
    out = study.out / "runs" / slug(setting) / slug(name) / str(seed)
    steps = steps_of(study, ready, setting, variant, factor)
    try:
        training = training_plan(study, ready, setting, variant, seed, steps)
    except NotPrepared as error:
        return Planned(setting, name, seed, CannotRun(title, out, steps, str(error)))
    data = ready.data[place_of(study, setting)]
    job = TrainAndEvaluate(title, out, training, data.train, data.test, evaluations_of(study), ready.data)
    return Planned(setting, name, seed, job)


def evaluations_of(study: Study) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """The evaluations with the options of the scale."""
    scaled = study.scale.evaluations
    return tuple((name, {**given, **scaled.get(name, {})}) for name, given in study.preset.evaluations.items())


def place_of(study: Study, setting: str) -> str:
    """The data role of a setting."""
    return settings_of(study.preset)[setting].data or "main"


def training_plan(study: Study, ready: Ready, setting: str, variant: str, seed: int, steps: int) -> Any:
    """The plan of one run; raises ``NotPrepared`` where an artifact of the variant could not be made."""
    from semaug.studies.assemble import TrainingPlan
    from semaug.studies.study.tuning import tuned_options

    preset, scale = study.preset, study.scale
    s, v, place = settings_of(preset)[setting], preset.variants[variant], place_of(study, setting)
    method = _method(preset, s, v)
    guidance = ready.resolved({"guidance": v.guidance}, place)["guidance"] if v.guidance else None
    checkpoint = max(100, min(1000, steps // 4))
    return TrainingPlan(
        ready.data[place].train, pairs=v.pairs, guidance=guidance,
        pair_options={
            **preset.pair_options, **scale.options, **tuned_options(study, setting, variant),
            **ready.resolved(v.options, place),
        },
        method=method, recipe=scale.recipes.get(method) or v.recipe or s.recipe or preset.recipe,
        hyperparameters={**s.hyperparameters, **v.hyperparameters, **scale.hyperparameters.get(method, {})},
        backbone=scale.backbone or s.backbone or preset.backbone,
        backbone_options={} if scale.backbone else s.backbone_options, size=min(scale.size, s.size or scale.size),
        steps=steps,
        batch_size=scale.batch_size, optimizer=scale.optimizer, lr=scale.lr, seed=seed, checkpoint_every=checkpoint,
        log_every=max(1, min(10, steps // 3)),
    )  # fmt: skip


def _method(preset: Preset, setting: Setting, variant: Variant) -> str:
    return variant.method or setting.method or preset.method


def steps_of(study: Study, ready: Ready, setting: str, variant: str, factor: float = 1.0) -> int:
    """The scale's steps in proportion to the setting's epochs, or those epochs themselves; equal for all variants but
    for their own multiplier."""
    preset, scale = study.preset, study.scale
    s, v = settings_of(preset)[setting], preset.variants[variant]
    epochs = s.epochs or preset.epochs
    if scale.steps is not None:
        return max(1, round(scale.steps * epochs / preset.epochs * v.steps * factor))
    return max(1, round(epochs * _steps_an_epoch(study, ready, setting, variant) * v.steps * factor))


def _steps_an_epoch(study: Study, ready: Ready, setting: str, variant: str) -> int:
    from semaug.artifacts.sources import open_source
    from semaug.ssl_methods.presets import training_recipe

    preset, s = study.preset, settings_of(study.preset)[setting]
    method = _method(preset, s, preset.variants[variant])
    chosen = study.scale.recipes.get(method) or preset.variants[variant].recipe or s.recipe or preset.recipe
    batch = study.scale.batch_size or training_recipe(method, chosen).batch_size
    return max(1, len(open_source(ready.data[place_of(study, setting)].train)) // batch)


def longer(study: Study, ready: Ready, found: Found) -> list[Longer]:
    """For every variant that costs more than its best control: that control, trained for as much longer."""
    from semaug.studies.comparison import best_control, compare

    if study.scale.longer == "none":
        return []
    asked = []
    for setting in settings_of(study.preset):
        scores = {
            variant: compare([o for o in outcomes if o.result], [study.preset.primary])
            for (of, variant), outcomes in found.items()
            if of == setting and any(o.result for o in outcomes)
        }
        controls = [name for name, v in study.preset.variants.items() if v.control]
        best = best_control(scores, controls, study.preset.primary)
        for variant, v in study.preset.variants.items():
            if best is None or v.control or variant not in scores:
                continue
            ratio = cost_ratio(study, ready, found, setting, variant, best)
            if ratio > EQUAL:
                asked.append(Longer(setting, variant, best, ratio, round(min(ratio, study.scale.longer_most), 2)))
    return asked


def cost_ratio(study: Study, ready: Ready, found: Found, setting: str, variant: str, control: str) -> float:
    """What a variant costs as a multiple of its control: training, and making the artifacts it reads."""
    v = study.preset.variants[variant]
    if study.scale.longer == "paper":
        made = sum(
            study.preset.artifacts[name].paper_cost for name in artifact_order(study.preset, (variant,), measured=False)
        )
        return v.compute * v.steps + made
    own, base = (_seconds(found[setting, name]) for name in (variant, control))
    place = place_of(study, setting)
    used = [
        name for name in artifact_order(study.preset, (variant,), measured=False) if (name, place) in ready.artifacts
    ]
    return (own + ready.seconds(used, place)) / base


def _seconds(outcomes: Sequence[Any]) -> float:
    from semaug.studies.study.jobs import SECONDS

    known = [o.result[SECONDS]["value"] for o in outcomes if o.result]
    return float(sum(known) / len(known))


def plan_longer(study: Study, ready: Ready, asked: Sequence[Longer]) -> list[Planned]:
    """The jobs of the longer controls; variants of equal cost share one."""
    places = {(a.setting, a.name): a for a in asked}
    return [
        planned(study, ready, a.setting, a.control, seed, a.factor, a.name)
        for seed in study.chosen_seeds
        for a in places.values()
    ]


def slug(name: str) -> str:
    """A name as part of a path.

    >>> slug("MoCo-v2* (R101)")
    'moco-v2star-r101'
    """
    plain = re.sub(r"[^a-z0-9.+_]+", "-", name.lower().replace("*", "star")).strip("-")
    return plain if plain.strip(".") else WHOLE


def tune(study: Study, ready: Ready) -> list[Planned]:
    """The runs that the scale of the control ``tuned`` is chosen by, where it is one of the variants to run."""
    from semaug.studies.study.tuning import TUNED, tuning_jobs

    wanted = TUNED in (study.only or study.preset.variants) and TUNED in study.preset.variants
    return tuning_jobs(study, ready) if wanted else []


def sections(study: Study, ready: Ready) -> list[Section]:
    """The parts that measurements wrote, and how the tuned control was chosen."""
    from semaug.studies.study.tuning import tuning_section

    return [*measurement_sections(study, ready), *tuning_section(study)]


KIND = Kind(
    "train and score variants in settings, with paired seeds", check, plan, longer, plan_longer, sections, tune=tune
)


def artifacts_used(preset: Preset, variant: str) -> tuple[str, ...]:
    """The artifacts that a variant names."""
    v = preset.variants[variant]
    return references({**v.options, "guidance": v.guidance})


def run_folder(out: Path, setting: str, variant: str, seed: int) -> Path:
    """Where the run of one place lies."""
    return out / "runs" / slug(setting) / slug(variant) / str(seed)
