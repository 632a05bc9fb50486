"""A preset completed by what a user has: guidance of one's own, artifacts that can only be given, labels or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import InvalidOption, SemaugError
from semaug.studies.study.catalogue import references
from semaug.studies.study.schema import ArtifactSpec, Preset, Scale, Variant

GIVEN = "given"
"""The kind of an artifact that no study makes: variants that read it are left out where it is not given."""
COMPARE = "compare"
PATTERN = "guided-"
"""How a guided variant's name begins; the artifact's name follows."""
CONTROLS = ("random_box", "shuffled_box")


def complete(
    preset: Preset, train: str, made: Mapping[str, str], guidance: Mapping[str, str], method: str | None
) -> Preset:
    """The preset with one guided variant and its controls for each ``guidance`` (name to path), by another ``method``,
    without what was not given, and without accuracy where ``train`` has no labels.

    Raises ``InvalidOption`` for guidance or a method of a preset that is not of kind `compare`, and for a name taken.
    """
    if (guidance or method) and preset.kind != COMPARE:
        given = "--guidance" if guidance else "--method"
        raise InvalidOption(f"{given} is for studies of kind {COMPARE}, and {preset.name} is of kind {preset.kind}")
    if method:
        from semaug.ssl_methods.presets import training_recipe

        training_recipe(method, None)
        preset = preset.model_copy(update={"method": method})
    preset = _with_guidance(preset, guidance)
    preset = without_absent(preset, {*made, *guidance})
    return without_labels(preset) if preset.kind == COMPARE and train and not has_labels(train) else preset


def _with_guidance(preset: Preset, guidance: Mapping[str, str]) -> Preset:
    artifacts, variants = dict(preset.artifacts), dict(preset.variants)
    options = preset.options.get("guided", {})
    for name in guidance:
        if name in artifacts:
            raise InvalidOption(f"guidance {name!r} is there already; call it otherwise, as --guidance NAME=PATH")
        artifacts[name] = ArtifactSpec(kind=GIVEN)
        variants |= guided_variants(name, options)
    return preset.model_copy(update={"artifacts": artifacts, "variants": variants})


def guided_variants(name: str, options: Mapping[str, Any]) -> dict[str, Variant]:
    """Crops guided by an artifact, and the controls that share its boxes but not their meaning."""
    given: dict[str, Any] = {"options": dict(options), "guidance": f"@{name}"}
    controls = {f"{c}-{name}": Variant(pairs=c, control=True, title=_TITLES[c].format(name), **given) for c in CONTROLS}
    return {f"{PATTERN}{name}": Variant(pairs="guided", title=f"crops in the boxes of {name}", **given), **controls}


_TITLES = {"random_box": "boxes of the sizes of {} at random places", "shuffled_box": "another image's boxes of {}"}


def without_absent(preset: Preset, made: set[str]) -> Preset:
    """The preset without variants that read an artifact that can only be given and is not."""
    absent = {name for name, a in preset.artifacts.items() if a.kind == GIVEN and name not in made}
    kept = {
        name: v
        for name, v in preset.variants.items()
        if not absent & set(references({**v.options, "guidance": v.guidance}))
    }
    return preset.model_copy(update={"variants": kept})


def without_labels(preset: Preset) -> Preset:
    """What is left to say of images without labels: no accuracy, so nothing to tune and no longer control."""

    def plain(scale: Scale) -> Scale:
        return scale.model_copy(update={"longer": "none", "seeds": 1})

    scales = {name: plain(scale) for name, scale in preset.scales.items()}
    data = {name: d.model_copy(update={"train_only": True}) for name, d in preset.data.items()}
    return preset.model_copy(update={"evaluations": {}, "scales": scales, "data": data})


def has_labels(train: str) -> bool:
    """Whether images name classes; those that cannot be opened are left to fail where they are read."""
    from semaug.artifacts.sources import open_source

    try:
        return bool(open_source(train).class_names)
    except SemaugError:
        return True


def named_guidance(given: Sequence[str]) -> dict[str, str]:
    """Names and paths out of ``PATH`` or ``NAME=PATH``; a path's own name serves where none is said.

    >>> named_guidance(["boxes.zarr", "mine=there/guidance.zarr"])
    {'boxes': 'boxes.zarr', 'mine': 'there/guidance.zarr'}
    """
    found: dict[str, str] = {}
    for word in given:
        name, equal, path = word.partition("=")
        if not equal or Path(word).exists():
            name, path = Path(word).name.removesuffix(".zarr"), word
        if not name or not path or name in found:
            raise InvalidOption(f"--guidance {word!r} is no PATH or NAME=PATH of its own name; name it otherwise")
        found[name] = path
    return found
