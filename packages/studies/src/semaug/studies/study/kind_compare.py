"""Kind `compare`: does guidance help on these images? Kind `training` with a tuned baseline, and views measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import open_source
from semaug.studies.study import kind_training
from semaug.studies.study.jobs import MEMORY
from semaug.studies.study.kinds import Found, Kind, Longer, Planned
from semaug.studies.study.measurements import measurement_sections
from semaug.studies.study.plan import Study
from semaug.studies.study.prepare import Ready
from semaug.studies.study.schema import Preset
from semaug.studies.study.splitting import read_split
from semaug.studies.study.tuning import BASELINE, scales_of, tried, tuned, tuning_jobs
from semaug.studies.study.view_measures import SECOND, measured

if TYPE_CHECKING:
    from semaug.eval.report import Block, Cell, Section
    from semaug.studies.study.results import Results

VIEWS = "views"


def check(preset: Preset) -> None:
    """Raise ``InvalidOption`` where kind `training` does, without the baseline, or where views are not measured."""
    if BASELINE not in preset.variants or VIEWS not in preset.measurements or preset.settings:
        raise InvalidOption(
            f"{preset.name}: a comparison has a variant {BASELINE!r}, a measurement {VIEWS!r} and no settings; it has "
            f"{', '.join(preset.variants)}; {', '.join(preset.measurements)}; {', '.join(preset.settings) or 'none'}"
        )
    kind_training.check(preset)


def plan(study: Study, ready: Ready) -> list[Planned]:
    """One job for each variant and seed, all at the scale that was chosen for the baseline."""
    return kind_training.plan(_settled(study, ready), ready)


def tune(study: Study, ready: Ready) -> list[Planned]:
    """The runs that the baseline's scale is chosen by."""
    return tuning_jobs(_fitted(study, ready), ready)


def _settled(study: Study, ready: Ready) -> Study:
    return tuned(_fitted(study, ready))


def _fitted(study: Study, ready: Ready) -> Study:
    """The study with batches that fit its images, where there are fewer than the scale's batch."""
    count, batch = len(open_source(ready.data["main"].train)), study.scale.batch_size
    if batch is None or batch <= count:
        return study
    scale = study.scale.model_copy(update={"batch_size": max(2, count)})
    scales = {**study.preset.scales, study.scale_name: scale}
    return replace(study, preset=study.preset.model_copy(update={"scales": scales}))


def longer(study: Study, ready: Ready, found: Found) -> list[Longer]:
    """The best control, once for every variant that costs more."""
    return kind_training.longer(_settled(study, ready), ready, found)


def plan_longer(study: Study, ready: Ready, asked: Sequence[Longer]) -> list[Planned]:
    """The jobs of those controls."""
    return kind_training.plan_longer(_settled(study, ready), ready, asked)


def sections(study: Study, ready: Ready) -> list[Section]:
    """The trilemma as it was measured, and how the comparison was made."""
    from semaug.eval.report import Section
    from semaug.studies.study.results import read_results

    results, _ = read_results(study.out)
    made: list[Block] = [*_split(study), *_tuning(study), *_oracles(results)]
    unmeasured = [] if "views/about" in results.measured else measurement_sections(study, ready)
    return [
        *unmeasured,
        Section("Consistency, efficiency, diversity", _trilemma(results)),
        Section("How it was compared", tuple(made)),
    ]


def verdict(results: Results) -> str | None:
    """Without labels, what views keep, how alike they are and what they cost; else what every study says."""
    if results.study.preset.evaluations:
        return None
    rows, costs = results.measured, cost_of(results)
    names = [n for n in variants_of(results) if measured(rows, n, "similarity") is not None]
    told = [_told(rows, costs, name) for name in names if name == BASELINE or not _is_control(results, name)]
    failed = f" {len(results.failed)} parts failed." if results.failed else ""
    return f"No labels, so no accuracy and no verdict on it. {' '.join(told)}{failed}"


def _told(rows: Mapping[str, Any], costs: Mapping[str, float], name: str) -> str:
    keeps, same = (measured(rows, name, of) for of in ("keeps", "same"))
    alike, spread = (measured(rows, name, of) for of in ("similarity", "diversity"))
    kept = "" if keeps is None or same is None else f"views keep half an object in {keeps:.0%} (both in {same:.0%}), "
    cost = f", cost {costs[name]:.2f} times" if name in costs else ""
    return f"**{name}**: {kept}similarity {alike:.2f}, diversity {spread:.2f}{cost}."


def variants_of(results: Results) -> list[str]:
    """The variants that were run, those at equal cost left out."""
    study = results.study
    return [name for name in study.preset.variants if not study.only or name in study.only]


def _is_control(results: Results, name: str) -> bool:
    return results.study.preset.variants[name].control


def cost_of(results: Results) -> dict[str, float]:
    """Training and making the artifacts of each variant, as a multiple of the baseline's training."""
    base = results.seconds(kind_training.WHOLE, BASELINE)
    found = {}
    for name in variants_of(results):
        own = results.seconds(kind_training.WHOLE, name)
        if base and own is not None:
            found[name] = (own + _making(results, name)) / base
    return found


def _making(results: Results, variant: str) -> float:
    """Seconds of the artifacts that a variant reads, each part once."""
    used = kind_training.artifacts_used(results.study.preset, variant)
    parts = {part for a in results.artifacts if a.name in used for part in a.parts}
    return sum(_costs(part)[0] for part in parts)


def _memory(results: Results, variant: str) -> float | None:
    """MB at the height of making a variant's artifacts."""
    used = kind_training.artifacts_used(results.study.preset, variant)
    return max((_costs(a.path)[1] for a in results.artifacts if a.name in used and a.path is not None), default=None)


def _costs(path: Any) -> tuple[float, float]:
    markers = Artifact.open(path).markers
    return sum(m.costs.seconds for m in markers), max(m.costs.peak_memory for m in markers) / 1e6


def _trilemma(results: Results) -> tuple[Block, ...]:
    from semaug.eval.report import Paragraph

    warnings = [
        Paragraph(f"{name}: {_why_not(results.measured, name)}", "warning")
        for name in variants_of(results)
        if _failed(results.measured, name)
    ]
    return (_looked_at(results), _efficiency(results), *warnings)


def _looked_at(results: Results) -> Block:
    from semaug.eval.report import Column, Missing, Table

    rows, share = results.measured, {"unit": "%", "scale": 100}
    about = rows.get("views/about", {})
    columns = [
        Column("variant"), Column("keeps half an object", **share), Column("both views keep the same", **share),  # type: ignore[arg-type]
        Column("similarity of a pair", digits=2), Column("diversity of views", digits=2),
        Column("dimension of views", digits=1),
    ]  # fmt: skip
    names = ["keeps", "same", "similarity", "diversity", "dimension"]
    if SECOND in about:  # a study that was measured before there were two has one
        columns += [Column("similarity, second encoder", digits=2), Column("diversity, second encoder", digits=2)]
        names += [f"{SECOND}/similarity", f"{SECOND}/diversity"]
    values = {name: [measured(rows, name, of) for of in names] for name in variants_of(results)}
    told = [i for i in range(len(names)) if any(row[i] is not None for row in values.values())] or [0]
    lines = tuple(
        (name, *(Missing(_why_not(rows, name)) if row[i] is None else row[i] for i in told))
        for name, row in values.items()
    )
    shown = (columns[0], *(columns[i + 1] for i in told))
    return Table("Consistency and diversity of the views", shown, lines, _how_looked_at(about))


def _how_looked_at(about: Mapping[str, Any]) -> str:
    encoders = [about[name] for name in ("encoder", SECOND) if name in about]
    text = (
        "Consistency: the share of views that keep at least half of some object "
        f"({about.get('objects') or 'no objects are known'}; boxes of an oracle favour the variant that it guides), "
        "and the mean cosine of the two views of a pair. Diversity: the mean of 1 - cosine over all views of an image, "
        "and the maximum-likelihood dimension of one view an image. Views of all variants are compared alike, crops "
        f"and flips without colour changes, on {about.get('n', 0):,} images, in features centred on the whole images, "
        f"by {' and, as the second encoder, '.join(encoders) or 'an encoder which is missing'}."
    )
    if any("objectness" in name for name in encoders):
        text += (
            " The objectness network was trained to find objects as `guided-objectness` does: what it says of that "
            "variant is not independent of it."
        )
    return text


def _efficiency(results: Results) -> Block:
    from semaug.eval.report import Column, Table

    columns = (
        Column("variant"), Column("training", unit="s"), Column("making artifacts", unit="s"),
        Column("cost", digits=2, unit="x"), Column("memory, training", digits=0, unit="MB"),
        Column("memory, making", digits=0, unit="MB"),
    )  # fmt: skip
    costs = cost_of(results)
    lines: list[tuple[Cell, ...]] = []
    for name in variants_of(results):
        times = (results.seconds(kind_training.WHOLE, name), _making(results, name), costs.get(name))
        memory = results.summary(kind_training.WHOLE, name, MEMORY)
        lines.append((name, *times, None if memory is None else memory.mean, _memory(results, name)))
    note = (
        "Seconds of one run's training, and of one worker making the artifacts; cost is their sum as a multiple of the "
        "training of `standard`. Memory is that of the process at its height, libraries included."
    )
    return Table("Efficiency", columns, tuple(lines), note)


def _failed(rows: Mapping[str, Any], name: str) -> bool:
    return f"views/{name}/failed" in rows


def _why_not(rows: Mapping[str, Any], name: str) -> str:
    failed = rows.get(f"views/{name}/failed")
    return str(failed["reason"]) if failed else "not defined for these pairs or images"


def _split(study: Study) -> list[Block]:
    from semaug.eval.report import Paragraph

    split = read_split(study.out / "artifacts" / "main-split.json")
    if split is None:
        return []
    told = (
        f"No test images were given: {len(split.test):,} of {split.images:,} images were held out, {split.share:.0%} "
        f"of each class. {split.copies:,} images have a copy or near copy (equal content, or alike by perceptual hash "
        f"and colours); the {split.groups:,} groups stay whole, so none lies on both sides."
    )
    return [Paragraph(told)]


def _tuning(study: Study) -> list[Block]:
    from semaug.eval.report import Column, Missing, Paragraph, Table

    if not study.preset.evaluations or len(scales_of(study)) < 2:
        low, high = tuned(study).preset.pair_options.get("scale", (None, None))
        told = "Crops take what the recipe says" if low is None else f"Crops take {low:g} to {high:g} of the image"
        return [Paragraph(f"{told}: there was no choice, or no labels to choose by.")]
    found = tried(study)
    rows = tuple(
        (f"{low:g} to {high:g}", value if isinstance(value, float) else Missing(value))
        for (low, high), value in found.items()
    )
    columns = (Column("crop scale"), Column("accuracy on the selection part", unit="%", scale=100, best="max"))
    note = (
        "Each is one run of `standard` on the training images, as long as any other, of the first seed; a linear probe "
        "is fitted to four fifths of the training images and scored on the rest. All variants take the best. The test "
        "images are read once, at the end."
    )
    return [Table("The crop scale of the baseline", columns, rows, note)]


def _oracles(results: Results) -> list[Block]:
    """What each artifact was made by: knowledge that the baseline does not have."""
    from semaug.eval.report import Column, Table

    rows = []
    for made in results.artifacts:
        if made.path is not None:
            manifest, told = Artifact.open(made.path).manifest, results.study.notes.get(made.name)
            rows.append((made.name, made_by(manifest.config), told or trained_on(manifest.config, manifest.info)))
    if not rows:
        return []
    columns = (Column("artifact"), Column("made by"), Column("which was trained on"))
    note = "It may overlap with the images that are tested on."
    return [Table("What the artifacts know", columns, tuple(rows), note)]


_MODELS = ("detector", "segmenter", "generator", "captioner", "encoder")


def made_by(config: Mapping[str, Any]) -> str:
    """The models that made an artifact, out of its manifest."""
    return ", ".join(_name_of(config[part]) for part in _MODELS if config.get(part)) or "not said"


def _name_of(part: Any) -> str:
    return str(part.get("id") or part.get("name") or part) if isinstance(part, Mapping) else str(part)


def trained_on(config: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    """What the models that made an artifact were trained on: what its manifest says, else what is known of built-in
    oracles.

    >>> trained_on({"detector": {"name": "saliency"}}, {})
    'nothing'
    """
    from semaug.oracles.catalogue import TRAINED_ON

    said = info.get("trained_on", {})
    names = {part: _name_of(config[part]) for part in _MODELS if config.get(part)}
    known = [said.get(part) or TRAINED_ON.get(name, "not known here") for part, name in names.items()]
    learned = [text for text in dict.fromkeys(known) if text != "nothing"]
    return "; ".join(learned) or ("nothing" if known else "not known here")


KIND = Kind(
    "one method on one's own images: guidance against its controls, with the views and the costs measured", check, plan,
    longer, plan_longer, sections, tune=tune, verdict=verdict,
)  # fmt: skip
