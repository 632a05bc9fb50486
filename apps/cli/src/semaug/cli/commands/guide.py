"""``semaug guide``: boxes and masks of images, as one guidance artifact."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from semaug.artifacts.store import ArtifactSummary
    from semaug.oracles.catalogue import OracleSpec, Role

shard_size_option = click.option(
    "--shard-size", type=click.IntRange(1), default=256, show_default=True, help="Images a shard, the unit of resuming."
)


@click.group(cls=VerbGroup)
def group() -> None:
    """Extract, exchange and look at boxes and masks.

    FOLDER is any image source: a folder, a packed store, a .csv or .parquet list, torchvision:NAME?root=..,
    hf:PATH?split=.., or scenes:train.
    """


@group.command()
@click.argument("folder")
@out_option("the guidance", store=True)
@click.option("--quality", type=Place(exists=True, path_type=Path), help="Scores of `semaug quality score`.")
@click.option(
    "--policy",
    type=click.Choice(["soft", "soft-argmax", "threshold"]),
    default="soft",
    show_default=True,
    help="How a score becomes a scale, where --granularity is auto.",
)
@click.option("--preset", help="Weights and thresholds by name (default, res, cla, loose, strict, var, ...).")
@click.option(
    "--granularity",
    type=click.Choice(["auto", "object", "pixel", "hybrid"]),
    default="auto",
    show_default=True,
    help="auto: by quality; or boxes, masks, or masks in boxes for every image.",
)
@click.option(
    "--detector",
    default="saliency",
    show_default=True,
    help="saliency, objectness, center, self, yolo, annotations, a plug-in, module:attribute or file.py:attribute.",
)
@click.option("--detector-option", multiple=True, metavar="NAME=VALUE", help="An option of the detector; repeatable.")
@click.option(
    "--segmenter",
    default="grabcut",
    show_default=True,
    help="grabcut, objectness, sam, sam-hf, annotations, a plug-in, module:attribute or file.py:attribute.",
)
@click.option("--segmenter-option", multiple=True, metavar="NAME=VALUE", help="An option of the segmenter; repeatable.")
@click.option("--max-boxes", type=click.IntRange(1), help="Keep at most so many of the best boxes of an image.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images an oracle sees at once."
)
@click.option("--seed", default=0, show_default=True, help="Of the soft policy.")
@shard_size_option
@engine_options
@overwrite_option
@json_option
def extract(folder: str, out: Path, as_json: bool, **options: Any) -> None:
    """Find boxes and masks of every image, at the scale that its quality asks for.

    Example: semaug guide extract photos --out guidance.zarr --detector yolo --detector-option weights=yolov8n.pt
    """
    from semaug.artifacts.sources import open_source
    from semaug.oracles.extract import extract_guidance

    detector = _oracle("detector", options["detector"], options["detector_option"])
    segmenter = _oracle("segmenter", options["segmenter"], options["segmenter_option"])
    source = open_source(folder)
    with progress() as bar, shard_workers() as workers:
        summary = extract_guidance(
            source,
            out,
            detector=detector,
            segmenter=segmenter,
            granularity=options["granularity"],
            **(_routing(options) if options["granularity"] == "auto" else {}),
            max_boxes=options["max_boxes"],
            batch_size=options["batch_size"],
            workers=workers,
            shard_size=options["shard_size"],
            seed=options["seed"],
            overwrite=options["overwrite"],
            on_progress=bar,
        )
    _report(out, summary, as_json)


def _oracle(role: Role, text: str, extra: tuple[str, ...]) -> OracleSpec:
    """The spec of an oracle, on the device of ``--device`` where it has a choice."""
    from semaug.oracles.catalogue import OracleSpec, accepts

    spec = OracleSpec.parse(text, extra)
    return spec.given(device=pick_devices()) if accepts(role, spec, "device") else spec


def _routing(options: dict[str, Any]) -> dict[str, Any]:
    """Policy, scores and scoring: those of --quality keep their scoring unless --preset names another."""
    from semaug.quality_policy.policies import make_policy
    from semaug.quality_policy.presets import find_preset
    from semaug.quality_policy.scoring import Scoring
    from semaug.quality_policy.table import QualityTable

    preset = find_preset(options["preset"] or "default")
    policy = make_policy(options["policy"], thresholds=preset.thresholds, seed=options["seed"])
    quality = QualityTable.open(options["quality"]) if options["quality"] else None
    scoring = Scoring(preset.weights) if quality is None or options["preset"] else None
    return {"policy": policy, "quality": quality, "scoring": scoring}


def _report(out: Path, summary: ArtifactSummary, as_json: bool) -> None:
    from semaug.oracles.extract import costs_per_1000, report_guidance

    counts = report_guidance(out)
    result = {
        "out": str(out),
        "images": counts.images,
        "routing": counts.scales,
        "fallback": counts.fallback,
        "fallback_share": counts.fallback_share,
        "boxes": counts.boxes,
        "masks": counts.masks,
        "skipped": counts.skipped,
        "costs_per_1000": costs_per_1000(out),
    }
    emit(result, as_json)
    finish(summary)


@group.command("import")
@click.argument("annotations", type=click.Path(exists=True, path_type=Path))
@click.argument("folder")
@out_option("the guidance", store=True)
@shard_size_option
@engine_options
@overwrite_option
@json_option
def import_(annotations: Path, folder: str, out: Path, shard_size: int, overwrite: bool, as_json: bool) -> None:
    """Turn ANNOTATIONS (COCO .json, or a folder of YOLO .txt or VOC .xml) of the images in FOLDER into guidance.

    Example: semaug guide import instances.json photos --out guidance.zarr
    """
    from semaug.artifacts.sources import open_source
    from semaug.oracles.exchange import import_guidance

    with progress() as bar, shard_workers() as workers:
        summary = import_guidance(
            open_source(folder),
            annotations,
            out,
            workers=workers,
            shard_size=shard_size,
            overwrite=overwrite,
            on_progress=bar,
        )
    _report(out, summary, as_json)


@group.command()
@click.argument("guidance", type=Place(exists=True, path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["coco", "yolo"]),
    default="coco",
    show_default=True,
    help="Of what is written.",
)
@out_option("the .json file (coco) or the folder of .txt files (yolo)")
@json_option
def export(guidance: Path, layout: str, out: Path, as_json: bool) -> None:
    """Write GUIDANCE for other tools, with the one category `object`.

    Example: semaug guide export guidance.zarr --format coco --out boxes.json
    """
    from semaug.oracles.exchange import export_coco, export_yolo

    count = (export_coco if layout == "coco" else export_yolo)(guidance, out)
    emit({"out": str(out), "format": layout, "objects": count}, as_json)


@group.command()
@click.argument("guidance", type=Place(exists=True, path_type=Path))
@click.argument("folder")
@out_option("the sheet (.png, .jpg, .webp or .html)", file=True)
@click.option("--items", type=click.IntRange(1), default=24, show_default=True, help="Images shown, drawn by --seed.")
@click.option("--columns", type=click.IntRange(1), default=6, show_default=True, help="Of the picture.")
@click.option("--side", type=click.IntRange(32, 1024), default=240, show_default=True, help="Pixels a tile.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of images.")
@json_option
def show(guidance: Path, folder: str, out: Path, items: int, columns: int, side: int, seed: int, as_json: bool) -> None:
    """Draw boxes and masks over images of FOLDER, coloured by the scale that was used.

    Example: semaug guide show guidance.zarr photos --out sheet.html
    """
    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.sources import open_source
    from semaug.oracles.contact_sheet import choose_tiles, write_sheet

    table, source = GuidanceTable.open(guidance), open_source(folder)
    tiles = choose_tiles(source, table, items, seed, side)
    write_sheet(tiles, out, f"{len(tiles)} of {len(table)} images of {Path(folder).name or folder}", columns)
    note(f"{len(tiles)} images drawn")
    emit({"out": str(out), "items": len(tiles)}, as_json)
