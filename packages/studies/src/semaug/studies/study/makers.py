"""Kinds of artifacts that a study can prepare, each made by the package that owns it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.shards import Workers
from semaug.artifacts.sources import ScenesSource, open_source
from semaug.studies.study.guidance_makers import GUIDANCE, guidance_roles, make_crops, make_guidance, make_quality
from semaug.studies.study.weights import Weights, ensure

Made = tuple[Path, tuple[Path, ...]]
"""An artifact, and all that were written on the way to it (itself included)."""


@dataclass(frozen=True, slots=True)
class Making:
    """What a maker is given: the images of the data role, the folder of its artifacts, and its options, in which
    ``@name`` is a path already. ``scenes`` is the generated set behind the images, which knows the true boxes."""

    images: str
    folder: Path
    name: str
    options: Mapping[str, Any]
    weights: Mapping[str, Weights] = field(default_factory=dict)
    scenes: ScenesSource | None = None
    device: str = "cpu"
    workers: Workers = 1
    on_progress: OnProgress = ignore_progress

    @property
    def path(self) -> Path:
        """Where the artifact goes."""
        return self.folder / f"{self.name}.zarr"

    def model(self, role: str) -> str:
        """The folder or id of a model; a random stand-in is made now where it is not there."""
        return ensure(self.weights[role])


@dataclass(frozen=True, slots=True)
class Maker:
    """How one kind is made. ``roles`` says which models its options need, ``knows`` which options there are."""

    make: Callable[[Making], Made]
    knows: frozenset[str]
    roles: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda options: ()


_SYNTHESIS = frozenset({
    "prompt", "kind", "n_sem", "n_vp", "vary", "visual", "repeats", "counting", "size", "store_size", "steps",
    "strength", "guidance", "caption_tokens", "rewrite_tokens", "shard_size",
})  # fmt: skip


def _synthetic_roles(options: Mapping[str, Any]) -> tuple[str, ...]:
    mapped = options.get("visual", "real") in ("mask", "mixing")
    return (
        "captioner", *(("rewriter",) if options.get("n_sem", 0) else ()),
        *(("map-generator", "controlnet", "panoptic") if mapped else ("generator",)),
    )  # fmt: skip


def _synthetic(making: Making) -> Made:
    """Captions, prompts and mask maps are shared by all artifacts of the data role that ask for the same."""
    from semaug.prompt_synthesis.generation import generate_images

    given, running = making.options, _running(making)
    source, shard = open_source(making.images), given.get("shard_size", 64)
    captions = _captions(making, shard)
    plan, parts = _generation(given), [captions]
    prompts = maps = None
    if plan.n_sem:
        parts.append(prompts := _prompts(making, captions, shard))
    if plan.visual.needs_mask_map:
        parts.append(maps := _maps(making, shard))
    generate_images(
        source, making.path, _generator(making), captions, size=given.get("size", 512), plan=plan, prompts=prompts,
        maps=maps, shard_size=shard, running=running,
    )  # fmt: skip
    return making.path, (*parts, making.path)


def _running(making: Making) -> Any:
    from semaug.prompt_synthesis.pipeline import Running

    return Running(making.workers, on_progress=making.on_progress)


def _captions(making: Making, shard: int) -> Path:
    from semaug.prompt_synthesis.captions import CaptionSettings
    from semaug.prompt_synthesis.parts import CaptionerPart
    from semaug.prompt_synthesis.pipeline import caption_images

    prompt = making.options.get("prompt", "describe")
    settings = CaptionSettings(max_new_tokens=making.options.get("caption_tokens", 60))
    part = CaptionerPart(making.model("captioner"), prompt, making.device, settings=settings)
    path = making.folder / f"captions-{prompt}.zarr"
    caption_images(open_source(making.images), path, part, shard_size=shard, running=_running(making))
    return path


def _prompts(making: Making, captions: Path, shard: int) -> Path:
    from semaug.prompt_synthesis.parts import RewriterPart
    from semaug.prompt_synthesis.pipeline import rewrite_captions
    from semaug.prompt_synthesis.rewriting import RewriteSettings
    from semaug.prompt_synthesis.token_limits import EstimatedLimit, open_clip_limit

    given, kind = making.options, making.options.get("kind", "rewriting")
    generator = Path(making.model(_synthetic_roles(given)[2]))
    limit = open_clip_limit(generator) if generator.is_dir() else EstimatedLimit()
    settings = RewriteSettings(kind=kind, max_new_tokens=given.get("rewrite_tokens", 96), limit=limit)
    part = RewriterPart(making.model("rewriter"), settings, making.device)
    path = making.folder / f"{captions.stem}-{kind}-{given['n_sem']}.zarr"
    rewrite_captions(captions, path, part, n_sem=given["n_sem"], shard_size=shard, running=_running(making))
    return path


def _maps(making: Making, shard: int) -> Path:
    from semaug.prompt_synthesis.parts import PanopticPart
    from semaug.prompt_synthesis.pipeline import segment_images

    path = making.folder / "maps.zarr"
    part = PanopticPart(making.model("panoptic"), making.device)
    segment_images(open_source(making.images), path, part, shard_size=shard, running=_running(making))
    return path


def _generation(given: Mapping[str, Any]) -> Any:
    from semaug.prompt_synthesis.generation import GenerationPlan
    from semaug.prompt_synthesis.visual_prompts import VisualPromptSettings

    names = ("n_sem", "n_vp", "repeats", "counting", "store_size")
    visual = VisualPromptSettings(given.get("visual", "real"), given.get("vary", "none"))
    return GenerationPlan(visual, **{name: given[name] for name in names if name in given})


def _generator(making: Making) -> Any:
    from semaug.prompt_synthesis.generators import GenerationSettings
    from semaug.prompt_synthesis.parts import GeneratorPart
    from semaug.prompt_synthesis.visual_prompts import GENERATOR_OF

    given, roles = making.options, _synthetic_roles(making.options)
    settings = GenerationSettings(
        steps=given.get("steps", 50), strength=given.get("strength", 0.7), guidance=given.get("guidance", 7.5),
        size=given.get("size", 512),
    )  # fmt: skip
    base = "map-generator" if "map-generator" in roles else "generator"
    net = making.model("controlnet") if "controlnet" in roles else None
    kind = GENERATOR_OF[given.get("visual", "real")]
    return GeneratorPart(kind, making.model(base), net, settings, making.device)


def _similarity(making: Making) -> Made:
    from semaug.prompt_synthesis.similarity import ClipPart, measure_similarity

    part = ClipPart(making.model("clip"), making.device)
    measure_similarity(
        open_source(making.images), making.options["synthetic"], making.path, part, running=_running(making)
    )
    return making.path, (making.path,)


def _pairs(making: Making) -> Made:
    """Proposed pairs, as they are ranked: nobody has judged them."""
    from semaug.pairs_dataset.proposals import ProposalRule
    from semaug.studies.proposing import propose

    names = ("per_class", "uses", "min_similarity")
    rule = ProposalRule(**{name: making.options[name] for name in names if name in making.options})
    done = propose(
        making.images, making.path, guidance=making.options.get("guidance"), rule=rule, workers=making.workers,
        on_progress=making.on_progress,
    )  # fmt: skip
    return making.path, (Path(done.described.path), making.path)


def _augment(making: Making) -> Made:
    """A DiffAug run on the images, beside its positives; the run's time is that of making them."""
    from semaug.diffaug_core.augment import AugmentPlan
    from semaug.diffaug_core.settings import DiffAugSettings
    from semaug.studies.diffaug import Course, DataOptions, augment_with, train_run

    given, run = dict(making.options), making.folder / f"{making.name}-run"
    options = DataOptions(given.pop("size", None))
    course = Course(given.pop("epochs", None), given.pop("steps", None), given.pop("batch_size", None))
    plan, backbone = AugmentPlan(given.pop("k", 5)), given.pop("backbone", None)
    settings = DiffAugSettings(**given, encoder={"backbone": backbone} if backbone else {})
    train_run(options.open(making.images), run, settings, course, device=making.device, on_progress=making.on_progress)
    augment_with(
        making.images, run, making.path, plan, device=making.device, workers=making.workers,
        on_progress=making.on_progress,
    )  # fmt: skip
    return making.path, (making.path,)


_AUGMENT = frozenset({
    "k", "size", "epochs", "steps", "batch_size", "backbone", "sampler_steps", "timesteps", "alpha", "generator",
    "generator_epochs", "schedule",
})  # fmt: skip


def _given(making: Making) -> Made:
    raise InvalidOption(f"artifact {making.name!r} is made by no study; give it with --artifact {making.name}=PATH")


MAKERS: dict[str, Maker] = {
    "given": Maker(_given, frozenset()),
    "quality": Maker(make_quality, frozenset()),
    "guidance": Maker(make_guidance, GUIDANCE, guidance_roles),
    "crops": Maker(make_crops, frozenset({"guidance"})),
    "synthetic": Maker(_synthetic, _SYNTHESIS, _synthetic_roles),
    "similarity": Maker(_similarity, frozenset({"synthetic"}), lambda options: ("clip",)),
    "augment": Maker(_augment, _AUGMENT),
    "pairs": Maker(_pairs, frozenset({"guidance", "per_class", "uses", "min_similarity"})),
}
"""Kind of artifact -> maker."""


def check_artifact(name: str, kind: str, options: Mapping[str, Any]) -> None:
    """Raise ``InvalidOption`` for a kind that nobody makes, or an option that its maker does not know."""
    if kind not in MAKERS:
        raise InvalidOption(f"artifact {name!r} is of kind {kind!r}; choose one of {', '.join(MAKERS)}")
    if unknown := sorted(set(options) - MAKERS[kind].knows):
        known = ", ".join(sorted(MAKERS[kind].knows))
        raise InvalidOption(f"artifact {name!r} has no option {unknown[0]!r}; a {kind} has {known}")
