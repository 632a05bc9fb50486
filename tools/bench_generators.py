"""Generated images and mask maps against bare loops over the libraries, at equal batch, on random models."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import Benchmark

from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest
from semaug.artifacts.sources import ArraySource
from semaug.artifacts.store import ArtifactWriter
from semaug.prompt_synthesis.ade20k import to_colours
from semaug.prompt_synthesis.captions import Caption
from semaug.prompt_synthesis.diffusion_folders import open_generator
from semaug.prompt_synthesis.generation import GenerationPlan, generate_images
from semaug.prompt_synthesis.generators import GenerationSettings
from semaug.prompt_synthesis.mask_maps import open_panoptic, palette_image
from semaug.prompt_synthesis.parts import GeneratorPart, Models
from semaug.prompt_synthesis.pipeline import Running
from semaug.prompt_synthesis.rewriting import Rewrite
from semaug.prompt_synthesis.store import caption_columns, prompt_columns
from semaug.prompt_synthesis.tiny_diffusion_models import save_controlnet, save_stable_diffusion
from semaug.prompt_synthesis.tiny_panoptic_models import LABELS, save_mask2former
from semaug.prompt_synthesis.visual_prompts import VisualPrompt

BATCH, IMAGES, STEPS, SIDE, CHANNELS = 4, 8, 8, 64, (32, 64)
STAGE_IMAGES = 6
SETTINGS = GenerationSettings(steps=STEPS, strength=0.75, size=SIDE)
SEEDS = list(range(IMAGES))


def benchmarks() -> list[Benchmark]:
    """Images from images, images held to a mask map, and mask maps."""
    scratch = Path(tempfile.mkdtemp(prefix="semaug-bench-"))
    save_stable_diffusion(scratch / "sd", channels=CHANNELS)
    save_controlnet(scratch / "net", channels=CHANNELS)
    save_mask2former(scratch / "mask2former")
    draws = np.random.default_rng(0)
    photographs = list(draws.integers(0, 256, (IMAGES, 224, 300, 3), dtype=np.uint8))
    maps = [to_colours(draws.integers(0, 150, (28, 38)).repeat(8, 0).repeat(8, 1)[:, :300]) for _ in SEEDS]
    shared = [photographs[number // BATCH] for number in SEEDS]
    return [
        _img2img(scratch, photographs, "one prompt an image"),
        _img2img(scratch, shared, f"{BATCH} prompts an image"),
        _controlnet(scratch, maps),
        _whole_stage(scratch, photographs[:STAGE_IMAGES]),
        _mask_maps(scratch, photographs),
    ]


def _generators(start: int) -> list[Any]:
    import torch

    return [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS[start : start + BATCH]]


def _img2img(folder: Path, photographs: list[np.ndarray], prompting: str) -> Benchmark:
    from diffusers import StableDiffusionImg2ImgPipeline
    from PIL import Image

    prompts = [f"a photo of the number {number}" for number in SEEDS]
    of_image = {id(image): VisualPrompt(init=image) for image in photographs}
    visual = [of_image[id(image)] for image in photographs]
    ours = open_generator("img2img", folder / "sd", settings=SETTINGS, batch_size=BATCH)
    pipeline: Any = StableDiffusionImg2ImgPipeline.from_pretrained(folder / "sd", use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)

    def bare() -> None:
        for start in range(0, IMAGES, BATCH):
            part = slice(start, start + BATCH)
            images = [Image.fromarray(i).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for i in photographs[part]]
            made = pipeline(
                prompts[part], images, strength=0.75, num_inference_steps=STEPS, generator=_generators(start)
            )
            [np.array(image) for image in made.images]

    def run() -> object:
        ours._texts._kept.clear()  # every pass meets its prompts and images for the first time
        ours._encodings._kept.clear()
        return ours.generate(prompts, visual, SEEDS)

    return _row(f"generated images, img2img, {prompting}", run, bare)


def _controlnet(folder: Path, maps: list[np.ndarray]) -> Benchmark:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
    from PIL import Image

    prompts = ["a photo of a street"] * IMAGES
    visual = [VisualPrompt(control=one) for one in maps]
    ours = open_generator("controlnet", folder / "sd", folder / "net", SETTINGS, batch_size=BATCH)
    net = ControlNetModel.from_pretrained(folder / "net", use_safetensors=True)
    pipeline: Any = StableDiffusionControlNetPipeline.from_pretrained(
        folder / "sd", controlnet=net, use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)

    def bare() -> None:
        for start in range(0, IMAGES, BATCH):
            part = slice(start, start + BATCH)
            images = [Image.fromarray(i).resize((SIDE, SIDE), Image.Resampling.NEAREST) for i in maps[part]]
            made = pipeline(prompts[part], images, num_inference_steps=STEPS, generator=_generators(start))
            [np.array(image) for image in made.images]

    return _row("generated images, ControlNet, one prompt for all", lambda: ours.generate(prompts, visual, SEEDS), bare)


def _whole_stage(folder: Path, photographs: list[np.ndarray]) -> Benchmark:
    """`synth generate` of a few images by four texts each, from the source to the artifact on the disk."""
    from diffusers import StableDiffusionImg2ImgPipeline
    from PIL import Image

    source = ArraySource(np.stack(photographs))
    keys = [source.key(i) for i in range(len(photographs))]
    texts = [[f"{key}, said in another way, the {number}th" for number in range(4)] for key in keys]
    captions, prompts = _write_texts(folder, source, keys, texts)
    part, models = (
        GeneratorPart("img2img", str(folder / "sd"), None, SETTINGS, batch_size=BATCH),
        Models(keep_loaded=True),
    )
    part.identity()  # digests of the weights are read once a process
    pipeline: Any = StableDiffusionImg2ImgPipeline.from_pretrained(folder / "sd", use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    running, passes = Running(models=models), count()

    def bare() -> None:
        for asked, photograph in zip(texts, photographs, strict=True):
            image = Image.fromarray(photograph).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            made = pipeline(asked, [image] * BATCH, strength=0.75, num_inference_steps=STEPS, generator=_generators(0))
            [np.array(image) for image in made.images]

    def run() -> object:
        generator: Any = models.take(part)
        generator._texts._kept.clear()
        generator._encodings._kept.clear()
        out = folder / f"synthetic{next(passes)}.zarr"
        return generate_images(
            source, out, part, captions, size=SIDE, plan=GenerationPlan(n_sem=3), prompts=prompts, running=running
        )

    row = _row("synth generate, 4 texts an image, written to the disk", run, bare)
    return replace(row, items=4 * STAGE_IMAGES, note=f"{row.note}; one shard of {STAGE_IMAGES} images, 64 are usual")


def _write_texts(folder: Path, source: ArraySource, keys: list[str], texts: list[list[str]]) -> tuple[Path, Path]:
    """Artifacts of captions (the first of an image's texts) and of prompts (the others)."""
    paths = folder / "captions.zarr", folder / "prompts.zarr"
    columns = (
        caption_columns(keys, [Caption(said[0], False, False, 1) for said in texts]),
        prompt_columns(keys, [Rewrite(text, False, (0,) * 5) for said in texts for text in said[1:]], 3),
    )
    inputs = {"source": source.fingerprint}
    for path, kind, rows in zip(paths, ("captions", "prompts"), columns, strict=True):
        config = {"n_sem": 3} if kind == "prompts" else {}
        manifest = Manifest(kind=kind, items=len(keys), shard_size=len(keys), config=config, inputs=inputs)
        with ArtifactWriter.open(path, manifest, overwrite=True) as writer:
            writer.write(0, rows)
            writer.finish()
        inputs = {**inputs, "captions": Artifact.open(path).digest}
    return paths


def _row(name: str, ours: Any, bare: Any) -> Benchmark:
    return Benchmark(
        name=name,
        target="within 10% of the bare loop",
        ours=ours,
        peers={"bare diffusers": bare},
        target_ratio=1 / 1.1,
        items=IMAGES,
        note=f"{SIDE} px, {STEPS} steps, batch {BATCH}, random U-Net of {CHANNELS} channels",
        most_repeats=5,
    )


def _mask_maps(folder: Path, photographs: list[np.ndarray]) -> Benchmark:
    import torch
    from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessorPil

    place = folder / "mask2former"
    bounds: dict[str, Any] = {"threshold": 0.0, "mask_threshold": 0.0}
    ours = open_panoptic(place, batch_size=BATCH, overlap=0.0, **bounds)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(place)
    processor: Any = Mask2FormerImageProcessorPil.from_pretrained(place)

    def bare() -> None:
        for start in range(0, IMAGES, BATCH):
            part = photographs[start : start + BATCH]
            with torch.inference_mode():
                out = model(**processor(part, return_tensors="pt"))
                processor.post_process_panoptic_segmentation(
                    out, overlap_mask_area_threshold=0.0, label_ids_to_fuse=set(),
                    target_sizes=[i.shape[:2] for i in part], **bounds,
                )  # fmt: skip

    return Benchmark(
        name="mask maps, Mask2Former, drawn in ADE20K's colours",
        target="within 10% of the bare loop",
        ours=lambda: [palette_image(found) for found in ours.segment(photographs)],
        peers={"bare transformers": bare},
        target_ratio=1 / 1.1,
        items=IMAGES,
        note=f"random model of {len(LABELS)} labels; the bare loop stops at segment numbers and draws nothing",
        most_repeats=5,
    )
