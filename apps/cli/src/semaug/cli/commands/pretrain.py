"""``semaug pretrain METHOD``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from semaug.cli.console import (
    VerbGroup,
    emit,
    json_option,
    out_option,
    overwrite_option,
    pick_device,
    progress,
    settings,
)

PAIRS = ("standard", "duplicated", "guided", "cross", "inflated", "center", "random_box", "shuffled_box")
PRESETS = (
    "symmetric", "symmetric_weak", "asymmetric_cifar", "asymmetric_imagenet", "byol", "adainf_symmetric",
    "adainf_asymmetric", "identity",
)  # fmt: skip
PAIR_OPTIONS = (
    "preset", "crop", "scale", "box_scale", "margin", "tau", "tau_mask", "centre_beta", "p_guided", "guided_views",
    "box_select", "box_scope", "mask_mode", "copies", "materialized", "local_views", "local_size", "local_scale",
    "guided_locals",
)  # fmt: skip


@click.group(cls=VerbGroup)
def group() -> None:
    """Train an encoder on positive pairs. Stopped at any moment, the same command goes on to the same weights."""


@group.command("simclr")
@click.argument("folder")
@out_option("the run: encoder, card, curves and logs")
@click.option("--pairs", type=click.Choice(PAIRS), default="standard", show_default=True, help="Where pairs come from.")
@click.option("--guidance", type=click.Path(exists=True), help="Guidance made by `semaug guide extract`.")
@click.option("--preset", type=click.Choice(PRESETS), default="symmetric", show_default=True, help="Augmentation.")
@click.option(
    "--crop", type=click.Choice(["inside", "cover", "box_as_view"]), help="How a guided crop relates to the box."
)
@click.option("--scale", type=(float, float), help="A crop's share of the image (the preset's).")
@click.option("--box-scale", type=(float, float), help="A guided crop's share of the box (that of --scale).")
@click.option("--margin", type=click.FloatRange(0), help="How far a box is widened, as a share of its sides (0.1).")
@click.option("--tau", type=click.FloatRange(0, 1), help="Share of a box or mask that a crop must keep (0.5).")
@click.option("--tau-mask", type=click.FloatRange(0, 1), help="Or the share of the crop that a mask must fill (0.3).")
@click.option(
    "--centre-beta",
    type=click.FloatRange(0, 1, min_open=True),
    help="Place crops by Beta(b, b), which shuns the centre below 1 (uniformly; 0.6 in ContrastiveCrop).",
)
@click.option("--p-guided", type=click.FloatRange(0, 1), help="Probability that a view is guided (1).")
@click.option("--guided-views", type=click.Choice(["both", "one"]), help="Which views are guided (both).")
@click.option("--box-select", type=click.Choice(["random", "largest", "union", "all"]), help="Which object (random).")
@click.option("--box-scope", type=click.Choice(["image", "view"]), help="One object an image, or one a view (image).")
@click.option("--mask-mode", type=click.Choice(["crop_only", "bg_blur", "bg_fill"]), help="Use of masks (crop_only).")
@click.option("--copies", type=click.IntRange(1), help="Copies of every image for `duplicated` (2).")
@click.option(
    "--materialized", type=click.Path(exists=True), help="Crops of `semaug views materialize`, for `inflated`."
)
@click.option("--local-views", type=click.IntRange(0), help="Small views beside the two (multi-crop: swav, dino; 0).")
@click.option("--local-size", type=click.IntRange(8), help="Side of a small view in pixels (96 at --size 224).")
@click.option("--local-scale", type=(float, float), help="A small view's share of the image or box (0.05 0.4).")
@click.option("--guided-locals", is_flag=True, default=None, help="Cut small views inside the object's box too.")
@click.option("--backbone", default="resnet18", show_default=True, help="resnet18, resnet50 or small-cnn.")
@click.option("--small-stem/--large-stem", default=None, help="3x3 stem without pooling (up to 64 px by itself).")
@click.option("--size", type=click.IntRange(8), default=224, show_default=True, help="Side of a view in pixels.")
@click.option("--steps", type=click.IntRange(1), default=500, show_default=True, help="Optimizer steps.")
@click.option("--batch-size", type=click.IntRange(2), default=256, show_default=True, help="Pairs a step.")
@click.option("--temperature", type=float, default=0.2, show_default=True, help="SimCLR's temperature.")
@click.option("--optimizer", default="paper", show_default=True, help="Preset: paper (SGD 0.03), solo (LARS), adamw.")
@click.option("--lr", type=float, help="Learning rate, instead of the preset's.")
@click.option("--warmup", type=click.IntRange(0), default=0, show_default=True, help="Steps of linear warm-up.")
@click.option("--precision", default="32-true", show_default=True, help="32-true, bf16-mixed or 16-mixed.")
@click.option("--devices", type=click.IntRange(1), default=1, show_default=True, help="Processes that share a batch.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights, order and views.")
@click.option(
    "--checkpoint-every", type=click.IntRange(1), default=100, show_default=True, help="Steps between checkpoints."
)
@click.option(
    "--log-every", type=click.IntRange(1), default=10, show_default=True, help="Steps between rows of the curves."
)
@click.option("--knn-test", help="Labelled images to watch kNN accuracy on while training.")
@click.option("--knn-every", type=click.IntRange(1), default=100, show_default=True, help="Steps between these.")
@overwrite_option
@json_option
def simclr(
    folder: str, out: Path, as_json: bool, overwrite: bool, precision: str, devices: int, **options: Any
) -> None:
    """Pretrain on FOLDER (images of any kind `semaug data info` opens) with SimCLR.

    \b
    Example:
      semaug pretrain simclr photos/ --pairs guided --guidance guidance.zarr --steps 500 --out run/
    """
    from semaug.ssl_methods.pretrain import Hardware
    from semaug.studies.assemble import train

    hardware = Hardware(pick_device(), devices, workers=settings().workers, precision=precision)
    with progress() as on_progress:
        plan = _plan(folder, options)
        card = train(plan, out, hardware=hardware, overwrite=overwrite, on_progress=on_progress)
    result = {"run": str(out), "method": card.method, "steps": card.steps, "weights": card.weights_digest}
    emit(result, as_json, f"{out}: {card.method}, {card.steps} steps, weights {card.weights_digest}")


def _plan(folder: str, options: dict[str, Any]) -> Any:
    from semaug.studies.assemble import OnlineKnn, TrainingPlan

    pair_options = {name: options.pop(name) for name in PAIR_OPTIONS}
    test, every = options.pop("knn_test"), options.pop("knn_every")
    return TrainingPlan(
        folder,
        pair_options={name: value for name, value in pair_options.items() if value is not None},
        online_knn=OnlineKnn(folder, test, every) if test else None,
        **options,
    )
