"""``semaug synth``: synthetic positives, stage by stage or all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semaug.cli.console import (
    Place,
    VerbGroup,
    emit,
    finish,
    json_option,
    note,
    out_option,
    overwrite_option,
    progress,
)
from semaug.cli.engines import engine_options, pick_devices, shard_workers
from semaug.cli.options import Decorator, choice, number, together

if TYPE_CHECKING:
    from semaug.artifacts.store import ArtifactSummary
    from semaug.prompt_synthesis.pipeline import Running

EXISTING = Place(exists=True, path_type=Path)
DTYPES = ("auto", "float32", "float16", "bfloat16")


caption_options = together(
    choice("--prompt", ("question", "describe", "objects"), "describe", "Which of the paper's three questions."),
    number("--caption-batch", 8, "Images that are captioned together.", click.IntRange(1)),
    number("--caption-tokens", 60, "Longest caption, in the model's tokens.", click.IntRange(1)),
)
rewrite_options = together(
    click.option("--endpoint", metavar="URL", help="An OpenAI-compatible server that has the model (vLLM, Ollama ..)."),
    click.option("--key-variable", metavar="NAME", help="The environment variable that holds the server's key."),
    number("--concurrency", 8, "Questions a server is asked at once.", click.IntRange(1)),
    choice("--kind", ("rewriting", "expansion", "none"), "rewriting", "Keep the meaning, add things, or no examples."),
    number("--rewrite-batch", 8, "Captions that are rewritten together.", click.IntRange(1)),
    number("--rewrite-tokens", 96, "Longest rewriting, in the model's tokens.", click.IntRange(1)),
    number("--temperature", 0.9, "Of the language model (0: the likeliest words).", click.FloatRange(0)),
)
segment_options = together(
    click.option("--labels", help="Classes of an exported model: ade20k, coco, or a JSON list."),
    number("--segment-side", None, "Side of an exported model's input, pixels.", click.IntRange(1)),
    click.option("--label-of", multiple=True, metavar="LABEL=NAME", help="ADE20K name of another label; repeatable."),
    number("--segment-batch", 4, "Images that are segmented together.", click.IntRange(1)),
)
generate_options = together(
    click.option("--controlnet", help="A ControlNet for ADE20K maps, for --visual mask and mixing."),
    choice("--visual", ("real", "mask", "mixing", "noise"), "real", "What an image is generated from."),
    choice("--vary", ("none", "noise", "crop"), "none", "How further visual prompts differ (--n-vp)."),
    number("--n-sem", 0, "Images by rewritten captions, of each image.", click.IntRange(0)),
    number("--n-vp", 0, "Images by varied visual prompts, of each image.", click.IntRange(0)),
    number("--repeats", 1, "Images of each prompt, by other noise.", click.IntRange(1)),
    choice("--counting", ("additive", "product"), "additive", "1 + n_sem + n_vp images, or (1 + n_sem)(1 + n_vp)."),
    number("--steps", 50, "Steps of the diffusion.", click.IntRange(1)),
    number("--strength", 0.7, "Share of them that repaint the image.", float),
    number("--guidance", 7.5, "Weight of the prompt (turbo models: 0).", float),
    number("--size", 512, "Side of what is generated, pixels.", click.IntRange(8)),
    number("--store-size", None, "Shorter side of what is kept, pixels (that of --size).", click.IntRange(1)),
    choice("--shape", ("square", "original"), "square", "Of what is kept: as generated, or the real image's."),
    choice("--layout", ("auto", "raw", "jpeg"), "auto", "Pixels, JPEG, or by --store-size."),
    number("--generate-batch", 4, "Images that are generated together.", click.IntRange(1)),
    click.option("--safety-checker/--no-safety-checker", default=True, help="Check images where the model can (yes)."),
    click.option("--variant", help="Infix of the weight files, say fp16."),
)
dtype_option = choice("--dtype", DTYPES, "auto", "Numbers to compute in (auto: half precision on a GPU).")
seed_option = number("--seed", 0, "Of all that is drawn.")


def shard_option(default: int) -> Decorator:
    """``--shard-size``, the unit of resuming."""
    return number("--shard-size", default, "Images a shard, the unit of resuming.", click.IntRange(1))


@click.group(cls=VerbGroup)
def group() -> None:
    """Generate positives: caption, rewrite, segment, generate, compare.

    MODEL is a folder that save_pretrained wrote, or a hub id; weights are read from safetensors alone. Every stage
    writes one artifact and resumes. FOLDER is any image source.
    """


@group.command()
@click.argument("folder")
@click.option("--model", required=True, help="A BLIP-2.")
@caption_options
@dtype_option
@seed_option
@shard_option(256)
@out_option("the captions", store=True)
@engine_options
@overwrite_option
@json_option
def caption(folder: str, out: Path, as_json: bool, shard_size: int, **options: Any) -> None:
    """Say what is on every image.

    Example: semaug synth caption photos --model models/blip2 --out captions.zarr
    """
    from semaug.artifacts.sources import open_source
    from semaug.prompt_synthesis.pipeline import caption_images

    part, seed = _captioner(options["model"], options), options["seed"]
    with _running(options["overwrite"]) as running:
        summary = caption_images(open_source(folder), out, part, seed=seed, shard_size=shard_size, running=running)
    _report_captions(out, summary, as_json)


def _report_captions(out: Path, summary: ArtifactSummary, as_json: bool) -> None:
    from semaug.prompt_synthesis.store import CaptionTable

    rows = CaptionTable.open(out).captions
    result = {
        "out": str(out),
        "captions": len(rows),
        "flagged": sum(row.flagged for row in rows.values()),
        "truncated": sum(row.truncated for row in rows.values()),
        "examples": {key: row.text for key, row in list(rows.items())[:3]},
        "costs": _costs([out]),
    }
    emit(result, as_json)
    finish(summary)


@group.command()
@click.argument("captions", type=EXISTING)
@click.option("--model", required=True, help="A causal language model, or its name at --endpoint.")
@number("--n-sem", 1, "Rewritings of each caption.", click.IntRange(1))
@click.option("--generator", help="The generator that will read them: its tokenizer counts the tokens.")
@rewrite_options
@dtype_option
@seed_option
@shard_option(256)
@out_option("the prompts", store=True)
@engine_options
@overwrite_option
@json_option
def rewrite(captions: Path, out: Path, as_json: bool, n_sem: int, shard_size: int, **options: Any) -> None:
    """Say CAPTIONS in other words.

    Example: semaug synth rewrite captions.zarr --model models/llama --n-sem 2 --out prompts.zarr
    """
    from semaug.prompt_synthesis.pipeline import rewrite_captions
    from semaug.prompt_synthesis.store import PromptTable

    part = _rewriter(options["model"], options["generator"], out, options)
    with _running(options["overwrite"]) as running:
        summary = rewrite_captions(
            captions, out, part, n_sem=n_sem, seed=options["seed"], shard_size=shard_size, running=running
        )
    rows = PromptTable.open(out).prompts
    examples = {key: list(texts) for key, texts in list(rows.items())[:3]}
    emit(
        {"out": str(out), "captions": len(rows), "n_sem": n_sem, "examples": examples, "costs": _costs([out])}, as_json
    )
    finish(summary)


@group.command()
@click.argument("folder")
@click.option("--model", required=True, help="A Mask2Former, OneFormer or EoMT, or an exported .onnx or .pt file.")
@segment_options
@dtype_option
@shard_option(256)
@out_option("the mask maps", store=True)
@engine_options
@overwrite_option
@json_option
def segment(folder: str, out: Path, as_json: bool, shard_size: int, **options: Any) -> None:
    """Find the ADE20K class of every pixel, for the visual prompts `mask` and `mixing`.

    Example: semaug synth segment photos --model models/mask2former --out maps.zarr
    """
    from semaug.artifacts.sources import open_source
    from semaug.prompt_synthesis.pipeline import segment_images

    part, more = _panoptic(options["model"], options), _labels(options["label_of"])
    with _running(options["overwrite"]) as running:
        summary = segment_images(
            open_source(folder), out, part, more_labels=more, shard_size=shard_size, running=running
        )
    emit({"out": str(out), "maps": summary.manifest.items - len(summary.skipped), "costs": _costs([out])}, as_json)
    finish(summary)


@group.command()
@click.argument("folder")
@click.option("--model", required=True, help="A diffusers pipeline: Stable Diffusion, XL, turbo and others.")
@click.option("--captions", type=EXISTING, required=True, help="Captions of `semaug synth caption`.")
@click.option("--prompts", type=EXISTING, help="Prompts of `semaug synth rewrite`, for --n-sem.")
@click.option("--maps", type=EXISTING, help="Mask maps of `semaug synth segment`, for --visual mask and mixing.")
@generate_options
@dtype_option
@seed_option
@shard_option(64)
@out_option("the synthetic images", store=True)
@engine_options
@overwrite_option
@json_option
def generate(
    folder: str, captions: Path, prompts: Path | None, maps: Path | None, out: Path, as_json: bool, shard_size: int,
    **options: Any,
) -> None:  # fmt: skip
    """Generate images from captions and visual prompts; the result is an image source.

    Example: semaug synth generate photos --model models/sd --captions captions.zarr --out synthetic.zarr
    """
    from semaug.artifacts.sources import open_source
    from semaug.prompt_synthesis.generation import generate_images

    part, plan = _generator(options["model"], options), _generation(options)
    with _running(options["overwrite"]) as running:
        summary = generate_images(
            open_source(folder), out, part, captions, size=options["size"], plan=plan, prompts=prompts, maps=maps,
            seed=options["seed"], shard_size=shard_size, running=running,
        )  # fmt: skip
    emit(_made(out) | {"costs": _costs([out])}, as_json)
    finish(summary)


@group.command()
@click.argument("synthetic", type=EXISTING)
@click.argument("folder")
@click.option("--model", required=True, help="A CLIP (the paper's is ViT-L/14).")
@number("--threshold", 0.6, "The cosine below which an image counts as bad.", click.FloatRange(-1, 1))
@number("--batch-size", 32, "Images that are embedded together.", click.IntRange(1))
@click.option("--detector", help="Also compare the boxes that this detector finds on both, say saliency.")
@click.option("--detector-option", multiple=True, metavar="NAME=VALUE", help="An option of the detector; repeatable.")
@dtype_option
@out_option("the similarities", store=True)
@engine_options
@overwrite_option
@json_option
def similarity(synthetic: Path, folder: str, out: Path, as_json: bool, threshold: float, **options: Any) -> None:
    """Measure how alike SYNTHETIC images and those of FOLDER are: cosines, their histogram and normal fit.

    Nothing is replaced here: `semaug pretrain --similarity .. --min-similarity ..` does it, in training.

    Example: semaug synth similarity synthetic.zarr photos --model models/clip --out similarity.zarr
    """
    from dataclasses import asdict

    from semaug.artifacts.sources import open_source
    from semaug.artifacts.synthetic_table import SimilarityTable
    from semaug.prompt_synthesis.similarity import ClipPart, measure_similarity, report_similarity
    from semaug.studies.synthesis import measure_agreement

    part = ClipPart(options["model"], pick_devices(), options["dtype"], options["batch_size"])
    with _running(options["overwrite"]) as running:
        summary = measure_similarity(open_source(folder), synthetic, out, part, running=running)
        result: dict[str, Any] = {"out": str(out), **asdict(report_similarity(out, threshold))}
        if options["detector"]:
            oracle = _oracle(options["detector"], options["detector_option"])
            cosines = dict(SimilarityTable.open(out).cosines)
            found = measure_agreement(folder, synthetic, out, oracle, cosines=cosines, running=running)
            result["guidance_agreement"] = asdict(found)
    emit(result, as_json, None if as_json else _drawn(result))
    finish(summary)


@group.command()
@click.argument("folder")
@click.option("--generator", required=True, help="A diffusers pipeline.")
@click.option("--captioner", help="A BLIP-2.")
@click.option("--rewriter", help="A causal language model, or its name at --endpoint; for --n-sem.")
@click.option("--panoptic", help="A panoptic model, for --visual mask and mixing.")
@click.option("--clip", help="A CLIP, to measure similarity by.")
@click.option("--captions", type=EXISTING, help="Captions that are there already.")
@click.option("--prompts", type=EXISTING, help="Prompts that are there already.")
@click.option("--maps", type=EXISTING, help="Mask maps that are there already.")
@caption_options
@rewrite_options
@segment_options
@generate_options
@dtype_option
@seed_option
@shard_option(64)
@click.option("--keep-loaded", is_flag=True, help="Keep every stage's model in memory until the end.")
@out_option("the synthetic images (stages before are kept beside it)", store=True)
@engine_options
@overwrite_option
@json_option
def run(folder: str, out: Path, as_json: bool, shard_size: int, keep_loaded: bool, **options: Any) -> None:
    """Caption, rewrite, segment, generate and compare, as far as it is asked for. Stopped, the same command goes on.

    \b
    Example:
      semaug synth run photos --captioner models/blip2 --rewriter models/llama --n-sem 1 --generator models/sd \\
        --clip models/clip --out synthetic.zarr
    """
    from dataclasses import asdict

    from semaug.studies.synthesis import SynthesisPlan, synthesise

    plan = SynthesisPlan(
        _generator(options["generator"], options), _generation(options), options["size"],
        captioner=_given(_captioner, options["captioner"], options),
        rewriter=_rewriter(options["rewriter"], options["generator"], out, options) if options["rewriter"] else None,
        panoptic=_given(_panoptic, options["panoptic"], options), clip=_given(_clip, options["clip"], options),
        captions=options["captions"], prompts=options["prompts"], maps=options["maps"],
        more_labels=_labels(options["label_of"]), seed=options["seed"], shard_size=shard_size,
    )  # fmt: skip
    with _running(options["overwrite"], keep_loaded) as running:
        made = synthesise(folder, out, plan, running=running)
    result = _made(out) | {"artifacts": {stage: str(path) for stage, path in made.artifacts.items()}}
    if "similarity" in made.artifacts:
        from semaug.prompt_synthesis.similarity import report_similarity

        result["similarity"] = asdict(report_similarity(made.artifacts["similarity"]))
    result["costs"] = _costs(list(made.artifacts.values()))
    emit(result if as_json else _short(result), as_json)
    finish(made.summary)


def _given(make: Callable[[str, dict[str, Any]], Any], model: str | None, options: dict[str, Any]) -> Any:
    return make(model, options) if model else None


@contextmanager
def _running(overwrite: bool, keep_loaded: bool = False) -> Iterator[Running]:
    """How a stage runs, with a progress bar; what is loaded is let go of at the end."""
    from semaug.prompt_synthesis.parts import Models
    from semaug.prompt_synthesis.pipeline import Running

    models = Models(keep_loaded)
    with progress() as bar, shard_workers() as workers:
        try:
            yield Running(workers, overwrite, bar, models)
        finally:
            models.close()


def _captioner(model: str, options: dict[str, Any]) -> Any:
    from semaug.prompt_synthesis.captions import CaptionSettings
    from semaug.prompt_synthesis.parts import CaptionerPart

    chosen = CaptionSettings(batch_size=options["caption_batch"], max_new_tokens=options["caption_tokens"])
    return CaptionerPart(model, options["prompt"], pick_devices(), options["dtype"], chosen)


def _rewriter(model: str, generator: str | None, out: Path, options: dict[str, Any]) -> Any:
    from semaug.prompt_synthesis.parts import EndpointPart, RewriterPart
    from semaug.prompt_synthesis.rewriting import RewriteSettings
    from semaug.prompt_synthesis.token_limits import EstimatedLimit, open_clip_limit

    local = generator is not None and Path(generator).is_dir()
    chosen = RewriteSettings(
        kind=options["kind"], max_new_tokens=options["rewrite_tokens"], temperature=options["temperature"],
        limit=open_clip_limit(Path(str(generator))) if local else EstimatedLimit(),
    )  # fmt: skip
    if options["endpoint"]:
        journal = out.with_name(f"{out.stem}-answers.jsonl")
        return EndpointPart(
            options["endpoint"], model, chosen, options["key_variable"], options["concurrency"], journal=journal
        )
    return RewriterPart(model, chosen, pick_devices(), options["dtype"], options["rewrite_batch"])


def _panoptic(model: str, options: dict[str, Any]) -> Any:
    from semaug.prompt_synthesis.parts import PanopticPart

    more = tuple(_labels(options["label_of"]).items())
    batch, side = options["segment_batch"], options["segment_side"]
    return PanopticPart(model, pick_devices(), options["dtype"], batch, options["labels"], more, side)


def _labels(pairs: Sequence[str]) -> dict[str, str]:
    found = dict(pair.partition("=")[::2] for pair in pairs)
    if bad := [label for label, name in found.items() if not label or not name]:
        raise click.UsageError(f"--label-of {bad[0]!r} is no LABEL=NAME")
    return found


def _generator(model: str, options: dict[str, Any]) -> Any:
    from semaug.prompt_synthesis.generators import GenerationSettings
    from semaug.prompt_synthesis.parts import GeneratorPart
    from semaug.prompt_synthesis.visual_prompts import GENERATOR_OF

    chosen = GenerationSettings(
        steps=options["steps"], strength=options["strength"], guidance=options["guidance"], size=options["size"]
    )
    return GeneratorPart(
        GENERATOR_OF[options["visual"]], model, options["controlnet"], chosen, pick_devices(), options["dtype"],
        options["generate_batch"], options["safety_checker"], variant=options["variant"],
    )  # fmt: skip


def _generation(options: dict[str, Any]) -> Any:
    from semaug.prompt_synthesis.generation import GenerationPlan
    from semaug.prompt_synthesis.visual_prompts import VisualPromptSettings

    names = ("n_sem", "n_vp", "repeats", "counting", "store_size", "shape", "layout")
    visual = VisualPromptSettings(options["visual"], options["vary"])
    return GenerationPlan(visual, **{name: options[name] for name in names})


def _clip(model: str, options: dict[str, Any]) -> Any:
    from semaug.prompt_synthesis.similarity import ClipPart

    return ClipPart(model, pick_devices(), options["dtype"])


def _oracle(text: str, extra: tuple[str, ...]) -> Any:
    from semaug.oracles.catalogue import OracleSpec, accepts

    spec = OracleSpec.parse(text, extra)
    return spec.given(device=pick_devices()) if accepts("detector", spec, "device") else spec


def _made(out: Path) -> dict[str, Any]:
    """What a synthetic artifact holds, in counts."""
    from semaug.artifacts.synthetic_table import SyntheticTable

    table = SyntheticTable.open(out)
    if flagged := sum(row.flagged for row in table.rows):
        note(f"{flagged} images were turned down by the safety checker; the real images stand in for them")
    return {
        "out": str(out),
        "images": len(table),
        "origins": len(table.by_origin()),
        "flagged": flagged,
        "truncated_prompts": sum(row.truncated for row in table.rows),
    }


def _costs(paths: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Per stage: images, seconds, seconds for 1,000 images, those spent loading, and memory in MB."""
    from semaug.prompt_synthesis.pipeline import stage_costs

    return {
        row.stage: {
            "images": row.items,
            "seconds": row.seconds,
            "seconds_per_1000": row.per_1000,
            "load_seconds": row.load_seconds,
            "peak_memory_mb": row.peak_memory / 1e6,
        }
        for row in stage_costs(paths)
    }


def _drawn(result: dict[str, Any]) -> str:
    """The similarities as a person reads them: the fit, and the histogram as bars."""
    counts, edges = result["counts"], result["edges"]
    most = max(counts)
    bars = [f"{edges[i]:7.3f} {'#' * round(50 * count / most)}" for i, count in enumerate(counts)]
    fit = f"{result['count']} cosines, normal fit {result['mean']:.4f} +- {result['deviation']:.4f}"
    below = f"{result['below']} below {result['threshold']:g}"
    rows = [fit, f"from {result['least']:.4f} to {result['greatest']:.4f}; {below}", *bars]
    if agreement := result.get("guidance_agreement"):
        rows.append(f"boxes of real and synthetic images overlap by {agreement['overlap']:.3f} on average")
    return "\n".join(rows)


def _short(result: dict[str, Any]) -> dict[str, Any]:
    """Without the histogram."""
    if "similarity" not in result:
        return result
    kept = {name: value for name, value in result["similarity"].items() if name not in ("edges", "counts")}
    return result | {"similarity": kept}
