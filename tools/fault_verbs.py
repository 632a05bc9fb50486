"""The commands that ``faults.py`` disturbs, each on inputs so small that it takes a second or a few."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fault_runs import Starter

IMAGES = 8
SIDE = 48
TORCH = ("torch", "semaug.ssl_methods.pretrain", "semaug.ssl_methods.callbacks", "torch.utils.tensorboard")
ARTIFACTS = ("cv2", "zarr", "semaug.artifacts.pack", "semaug.artifacts.verify", "semaug.cli.commands.data")
STUDY = """
extends = "sasi-table-4"
without = ["variants", "artifacts", "measurements", "cells"]
name = "mine"
[scales.tiny]
steps = 3
train_items = 40
test_items = 24
[artifacts.boxes]
kind = "guidance"
options = { detector = "saliency", granularity = "object" }
[variants.plain]
control = true
[variants.boxed]
pairs = "guided"
guidance = "@boxes"
"""
COMPARISON = """
extends = "compare"
name = "mine"
[scales.tiny]
longer = "paper" # not by times, which differ from run to run
"""


@dataclass(frozen=True, slots=True)
class Verb:
    """A command. In ``words``, OUT is the folder it writes, names of ``INPUTS`` are what it reads.

    ``made`` are its outputs that `semaug data verify` can check, below OUT; ``vanishing`` the inputs of which a part
    can be taken away; ``own`` those that it writes to, of which it gets a copy beside OUT; ``modules`` what is
    imported before it is forked. ``workers`` is the share of its runs with ``--workers 2``: small where
    workers import torch. ``often`` it is drawn, those that take seconds less so. ``shards`` says whether
    it writes any.
    """

    words: tuple[str, ...]
    made: tuple[str, ...]
    modules: tuple[str, ...]
    vanishing: tuple[str, ...] = ("IMAGES",)
    own: tuple[str, ...] = ()
    workers: float = 0.0
    often: int = 3
    shards: bool = True

    @property
    def needs(self) -> list[str]:
        """The inputs that it names, and those that they are made from."""
        return needed([name for name in INPUTS if any(word.split("/")[0] == name for word in self.words)])


_SYNTH = (
    "synth", "run", "IMAGES", "--captioner", "MODELS/blip2", "--rewriter", "MODELS/llama", "--n-sem", "1",
    "--generator", "MODELS/sd", "--clip", "MODELS/clip", "--size", "32", "--steps", "2", "--guidance", "1",
    "--caption-tokens", "4", "--rewrite-tokens", "4", "--shard-size", "3", "--out", "OUT/s.zarr",
)  # fmt: skip
_PRETRAIN = (
    "pretrain", "simclr", "IMAGES", "--pairs", "guided", "--guidance", "GUIDANCE", "--steps", "12", "--batch-size", "6",
    "--size", "24", "--backbone", "small-cnn", "--checkpoint-every", "2", "--threads", "1", "--out", "OUT/run",
)  # fmt: skip
_SYNTH_MADE = ("s-captions.zarr", "s-prompts.zarr", "s.zarr", "s-similarity.zarr")
_LANGUAGE = (
    *TORCH, "transformers", "diffusers", "semaug.prompt_synthesis.pipeline", "semaug.cli.commands.synth",
    "transformers.models.blip_2.modeling_blip_2", "transformers.models.llama.modeling_llama",
    "transformers.models.clip.modeling_clip", "diffusers.pipelines.stable_diffusion",
)  # fmt: skip
VERBS: dict[str, Verb] = {
    "data pack": Verb(
        ("data", "pack", "IMAGES", "--format", "raw", "--size", "48", "--shard-size", "1", "--out", "OUT/p.zarr"),
        ("p.zarr",), ARTIFACTS, workers=0.1,
    ),
    "guide extract": Verb(
        ("guide", "extract", "IMAGES", "--shard-size", "2", "--out", "OUT/g.zarr"),
        ("g.zarr",), (*ARTIFACTS, "semaug.oracles.extract", "semaug.cli.commands.guide"), workers=0.1,
    ),
    "views materialize": Verb(
        ("views", "materialize", "IMAGES", "--guidance", "GUIDANCE", "--shard-size", "2", "--out", "OUT/crops"),
        ("crops",), (*ARTIFACTS, "semaug.pairs_dataset.materialize", "semaug.cli.commands.views"),
        ("IMAGES", "GUIDANCE"), workers=0.1,
    ),
    "synth run": Verb(_SYNTH, _SYNTH_MADE, (*ARTIFACTS, *_LANGUAGE), ("IMAGES", "MODELS"), workers=0.06, often=1),
    "diffaug augment": Verb(
        ("diffaug", "augment", "IMAGES", "GENERATOR", "--k", "2", "--shard-size", "2", "--out", "OUT/a.zarr"),
        ("a.zarr",), (*ARTIFACTS, *TORCH, "semaug.diffaug_core.augment", "semaug.studies.diffaug_images"),
        ("IMAGES", "GENERATOR"), workers=0.06, often=2,
    ),
    "pretrain": Verb(
        _PRETRAIN, ("run",), (*ARTIFACTS, *TORCH, "semaug.cli.commands.pretrain", "semaug.studies.assemble"),
        ("IMAGES", "GUIDANCE"), workers=0.06, shards=False,
    ),
    "study run": Verb(
        ("study", "run", "STUDY/mine.toml", "--scale", "tiny", "--threads", "1", "--out", "OUT/study"), (),
        (*ARTIFACTS, *TORCH, "semaug.studies.study.running", "semaug.studies.study.report"), (), workers=0.06, often=1,
    ),
    "study run compare": Verb(
        ("study", "run", "STUDY/comparison.toml", "--scale", "tiny", "--only", "standard", "--only", "guided-saliency",
         "--train", "IMAGES", "--test", "IMAGES", "--threads", "1", "--out", "OUT/study"),
        (), (*ARTIFACTS, *TORCH, "semaug.studies.study.running", "semaug.studies.study.report"), (), often=1,
    ),
    "eval embed": Verb(
        ("eval", "embed", "ENCODER", "--images", "IMAGES", "--shard-size", "2", "--out", "OUT/f.zarr"), ("f.zarr",),
        (*ARTIFACTS, *TORCH, "semaug.studies.protocols.features"), ("IMAGES", "ENCODER"), ("ENCODER",),
    ),
}  # fmt: skip


def needed(names: list[str]) -> list[str]:
    """Inputs in the order in which they are made, those of inputs too."""
    own = {"IMAGES"} if {"GUIDANCE", "ENCODER", "GENERATOR"} & set(names) else set()
    return [name for name in INPUTS if name in own or name in names]


def filled(words: tuple[str, ...], places: Mapping[str, Path]) -> list[str]:
    """Words with the names of inputs, and of OUT, as paths."""
    found = []
    for word in words:
        name, slash, rest = word.partition("/")
        found.append(f"{places[name]}{slash}{rest}" if name in places else word)
    return found


def make_inputs(names: list[str], folder: Path, starter: Starter) -> dict[str, Path]:
    """Every input that is named, below ``folder``."""
    places = {name: folder / name.lower() for name in INPUTS}
    folder.mkdir(parents=True, exist_ok=True)
    for name in needed(names):
        INPUTS[name](places, starter)
    return {name: places[name] for name in needed(names)}


def _images(places: Mapping[str, Path], starter: Starter) -> None:
    from PIL import Image

    from semaug.artifacts.sources import open_source

    source = open_source(f"scenes:train?items={IMAGES}")
    for index in range(IMAGES):
        path = places["IMAGES"] / f"c{index % 2}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(source.read(index))
        image.thumbnail((SIDE, SIDE))
        image.save(path)


def _made_by(*words: str) -> Callable[[Mapping[str, Path], Starter], None]:
    def make(places: Mapping[str, Path], starter: Starter) -> None:
        done = starter.run(*filled(words, places))
        if done.code:
            raise RuntimeError(f"an input could not be made: {done.err}")

    return make


def _models(places: Mapping[str, Path], starter: Starter) -> None:
    """Tiny models with random weights, of the classes that real ones have."""
    from semaug.prompt_synthesis.tiny_diffusion_models import save_stable_diffusion
    from semaug.prompt_synthesis.tiny_language_models import save_blip2, save_llama
    from semaug.studies.study.tiny_clip import save_clip

    for name, save in (
        ("blip2", save_blip2), ("llama", save_llama), ("sd", save_stable_diffusion), ("clip", save_clip),
    ):  # fmt: skip
        save(places["MODELS"] / name)


def _study(places: Mapping[str, Path], starter: Starter) -> None:
    places["STUDY"].mkdir()
    (places["STUDY"] / "mine.toml").write_text(STUDY)
    (places["STUDY"] / "comparison.toml").write_text(COMPARISON)


INPUTS: dict[str, Callable[[Mapping[str, Path], Starter], None]] = {
    "IMAGES": _images,
    "GUIDANCE": _made_by(
        "guide", "extract", "IMAGES", "--granularity", "object", "--shard-size", "4", "--out", "GUIDANCE"
    ),
    "ENCODER": _made_by(
        "pretrain", "simclr", "IMAGES", "--steps", "1", "--batch-size", "4", "--size", "24", "--backbone", "small-cnn",
        "--threads", "1", "--out", "ENCODER",
    ),
    "GENERATOR": _made_by(
        "diffaug", "train", "IMAGES", "--size", "16", "--steps", "2", "--batch-size", "4", "--sampler-steps", "2",
        "--generator-widths", "8,8", "--threads", "1", "--out", "GENERATOR",
    ),
    "MODELS": _models,
    "STUDY": _study,
}  # fmt: skip


def copy_own(verb: Verb, places: Mapping[str, Path], out: Path) -> dict[str, Path]:
    """The places of a case that writes to ``out``: a verb's own inputs are copied there."""
    own = {}
    for name in verb.own:
        own[name] = out / name.lower()
        shutil.copytree(places[name], own[name])
    return {**places, **own, "OUT": out}
