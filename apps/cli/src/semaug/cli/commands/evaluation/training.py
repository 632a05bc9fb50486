"""``semaug eval finetune``, ``transfer`` and ``distil``: the encoder on other labels, other images, other networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from semaug.cli.commands.evaluation.shared import keep_features, no_cache_option, report
from semaug.cli.console import Verb, json_option, overwrite_option, pick_device, progress, settings

RECIPES = ("sgd", "adamw", "semantic-pairs", "dino", "few-labels")
"""``semaug.eval.probes.finetune.RECIPES``, without importing torch for a help text."""
DATA = "cifar10, cifar100, stl10, dtd, flowers102, pets, food101, cars, pathmnist, aptos2019, tiny-imagenet..."


def _image_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a protocol that trains takes: images alone, since features cannot be trained through."""
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of views, order and first weights."),
        click.option("--out", type=click.Path(path_type=Path), help="Where to write results (RUN/eval)."),
        click.option("--test", required=True, help="Labelled images to score on; classes match by name."),
        click.option("--train", "bank", required=True, help="Labelled images to train or fit on."),
        click.argument("run", type=click.Path(exists=True, path_type=Path)),
    ):
        function = option(function)
    return json_option(function)


crop_scale_option = click.option(
    "--crop-scale",
    type=click.FloatRange(0, 1, min_open=True),
    nargs=2,
    help="A training crop's share of the image (0.4 1 below 128 pixels of input, 0.08 1 from there on).",
)


@click.command("finetune", cls=Verb)
@_image_options
@click.option(
    "--recipe", type=click.Choice(RECIPES), help="Named settings (adamw for a transformer, sgd for anything else)."
)
@click.option("--epochs", type=click.IntRange(1), help="Epochs of each training (the recipe's).")
@click.option("--batch-size", type=click.IntRange(2), help="Images a step (the recipe's).")
@click.option("--lr", "rates", type=float, multiple=True, help="A learning rate; of several the best is chosen.")
@click.option("--layer-decay", type=float, help="Factor of the rate from a layer to the one below it.")
@click.option("--label-smoothing", type=float, help="Share of the target that all classes get.")
@click.option("--mixup", type=float, help="Parameter of the Beta distribution that mixes images (0: none).")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Trainings, each with a seed.")
@crop_scale_option
def finetune(
    run: Path,
    bank: str,
    test: str,
    out: Path | None,
    seed: int,
    as_json: bool,
    recipe: str | None,
    rates: tuple[float, ...],
    repeats: int,
    crop_scale: tuple[float, float] | None,
    **changes: Any,
) -> None:
    """Train the whole network and a new head; the rate is chosen on a split of --train.

    Example: semaug eval finetune run/ --train photos/train --test photos/test --epochs 20
    """
    from semaug.studies.protocols.training import finetune_settings, run_finetune

    chosen = finetune_settings(run, recipe, learning_rates=rates, **changes)
    with progress() as bar:
        done = run_finetune(
            run, bank, test, chosen, repeats=repeats, seed=seed, scale=crop_scale or None, out=out,
            device=pick_device(), workers=settings().workers, on_progress=bar,
        )  # fmt: skip
    report(run, out, "finetune", done.result, done.images, as_json)


@click.command("transfer", cls=Verb)
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--data", multiple=True, metavar="NAME?root=FOLDER", help=f"A well-known data set: {DATA}")
@click.option("--root", type=click.Path(exists=True, path_type=Path), help="Folder of the --data that name none.")
@click.option(
    "--pair", "pairs", multiple=True, nargs=3, metavar="NAME TRAIN TEST", help="Any two sources of labelled images."
)
@click.option("--solver", type=click.Choice(["lbfgs", "sgd"]), default="lbfgs", show_default=True, help="How to fit.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write results (RUN/eval).")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the selection splits.")
@no_cache_option
@json_option
def transfer(
    run: Path,
    data: tuple[str, ...],
    root: Path | None,
    pairs: tuple[tuple[str, str, str], ...],
    solver: str,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Linear probe and kNN of the frozen encoder on several data sets that lie on the disk.

    A set that is not there gives no values and says why (exit code 3).

    Example: semaug eval transfer run/ --root /data --data cifar100 --data pathmnist --data "dtd?partition=2"
    """
    from semaug.studies.protocols.transfer import run_transfer, transfer_sets

    sets = transfer_sets(data, pairs, root)
    with progress() as bar:
        result = run_transfer(
            run, sets, solver=solver, seed=seed, device=pick_device(), workers=settings().workers,
            keep=keep_features(), on_progress=bar,
        )  # fmt: skip
    scored = {found.name for found in result.sets if found.linear is not None}
    specs = {f"{s.name} {role}": getattr(s, role) for s in sets for role in ("train", "test") if s.name in scored}
    report(run, out, "transfer", result, [result], as_json, sources=specs)


@click.command("distil", cls=Verb)
@_image_options
@no_cache_option
@click.option("--images", required=True, help="Images to distil on; their labels are not read.")
@click.option("--student", default="resnet18", show_default=True, help="Backbone of the student.")
@click.option(
    "--backbone-option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the student's backbone."
)
@click.option("--student-out", type=click.Path(path_type=Path), help="The student's run (RUN/eval/students/STUDENT).")
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True, help="Epochs over --images.")
@click.option("--batch-size", type=click.IntRange(2), default=128, show_default=True, help="Images a step.")
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Learning rate of AdamW.")
@crop_scale_option
@overwrite_option
def distil(
    run: Path,
    bank: str,
    test: str,
    images: str,
    out: Path | None,
    seed: int,
    as_json: bool,
    student: str,
    options: tuple[str, ...],
    student_out: Path | None,
    epochs: int,
    batch_size: int,
    lr: float,
    crop_scale: tuple[float, float] | None,
    overwrite: bool,
) -> None:
    """Teach another network the encoder's features without labels, and probe it beside itself untrained.

    Example: semaug eval distil run/ --images photos/train --student mobilenetv2 --train photos/train --test photos/test
    """
    from semaug.studies.protocols.training import distillation_settings, run_distil

    place = student_out or run / "eval" / "students" / f"{student.replace(':', '-')}-{seed}"
    with progress() as bar:
        done = run_distil(
            run, images, bank, test, out=place, backbone=student, options=options, scale=crop_scale or None,
            settings=distillation_settings(epochs=epochs, batch_size=batch_size, lr=lr), seed=seed,
            device=pick_device(), workers=settings().workers, keep=keep_features(), overwrite=overwrite,
            on_progress=bar,
        )  # fmt: skip
    report(run, out, "distil", done.result, done.images, as_json)
