"""Synthetic images of a whole image source, in as many variants as are asked for (LMM-MPA, spec S2.3 and S2.4)."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.files import require_space
from semaug.artifacts.pack import RAW_LIMIT
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest, Skipped, Slot, SyntheticRow, plan_slots, synthetic_key
from semaug.artifacts.shards import ShardResult, Tick
from semaug.artifacts.sources import ImageSource, inputs_of
from semaug.artifacts.store import ArtifactSummary
from semaug.artifacts.synthetic_table import Layout, synthetic_columns
from semaug.prompt_synthesis.generators import Generated, Generator
from semaug.prompt_synthesis.parts import Models, Part
from semaug.prompt_synthesis.pipeline import PathLike, Running, stage_costs, write_stage
from semaug.prompt_synthesis.reading import read_batches
from semaug.prompt_synthesis.store import (
    CaptionTable,
    MapTable,
    PromptTable,
    require_same_images,
)
from semaug.prompt_synthesis.visual_prompts import (
    GENERATOR_OF,
    VisualPrompt,
    VisualPromptSettings,
    make_visual_prompt,
    resize_image,
)

Image = NDArray[np.uint8]
JPEG_SHARE = 0.15
"""Bytes of a JPEG as a share of its pixels', for the estimate of space."""


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """What is generated of every image, and how it is kept.

    ``n_sem`` rewritings and ``n_vp`` augmented visual prompts are added to the plain image, or crossed (``counting``:
    see ``plan_slots``); ``repeats`` images of each differ by their seed alone. ``store_size`` is the shorter side of
    what is kept, in pixels (that of what is generated), which is a `square` or has the `original` image's ``shape``.
    ``layout`` is `raw`, `jpeg` of ``quality``, or `auto`, which keeps pixels up to 256 x 256 and JPEG above. Raises
    ``InvalidOption``.
    """

    visual: VisualPromptSettings = field(default_factory=VisualPromptSettings)
    n_sem: int = 0
    n_vp: int = 0
    repeats: int = 1
    counting: str = "additive"
    store_size: int | None = None
    shape: str = "square"
    layout: str = "auto"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.counting not in ("additive", "product") or self.layout not in ("auto", "raw", "jpeg"):
            raise InvalidOption(
                f"counting is {self.counting!r} and layout {self.layout!r}; use additive or product, and auto, raw or "
                "jpeg"
            )
        if self.shape not in ("square", "original"):
            raise InvalidOption(f"shape is {self.shape!r}; use square or original")
        if min(self.n_sem, self.n_vp) < 0 or self.repeats < 1:
            raise InvalidOption(
                f"n_sem is {self.n_sem}, n_vp {self.n_vp} and repeats {self.repeats}; give 0 or more, repeats from 1"
            )
        if self.store_size is not None and self.store_size < 1:
            raise InvalidOption(f"store_size is {self.store_size} pixels; give 1 or more")
        if not 1 <= self.quality <= 100:
            raise InvalidOption(f"JPEG quality {self.quality} is not between 1 and 100")
        if self.n_vp and (self.visual.kind == "noise" or self.visual.augmentation == "none"):
            raise InvalidOption(
                f"n_vp is {self.n_vp} and the visual prompt {self.visual.kind!r} with augmentation "
                f"{self.visual.augmentation!r} has nothing to vary; give an augmentation, or --repeats"
            )

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The variants of every image, in the order of their keys."""
        return plan_slots(self.n_sem, self.n_vp, self.repeats, self.counting)  # type: ignore[arg-type]

    def layout_of(self, side: int) -> Layout:
        """How images of ``side`` pixels are kept."""
        if self.layout == "auto":
            return "raw" if 3 * side * side <= RAW_LIMIT else "jpeg"
        return self.layout  # type: ignore[return-value]

    def size_of(self, real: Image, side: int) -> tuple[int, int]:
        """Height and width of what is kept, whose shorter side is ``side``."""
        if self.shape == "square":
            return side, side
        scale = side / min(real.shape[:2])
        return max(side, round(scale * real.shape[0])), max(side, round(scale * real.shape[1]))

    def identity(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def noise_seed(seed: int, key: str, slot: Slot) -> int:
    """The seed of one image's noise: 63 bits of (seed, image, variant)."""
    purpose = f"synthesis {slot.semantic} {slot.visual} {slot.repeat}"
    return draw_key(seed, purpose, 0, key) & (2**63 - 1)


@dataclass(frozen=True)
class GenerateWork:
    """Synthetic images of the shards of a source; a shard's items are its images' variants, image by image."""

    source: ImageSource
    part: Part[Generator]
    plan: GenerationPlan
    seed: int
    captions: str
    prompts: str | None
    maps: str | None
    side: int
    models: Models

    def open(self) -> GenerateWork:
        self.models.take(self.part)
        assert self._captions
        return self

    @cached_property
    def _captions(self) -> CaptionTable:
        return CaptionTable.open(self.captions)

    @cached_property
    def _prompts(self) -> PromptTable | None:
        return None if self.prompts is None else PromptTable.open(self.prompts)

    @cached_property
    def _maps(self) -> MapTable | None:
        return None if self.maps is None else MapTable.open(self.maps)

    def run(self, indices: range, tick: Tick) -> ShardResult:
        slots = self.plan.slots
        images = range(indices.start // len(slots), indices.stop // len(slots))
        shard = _Shard(self, tick)
        per_read = max(1, self.part.batch_size // len(slots))
        for batch in read_batches(self.source, images, per_read):
            for skip in batch.skipped:
                shard.skip(skip)
            for index, key, image in zip(batch.indices, batch.keys, batch.images, strict=True):
                if (reason := self._missing(key)) is not None:
                    shard.skip(Skipped(key=key, reason=reason))
                    continue
                for number, slot in enumerate(slots):
                    shard.add(index, key, image, number, slot)
        shard.flush()
        return ShardResult(shard.columns(), shard.skipped)

    def _missing(self, key: str) -> str | None:
        if key not in self._captions.captions:
            return "it has no caption (skipped when captions were made)"
        if self._maps is not None and key not in self._maps:
            return "it has no mask map (skipped when maps were made)"
        return None

    def prompt(self, key: str, slot: Slot) -> str:
        """The text that one variant is generated by."""
        if slot.semantic == 0 or self._prompts is None:
            return self._captions.captions[key].text
        return self._prompts.prompts[key][slot.semantic - 1]

    def visual(self, key: str, image: Image, slot: Slot) -> VisualPrompt:
        """What one variant is generated from."""
        colours = None
        if self._maps is not None:
            from semaug.prompt_synthesis.ade20k import to_colours

            colours = resize_image(to_colours(self._maps.classes(key)), image.shape[:2], exact_colours=True)
        return make_visual_prompt(self.plan.visual, image, colours, self.seed, key, slot.visual)


class _Shard:
    """What one shard has gathered; images are generated as soon as a batch of variants is full."""

    def __init__(self, work: GenerateWork, tick: Tick) -> None:
        self._work, self._tick = work, tick
        self._generator = work.models.take(work.part)
        self._waiting: list[tuple[SyntheticRow, VisualPrompt, Image, int]] = []
        self._visual_prompts: dict[tuple[str, int], VisualPrompt] = {}
        self._rows: list[SyntheticRow] = []
        self._images: list[Image] = []
        self._labels: list[int | None] = []
        self.skipped: list[Skipped] = []

    def skip(self, skipped: Skipped) -> None:
        self.skipped.append(skipped)
        self._tick(len(self._work.plan.slots))

    def add(self, index: int, key: str, image: Image, number: int, slot: Slot) -> None:
        work = self._work
        seed = noise_seed(work.seed, key, slot)
        row = SyntheticRow(synthetic_key(key, number), key, slot, work.prompt(key, slot), seed)
        self._waiting.append((row, self._visual_of(key, image, slot), image, index))
        if len(self._waiting) >= work.part.batch_size:
            self.flush()

    def _visual_of(self, key: str, image: Image, slot: Slot) -> VisualPrompt:
        """One object for all variants that share it, so that the generator prepares and encodes it once."""
        if not any(known == key for known, _ in self._visual_prompts):
            self._visual_prompts.clear()
        if (key, slot.visual) not in self._visual_prompts:
            self._visual_prompts[key, slot.visual] = self._work.visual(key, image, slot)
        return self._visual_prompts[key, slot.visual]

    def flush(self) -> None:
        if not self._waiting:
            return
        rows = [row for row, *_ in self._waiting]
        prompts, seeds = [row.prompt for row in rows], [row.seed for row in rows]
        made = self._generator.generate(prompts, [visual for _, visual, *_ in self._waiting], seeds)
        for (row, _, real, index), one in zip(self._waiting, made, strict=True):
            self._keep(row, one, real, self._work.source.label(index))
        self._tick(len(made))
        self._waiting.clear()

    def _keep(self, row: SyntheticRow, made: Generated, real: Image, label: int | None) -> None:
        size = self._work.plan.size_of(real, self._work.side)
        self._rows.append(
            SyntheticRow(row.key, row.origin, row.slot, row.prompt, row.seed, made.truncated, made.flagged)
        )
        self._images.append(resize_image(real if made.flagged else made.image, size))
        self._labels.append(label)

    def columns(self) -> dict[str, NDArray]:
        plan = self._work.plan
        return synthetic_columns(self._rows, self._images, self._labels, plan.layout_of(self._work.side), plan.quality)


def generate_images(
    source: ImageSource,
    out: PathLike,
    generator: Part[Generator],
    captions: PathLike,
    *,
    size: int,
    plan: GenerationPlan | None = None,
    prompts: PathLike | None = None,
    maps: PathLike | None = None,
    seed: int = 0,
    shard_size: int = 64,
    running: Running | None = None,
) -> ArtifactSummary:
    """Write a ``synthetic`` artifact: the variants of ``plan`` of every image of ``source``. Rerunning resumes.

    ``size`` is the side of what the generator makes, pixels; ``shard_size`` counts real images. ``prompts`` are needed
    for ``n_sem`` above 0, ``maps`` for the visual prompts `mask` and `mixing`. The artifact is an image source of its
    own. Raises ``InvalidOption`` and ``ArtifactError`` for parts that do not fit each other, ``OutputError`` where the
    images will not fit, and what the generator and ``ArtifactWriter.open`` raise.
    """
    plan, running = plan or GenerationPlan(), running or Running()
    inputs = _check_inputs(source, generator, plan, captions, prompts, maps)
    side, slots = plan.store_size or size, plan.slots
    manifest = Manifest(
        kind="synthetic",
        items=len(source) * len(slots),
        shard_size=shard_size * len(slots),
        seed=seed,
        config={
            "generator": generator.identity(),
            "plan": plan.identity(),
            "side": side,
            "class_names": list(source.class_names),
        },
        inputs=inputs,
        info={
            "spec": source.spec,
            "models": _models_of(captions, prompts, maps),
            "costs": {
                cost.stage: asdict(cost)
                for cost in stage_costs([p for p in (captions, prompts, maps) if p is not None])
            },
        },
    )
    work = GenerateWork(
        source, generator, plan, seed, os.fspath(captions), None if prompts is None else os.fspath(prompts),
        None if maps is None else os.fspath(maps), side, running.models,
    )  # fmt: skip
    _require_room(Path(out), manifest, plan, side, running.overwrite)
    return write_stage(manifest, work, out, "generate", running)


def _check_inputs(
    source: ImageSource,
    generator: Part[Generator],
    plan: GenerationPlan,
    captions: PathLike,
    prompts: PathLike | None,
    maps: PathLike | None,
) -> dict[str, str]:
    """What identifies all that is read, by role."""
    kind, wanted = getattr(generator, "kind", None), GENERATOR_OF[plan.visual.kind]
    if kind is not None and kind != wanted:
        raise InvalidOption(f"the visual prompt {plan.visual.kind!r} needs a generator {wanted!r}, this is {kind!r}")
    table = CaptionTable.open(captions)
    require_same_images("captions", table.source, source.fingerprint, "semaug synth caption")
    inputs = {**inputs_of(source), "captions": table.digest}
    if plan.n_sem:
        if prompts is None:
            raise InvalidOption(
                f"n_sem is {plan.n_sem} and there are no prompts; make them with `semaug synth rewrite`"
            )
        texts = PromptTable.open(prompts)
        texts.require_captions(table)
        if texts.n_sem < plan.n_sem:
            raise InvalidOption(f"n_sem is {plan.n_sem} and {prompts} holds {texts.n_sem} an image; rewrite more")
        inputs["prompts"] = texts.digest
    if plan.visual.needs_mask_map:
        if maps is None:
            raise InvalidOption(
                f"the visual prompt {plan.visual.kind!r} needs mask maps; make them with `semaug synth segment`"
            )
        found = MapTable.open(maps)
        require_same_images("mask maps", found.source, source.fingerprint, "semaug synth segment")
        inputs["mask_maps"] = found.digest
    return inputs


def _models_of(*paths: PathLike | None) -> dict[str, Any]:
    """The models of the stages before, as their artifacts name them."""
    names = ("captioner", "rewriter", "panoptic")
    configs = [Artifact.open(path).manifest.config for path in paths if path is not None]
    return {name: config[name] for config in configs for name in names if name in config}


def _require_room(out: Path, manifest: Manifest, plan: GenerationPlan, side: int, overwrite: bool) -> None:
    share = 1.0 if plan.layout_of(side) == "raw" else JPEG_SHARE
    begun = (out / "zarr.json").exists() and not overwrite
    done = len(Artifact.open(out, partial=True).markers) if begun else 0
    left = manifest.items * (1 - done / max(1, manifest.shards))
    require_space(out, int(3 * side * side * share * left), f"keeping {manifest.items:,} synthetic images")
