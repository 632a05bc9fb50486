"""``semaug diffaug``: augmentation learned from scratch, for tables and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from semaug.cli.console import (
    SKIPPED_SOME,
    VerbGroup,
    emit,
    finish,
    json_option,
    note,
    out_option,
    overwrite_option,
    pick_device,
    progress,
    settings,
)
from semaug.cli.engines import engine_options, pick_devices, shard_workers
from semaug.cli.options import Decorator, choice, number, together

EXISTING = click.Path(exists=True, file_okay=False, path_type=Path)
KERNELS, CONDITIONS, SAMPLERS, PREDICTIONS = (
    ("official", "paper", "peak1"),
    ("y", "z", "label", "random"),
    ("ddim", "ddpm", "dpm-solver"),
    ("noise", "velocity", "clean"),
)
LOSSES, SCHEDULES, VIEWS, LAYOUTS = ("soft", "infonce"), ("joint", "em"), ("clean", "hand"), ("dlme", "newer")
ABLATION_SEEDS = 5


def _positive(flag: str, default: Any, help_: str) -> Decorator:
    return number(flag, default, help_, click.IntRange(1))


def _widths(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Comma-separated positive numbers."""
    if not value:
        return None
    try:
        found = tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list such as 500,300,80") from error
    if min(found) < 1:
        raise click.BadParameter(f"{value!r} holds a number below 1")
    return found


def _list(flag: str, help_: str) -> Decorator:
    return click.option(flag, callback=_widths, metavar="N,N,..", help=help_)


data_options = together(
    number("--size", None, "Side of images, pixels (their own, where all are squares of one).", click.IntRange(8)),
    _positive("--neighbours", 5, "Near rows that a row of a table is mixed with."),
    number("--components", 50, "Principal components that they are found among (0: all columns).", click.IntRange(0)),
)
course_options = together(
    number("--epochs", None, "Passes of the encoder over the samples (400).", click.IntRange(1)),
    number("--steps", None, "Or its steps.", click.IntRange(1)),
    number("--batch-size", None, "Samples a step (500, or all of a smaller set).", click.IntRange(2)),
)
method_options = together(
    choice("--loss", LOSSES, "soft", "Soft contrastive, or InfoNCE (B3)."),
    choice("--kernel", KERNELS, "official", "Of similarities: the code's, Eq. 4's, or Eq. 4's scaled to 1 at 0."),
    number("--nu-y", 100.0, "Degrees of freedom in the latent space y.", float),
    number("--nu-z", 0.01, "And in the embedding z.", float),
    number("--beta", 1.0, "Pull of true pairs.", click.FloatRange(0, 1)),
    click.option("--detach-p/--no-detach-p", default=True, help="Whether P is a fixed target of each step (yes)."),
    number("--temperature", 0.2, "Of InfoNCE.", float),
    choice("--first-view", VIEWS, None, "The sample itself (tables) or its hand-made augmentation (images)."),
    choice("--condition", CONDITIONS, "y", "What the generator is told of a sample."),
    click.option("--generate/--no-generate", default=True, help="Whether there is a generator (yes; B2 has none)."),
    number("--alpha", 0.1, "Probability that a second view is a generated one.", click.FloatRange(0, 1)),
    number("--alpha-ramp", 0, "Epochs in which it rises to that.", click.IntRange(0)),
    choice("--schedule", SCHEDULES, "joint", "Both networks every step, or in turns."),
    number("--warmup-epochs", None, "On hand-made augmentation alone (a fifth of all).", click.IntRange(0)),
    number("--generator-epochs", None, "Of the generator alone, then (as many as the encoder's).", click.IntRange(0)),
    number("--block-epochs", None, "A turn of `em` (a tenth of all).", click.IntRange(1)),
    _positive("--refresh-every", 10, "Epochs after which generated views are made anew."),
    _positive("--copies", 1, "Generated views kept of each sample."),
    _positive("--timesteps", 1000, "Of the diffusion."),
    choice("--sampler", SAMPLERS, "ddim", "How views are drawn from noise."),
    _positive("--sampler-steps", 50, "In how many steps."),
    number("--eta", 0.0, "Noise of ddim's steps (0: none, 1: as ddpm).", click.FloatRange(0, 1)),
    number("--generator-weight", 0.01, "Of the generator's loss.", click.FloatRange(0)),
    number("--lr", 1e-3, "Of the encoder.", float),
    number("--generator-lr", 1e-3, "Of the generator.", float),
    number("--weight-decay", 1e-6, "Of both.", click.FloatRange(0)),
    number("--ema-decay", 0.9999, "Of the generator's running average, which draws.", click.FloatRange(0, 1)),
    number("--embedding", 2, "Width of z.", click.IntRange(1)),
    choice("--layout", LAYOUTS, "dlme", "Of the encoder of rows: DLME's code, or DiffAug's own."),
    _list("--encoder-widths", "Of the encoder of rows (500,300,80)."),
    click.option("--backbone", help="The encoder of images (small-cnn); the paper's is resnet50."),
    _list("--generator-widths", "Of the generator: layers of rows (500,80,500), channels of images (32,64,128)."),
    choice("--prediction", PREDICTIONS, "velocity", "What the generator's layers put out; the paper's, the noise."),
)
seed_option = number("--seed", 0, "Of weights and all draws.")


@click.group(cls=VerbGroup)
def group() -> None:
    """Learn augmentation from scratch: a semantic encoder and a conditional diffusion generator (DiffAug).

    DATA is a table (cells.h5ad, .csv, .parquet, .npy, scanpy:pbmc68k_reduced, sklearn:digits, a recipe such as
    hcl?root=FOLDER) or any image source.
    """


@group.command()
@click.argument("data")
@out_option("the run: encoder, generator, cards and curves")
@data_options
@course_options
@method_options
@seed_option
@_positive("--checkpoint-every", 200, "Steps between checkpoints.")
@_positive("--log-every", 10, "Steps between rows of the curves.")
@overwrite_option
@json_option
def train(data: str, out: Path, as_json: bool, overwrite: bool, **options: Any) -> None:
    """Train encoder and generator on DATA. Stopped at any moment, the same command goes on to the same weights.

    Example: semaug diffaug train scanpy:pbmc68k_reduced --out run
    """
    from semaug.studies.diffaug import describe_run, train_run

    samples = _data(options).open(data)
    chosen = _settings(options, images=len(samples.shape) == 3)
    course = _course(options, checkpoint_every=options["checkpoint_every"], log_every=options["log_every"])
    for line in getattr(samples, "notes", ()):
        note(line)
    with progress() as bar:
        card = train_run(
            samples, out, chosen, course, seed=options["seed"], device=pick_device(), overwrite=overwrite,
            on_progress=bar,
        )  # fmt: skip
    emit(describe_run(out, card), as_json)


@group.command()
@click.argument("data")
@click.argument("run", type=EXISTING)
@_positive("--k", 1, "Positives of each sample.")
@choice("--sampler", SAMPLERS, None, "How they are drawn from noise (as in training).")
@number("--sampler-steps", None, "In how many steps (as in training).", click.IntRange(1))
@number("--eta", None, "Noise of ddim's steps (as in training).", click.FloatRange(0, 1))
@number("--batch-size", None, "Positives made together (512 rows, 128 images).", click.IntRange(1))
@number("--shard-size", None, "Samples a shard, the unit of resuming (1024 rows, 256 images).", click.IntRange(1))
@seed_option
@out_option("the generated positives", store=True)
@engine_options
@overwrite_option
@json_option
def augment(data: str, run: Path, out: Path, as_json: bool, overwrite: bool, **options: Any) -> None:
    """Generate positives of every sample of DATA by the generator of RUN, for `semaug pretrain --pairs diffusion`.

    Example: semaug diffaug augment scanpy:pbmc68k_reduced run --k 5 --out augment.zarr
    """
    from semaug.artifacts.reader import Artifact
    from semaug.diffaug_core.augment import AugmentPlan
    from semaug.studies.diffaug import augment_with

    plan = AugmentPlan(options["k"], options["sampler"], options["sampler_steps"], options["eta"])
    with progress() as bar, shard_workers() as workers:
        summary = augment_with(
            data, run, out, plan, seed=options["seed"], device=pick_devices(), workers=workers,
            batch_size=options["batch_size"], shard_size=options["shard_size"], overwrite=overwrite, on_progress=bar,
        )  # fmt: skip
    made = Artifact.open(out, "augment").manifest
    result = {"out": str(out), "positives": made.items - len(summary.skipped) * options["k"], "k": options["k"]}
    emit(result | {"nearest": made.info.get("nearest", {})}, as_json)
    finish(summary)


@group.command()
@click.argument("data")
@click.argument("run", type=EXISTING)
@click.option("--latent", is_flag=True, help="Write the latent y too, as X_diffaug_latent (.h5ad, .csv).")
@out_option("the embedding: .h5ad (a copy of DATA with obsm X_diffaug), .csv or .npy", file=True)
@overwrite_option
@json_option
def embed(data: str, run: Path, latent: bool, out: Path, overwrite: bool, as_json: bool) -> None:
    """Place every sample of DATA by the encoder of RUN.

    Example: semaug diffaug embed scanpy:pbmc68k_reduced run --out embedded.h5ad
    """
    from semaug.studies.diffaug import features_of, write_features

    with progress() as bar:
        features = features_of(data, run, device=pick_device(), workers=settings().workers, on_progress=bar)
    written = write_features(data, features, out, latent=latent, overwrite=overwrite)
    width = 0 if features.projections is None else features.projections.shape[1]
    emit({"out": str(out), "rows": written.rows, "columns": width, "rows_without": written.without}, as_json)
    if features.skipped:
        count, first = len(features.skipped), features.skipped[0]
        note(f"{count} of {count + written.rows} images could not be read (the first: {first.key}: {first.reason})")
        click.get_current_context().exit(SKIPPED_SOME)


@group.command()
@click.argument("data")
@out_option("the table of scores, and what each fit measured")
@click.option("--only", help="Methods, as A1,B2,pca (A1 to B5). A3 is DiffAug; pca, tsne, umap.. are projections.")
@click.option("--alphas", help="Probabilities of a generated view to compare, as 0,0.1,0.5 (Fig. 4).")
@_positive("--seeds", ABLATION_SEEDS, "Runs of each.")
@number("--folds", 10, "Folds of each.", click.IntRange(2))
@choice("--setting", ("both", "inductive", "transductive"), "both", "Whether held-out rows are seen in fitting.")
@click.option("--fit", default="", help="Steps that every fold fits on its own training rows, as pca:50,unit.")
@_positive("--neighbours", 5, "Near rows that a row is mixed with.")
@number("--components", 50, "Principal components that they are found among (0: all columns).", click.IntRange(0))
@course_options
@method_options
@json_option
def ablate(data: str, out: Path, as_json: bool, **options: Any) -> None:
    """Compare DiffAug with its ablations, and with other projections, on the table DATA.

    Every method is fitted on the training rows of each fold, and once on all rows; a linear machine and k-means score
    its two dimensions. Stopped, the same command goes on. Ends with exit code 1 where a fit failed.

    Example: semaug diffaug ablate sklearn:digits --out study --only A3,B2,pca --seeds 2 --epochs 20
    """
    from dataclasses import asdict

    from semaug.studies.projecting import (
        SETTINGS,
        Protocol,
        compare_methods,
        method_names,
        notes_of,
        table_of,
        write_rows,
    )

    methods = method_names(_words(options["only"]), _shares(options["alphas"]))
    protocol = Protocol(
        folds=options["folds"], fit=options["fit"], diffaug=_settings(options, images=False), course=_course(options),
        data=_data(options), settings=SETTINGS if options["setting"] == "both" else (options["setting"],),
    )  # fmt: skip
    for line in notes_of(data, protocol):
        note(line)
    with progress() as bar:
        rows = compare_methods(
            data, out, methods, protocol, seeds=range(options["seeds"]), device=pick_device(),
            workers=settings().workers, on_progress=bar,
        )  # fmt: skip
    write_rows(rows, out)
    emit({"out": str(out), "methods": [asdict(row) for row in rows]}, as_json, _aligned(table_of(rows)))
    for row in rows:
        if row.measures and row.reason:
            note(f"{row.method}: {row.reason}")
    if any(row.failed for row in rows):
        click.get_current_context().exit(1)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _shares(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _words(text))
    except ValueError as error:
        raise click.UsageError(f"--alphas {text!r} is no list of numbers such as 0,0.1,0.5") from error


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under their headings; a method that was not run has its reason instead."""
    full = [row for row in rows if len(row) < 3 or any(row[2:])]
    widths = [max(len(row[i]) for row in full) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _data(options: Mapping[str, Any]) -> Any:
    from semaug.studies.diffaug import DataOptions

    return DataOptions(options.get("size"), None, options["neighbours"], options["components"])


def _course(options: Mapping[str, Any], **often: int) -> Any:
    from semaug.studies.diffaug import EPOCHS, Course

    epochs = options["epochs"] or (None if options["steps"] else EPOCHS)
    return Course(epochs, options["steps"], options["batch_size"], **often)


def _settings(options: Mapping[str, Any], *, images: bool) -> Any:
    """The settings that the options name; those of the networks only where they are given."""
    from dataclasses import fields

    from semaug.diffaug_core.settings import DiffAugSettings

    encoder = {"embedding": options["embedding"], "backbone": options["backbone"], "widths": options["encoder_widths"]}
    if not images:
        encoder["layout"] = options["layout"]
    generator = {
        "channels" if images else "widths": options["generator_widths"],
        "prediction": options["prediction"],
    }
    names = {field.name for field in fields(DiffAugSettings)} & set(options)
    return DiffAugSettings(
        **{name: options[name] for name in names}, encoder=_given(encoder), generator=_given(generator)
    )


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
