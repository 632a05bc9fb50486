"""``semaug views``: look at view pairs, and write guided crops to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from semaug.cli.engines import engine_options, shard_workers

FORMS = ("standard", "duplicated", "guided", "cross", "center", "random_box", "shuffled_box", "diffusion")
CROPS = ("inside", "cover", "box_as_view")
SELECTS = ("random", "largest", "union", "all")
MASK_MODES = ("crop_only", "bg_blur", "bg_fill")
GUIDANCE = Place(exists=True, path_type=Path)


@click.group(cls=VerbGroup)
def group() -> None:
    """Show the view pairs of a variant, or write guided crops to disk."""


@group.command()
@click.argument("folder")
@out_option("the contact sheet (.png or .jpg)", file=True)
@click.option("--guidance", type=GUIDANCE, help="Guidance artifact (needed by all but standard, duplicated, center).")
@click.option(
    "--pairs", "forms", multiple=True, type=click.Choice(FORMS),
    help="Which pairs to show, once or more (default: standard, and those that guidance or positives are given for).",
)  # fmt: skip
@click.option("--augment", type=GUIDANCE, help="Positives of `semaug diffaug augment`, for `diffusion`.")
@click.option("--alpha", type=click.FloatRange(0, 1), help="Probability that view 2 is a positive (1).")
@click.option("--raw-positives", is_flag=True, default=None, help="Show positives whole, without augmentation.")
@click.option("--items", type=click.IntRange(1, 64), default=6, show_default=True, help="Images, evenly spread.")
@click.option("--size", type=click.IntRange(2), default=224, show_default=True, help="Pixels of a view.")
@click.option("--preset", default="symmetric", show_default=True, help="Augmentation preset.")
@click.option("--crop", type=click.Choice(CROPS), default="inside", show_default=True, help="How boxes bias crops.")
@click.option("--scale", type=(float, float), help="A crop's share of the image (default: the preset's).")
@click.option("--box-scale", type=(float, float), help="A guided crop's share of the box (default: as --scale).")
@click.option("--margin", type=float, default=0.1, show_default=True, help="Widening of a box, in shares of its sides.")
@click.option("--tau", type=float, default=0.5, show_default=True, help="Share of a box or mask that a crop must keep.")
@click.option(
    "--tau-mask", type=float, default=0.3, show_default=True, help="Or the share of the crop that a mask must fill."
)
@click.option(
    "--centre-beta", type=click.FloatRange(0, 1, min_open=True),
    help="Place crops by Beta(b, b), which shuns the centre below 1 (default: uniformly).",
)  # fmt: skip
@click.option("--p-guided", type=float, default=1.0, show_default=True, help="Probability that a view is guided.")
@click.option("--box-select", type=click.Choice(SELECTS), default="random", show_default=True, help="Among objects.")
@click.option("--box-scope", type=click.Choice(["image", "view"]), default="image", show_default=True,
              help="Draw one object for both views, or one a view.")  # fmt: skip
@click.option(
    "--mask-mode", type=click.Choice(MASK_MODES), default="crop_only", show_default=True, help="Use of masks."
)
@click.option("--cell", type=click.IntRange(32, 512), default=128, show_default=True, help="Pixels of a cell.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of crops and colours.")
@click.option("--epoch", type=click.IntRange(0), default=0, show_default=True, help="Whose draws are shown.")
@json_option
def show(
    folder: str, out: Path, guidance: Path | None, forms: tuple[str, ...], augment: Path | None, alpha: float | None,
    raw_positives: bool | None, items: int, cell: int, epoch: int, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Draw a contact sheet of view pairs: each image with its guidance and crops, and the two views.

    A view of a generated positive has no crop on the image.

    Example: semaug views show photos/ --guidance guidance.zarr --out sheet.png
    """
    from semaug.artifacts.files import writing
    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.sources import open_source
    from semaug.pairs_dataset import make_pairs, pair_sheet

    _require_picture(out)
    source = open_source(folder)
    table = GuidanceTable.open(guidance) if guidance else None
    if table is not None:
        table.require_source(source.fingerprint)
    found = (("guided", table), ("diffusion", augment))
    names = forms or ("standard", *(name for name, given in found if given is not None))
    positives = {"augment": augment, "alpha": alpha, "raw_positives": raw_positives}
    if "diffusion" not in names and any(value is not None for value in positives.values()):
        raise click.UsageError("--augment, --alpha and --raw-positives are for --pairs diffusion; name it, too")
    own: dict[str, dict[str, Any]] = {"diffusion": positives}
    variants = {name: make_pairs(name, source, guidance=table, **options, **own.get(name, {})) for name in names}
    count = min(len(pairs.images) for pairs in variants.values())
    chosen = sorted({i * count // items for i in range(items)})
    for pairs in variants.values():
        pairs.set_epoch(epoch)
    sheet = pair_sheet(variants, chosen, guidance=table, cell=cell)
    with writing(out):
        sheet.save(out)
    keys = [source.key(int(next(iter(variants.values())).images[i])) for i in chosen]
    emit({"out": str(out), "pairs": list(names), "images": keys}, as_json)


def _require_picture(out: Path) -> None:
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise click.BadParameter(f"{out} does not end in .png or .jpg", param_hint="--out")


@group.command()
@click.argument("folder")
@out_option("the crops (a folder)")
@click.option("--guidance", type=GUIDANCE, required=True, help="Guidance artifact of these images.")
@click.option("--quality", type=GUIDANCE, help="Quality artifact, recorded beside each crop.")
@click.option("--margin", type=float, default=0.1, show_default=True, help="Widening of a box, in shares of its sides.")
@click.option("--box-select", type=click.Choice(SELECTS), default="largest", show_default=True, help="Among objects.")
@click.option(
    "--mask-mode", type=click.Choice(MASK_MODES), default="crop_only", show_default=True, help="Use of masks."
)
@click.option("--no-overlays", is_flag=True, help="Leave the annotated pictures out.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the object with --box-select random.")
@click.option("--shard-size", type=click.IntRange(1), default=64, show_default=True, help="Images a shard.")
@engine_options
@overwrite_option
@json_option
def materialize(
    folder: str, out: Path, guidance: Path, quality: Path | None, margin: float, box_select: Any, mask_mode: Any,
    no_overlays: bool, seed: int, shard_size: int, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write each image's guided region to OUT, by class, lossless, with overlays and metadata.

    Images whose oracles found nothing are copied whole and flagged. Run it again and it resumes.

    Example: semaug views materialize photos/ --guidance guidance.zarr --out sdi/
    """
    import json

    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.sources import open_source
    from semaug.pairs_dataset.crops import CropRule
    from semaug.pairs_dataset.materialize import REPORT, materialize_crops

    rule = CropRule(margin=margin, select=box_select)
    with progress() as bar, shard_workers() as workers:
        summary = materialize_crops(
            open_source(folder), GuidanceTable.open(guidance), out, rule=rule, mask_mode=mask_mode,
            quality=_scores(quality), seed=seed, annotate=not no_overlays, workers=workers,
            shard_size=shard_size, overwrite=overwrite, on_progress=bar,
        )  # fmt: skip
    report = json.loads((out / REPORT).read_text())
    kept = ("images", "written", "copied_whole", "skipped", "area_share_quantiles", "seconds_per_1000", "peak_memory")
    emit({"out": str(out)} | {k: report[k] for k in kept}, as_json)
    if report["copied_whole"]:
        note(f"{report['copied_whole']} images had no object and were copied whole (column copied_whole)")
    finish(summary)


def _scores(path: Path | None) -> Any:
    """Quality scores by key, or None."""
    if path is None:
        return None
    from semaug.quality_policy import QualityTable

    table = QualityTable.open(path)
    return {key: table.get(key) for key in table.keys}
