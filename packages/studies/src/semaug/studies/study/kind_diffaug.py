"""Kind `diffaug`: DiffAug, its ablations, projections and methods of ``semaug pretrain``, on tables and on images.

A variant's method is an ablation (A1 to B5, ``alpha-A``; A3 is DiffAug), a projection of a table (``pca`` ..), or a
method of ``semaug pretrain`` on images. Settings whose data are a table score two dimensions by folds; those of images
score frozen features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.ablations import ABLATIONS
from semaug.diffaug_core.projections import PROJECTIONS
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.studies.diffaug import Course, DataOptions
from semaug.studies.projecting import ALL_ROWS, KEPT, Compared, Protocol, ablation_of
from semaug.studies.study import kind_training
from semaug.studies.study.catalogue import settings_of
from semaug.studies.study.diffaug_jobs import Named, TrainDiffAug
from semaug.studies.study.jobs import CannotRun
from semaug.studies.study.kinds import Found, Kind, Longer, Planned
from semaug.studies.study.makers import check_artifact
from semaug.studies.study.plan import Study
from semaug.studies.study.prepare import Ready
from semaug.studies.study.schema import Preset

if TYPE_CHECKING:
    from semaug.eval.report import Section

DIFFAUG = "diffaug"
"""Under which hyperparameters of a scale the options of this kind stand."""
WIDTHS, CHANNELS = "widths", "channels"
"""How wide a generator of rows is, and one of images: a preset may give both."""
_PROTOCOL = ("folds", "fit", "settings", "generated", "keep")
_COURSE = ("epochs", "batch_size")
_DATA = ("neighbours", "components")
_SETTINGS = tuple(field.name for field in fields(DiffAugSettings))


def check(preset: Preset) -> None:
    """Raise ``InvalidOption`` for a preset without a control, or with a method or an option that nobody knows."""
    from semaug.ssl_methods.presets import training_recipe

    kind_training.check(preset)
    for name, artifact in preset.artifacts.items():
        check_artifact(name, artifact.kind, artifact.options)
    for scale in preset.scales:
        for setting in settings_of(preset):
            protocol_of(options_of(preset, scale, setting, {}))
    for variant in preset.variants.values():
        method = variant.method or preset.method
        protocol_of(variant.hyperparameters if _is_own(method) else {})
        if not _is_own(method):
            training_recipe(method, variant.recipe)
        elif method not in PROJECTIONS:
            ablation_of(method)


def options_of(preset: Preset, scale: str, setting: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one place: the preset's, its setting's, the variant's ``own``, and over all the scale's."""
    given = settings_of(preset)[setting].hyperparameters
    return {**preset.options, **given, **own, **preset.scales[scale].hyperparameters.get(DIFFAUG, {})}


def protocol_of(options: Mapping[str, Any]) -> Protocol:
    """The protocol that options of a preset name; raises ``InvalidOption`` for those that nobody knows."""
    if unknown := sorted(set(options) - {*_PROTOCOL, *_COURSE, *_DATA, *_SETTINGS}):
        raise InvalidOption(f"diffaug has no option {unknown[0]!r}; it has {', '.join(_PROTOCOL + _COURSE + _DATA)}, "
                            f"and the settings {', '.join(_SETTINGS)}")  # fmt: skip
    own = {name: options[name] for name in _PROTOCOL if name in options}
    if "settings" in own:
        own["settings"] = tuple(own["settings"])
    return Protocol(
        **own,
        diffaug=DiffAugSettings(**{name: options[name] for name in _SETTINGS if name in options}),
        course=Course(epochs=options.get("epochs", 400), batch_size=options.get("batch_size")),
        data=DataOptions(**{name: options[name] for name in _DATA if name in options}),
    )


def plan(study: Study, ready: Ready) -> list[Planned]:
    """One job for each setting, variant and seed; a variant without a printed cell in a setting is run all the same."""
    variants = {n: v for n, v in study.preset.variants.items() if not study.only or n in study.only}
    return [
        _planned(study, ready, setting, variant, seed)
        for seed in study.chosen_seeds
        for setting in settings_of(study.preset)
        for variant in variants
    ]


def longer(study: Study, ready: Ready, found: Found) -> list[Longer]:
    """The best control at the cost of every variant that costs more; a projection takes no more than it takes."""
    asked = kind_training.longer(study, ready, found)
    fitted = {name for name, v in study.preset.variants.items() if (v.method or study.preset.method) in PROJECTIONS}
    return [replace(a, factor=1.0) if a.control in fitted else a for a in asked]


def plan_longer(study: Study, ready: Ready, asked: Sequence[Longer]) -> list[Planned]:
    """The jobs of controls that train longer; variants of equal cost share one."""
    places = {(a.setting, a.name): a for a in asked if a.factor > 1}
    return [
        _planned(study, ready, a.setting, a.control, seed, a.factor, a.name)
        for seed in study.chosen_seeds
        for a in places.values()
    ]


def _planned(
    study: Study, ready: Ready, setting: str, variant: str, seed: int, factor: float = 1.0, name: str = ""
) -> Planned:
    preset, v, name = study.preset, study.preset.variants[variant], name or variant
    method, data = v.method or preset.method, ready.data[kind_training.place_of(study, setting)]
    out = kind_training.run_folder(study.out, setting, name, seed)
    title = f"{setting} {name} seed {seed}" if preset.settings else f"{name} seed {seed}"
    if not _is_own(method):
        found = kind_training.planned(study, ready, setting, variant, seed, factor, name)
        able = not isinstance(found.job, CannotRun)
        return Planned(setting, name, seed, Named(found.job, found.job.name) if able else found.job)
    protocol = _lengthened(protocol_of(options_of(preset, study.scale_name, setting, v.hyperparameters)), factor)
    if _is_table(data.train):
        if method in PROJECTIONS and (missing := PROJECTIONS[method].missing):
            return Planned(setting, name, seed, CannotRun(title, out, 1, missing))
        job = Compared(data.train, method, seed, replace(protocol, diffaug=_for_rows(protocol.diffaug)), out)
        return Planned(setting, name, seed, Named(job, title))
    settings = ablation_of(method).apply(protocol.diffaug)
    steps = kind_training.steps_of(study, ready, setting, variant, factor) if study.scale.steps else None
    course = Course(None if steps else protocol.course.epochs, steps, study.scale.batch_size)
    size = settings_of(preset)[setting].size or study.scale.size
    images = TrainDiffAug(
        title, out, _for_images(study, settings), course, DataOptions(min(size, study.scale.size)), seed, data.train,
        data.test, kind_training.evaluations_of(study), ready.data,
    )  # fmt: skip
    return Planned(setting, name, seed, Named(images, title))


def _lengthened(protocol: Protocol, factor: float) -> Protocol:
    """The protocol with ``factor`` times the epochs."""
    if protocol.course.epochs is None:
        return protocol
    return replace(protocol, course=replace(protocol.course, epochs=max(1, round(protocol.course.epochs * factor))))


def _for_images(study: Study, settings: DiffAugSettings) -> DiffAugSettings:
    """The encoder is the scale's backbone, or the preset's; options of networks of rows are left out."""
    backbone = study.scale.backbone or study.preset.backbone
    generator = {name: value for name, value in settings.generator.items() if name != WIDTHS}
    return replace(settings, encoder={"backbone": backbone} if backbone else {}, generator=generator)


def _for_rows(settings: DiffAugSettings) -> DiffAugSettings:
    """Options of networks of images are left out."""
    return replace(settings, generator={name: v for name, v in settings.generator.items() if name != CHANNELS})


def _is_own(method: str) -> bool:
    return method in ABLATIONS or method in PROJECTIONS or method.startswith("alpha-")


def _is_table(spec: str) -> bool:
    from semaug.artifacts.tables import is_table

    return is_table(spec) or spec.partition("?")[0].endswith((".csv", ".parquet"))


def sections(study: Study, ready: Ready) -> list[Section]:
    """The parts that measurements wrote, and pictures of embeddings that were kept."""
    return [*kind_training.KIND.sections(study, ready), *_pictures(study)]


def _pictures(study: Study) -> list[Section]:
    """The first seed's two dimensions of every variant, one figure a table; cells are coloured by class."""
    from semaug.eval.figures.embedding import embedding_map
    from semaug.eval.report import Figure, Section

    figures, seed = [], study.chosen_seeds[0]
    for setting in settings_of(study.preset):
        maps, names = [], ()
        for variant in study.preset.variants:
            path = kind_training.run_folder(study.out, setting, variant, seed) / ALL_ROWS / KEPT
            if path.is_file():
                with np.load(path, allow_pickle=False) as kept:
                    maps.append((variant, kept["embedding"], kept["labels"]))
                    names = tuple(kept["names"].tolist())
        if maps:
            caption = f"{setting}: two dimensions of all rows (seed {seed}), coloured by class; axes carry no meaning"
            alt = f"Scatter plots of {setting}, one for each of {', '.join(name for name, _, _ in maps)}"
            figures.append(Figure(embedding_map(maps, names), caption, alt, wide=True))
    return [Section("Pictures", tuple(figures))] if figures else []


KIND = Kind(
    "DiffAug, its ablations, projections of tables and methods on images, scored alike", check, plan, longer,
    plan_longer, sections,
)  # fmt: skip
