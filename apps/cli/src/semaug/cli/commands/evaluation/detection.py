"""``semaug eval detect`` and ``segment``: Faster and Mask R-CNN fine-tuned on the encoder of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from semaug.cli.commands.evaluation.shared import table_of
from semaug.cli.console import Verb, emit, json_option, note, overwrite_option, pick_device, progress, settings

SCHEDULES = ("voc", "coco-1x", "coco-2x")
ARCHITECTURES = ("c4", "fpn")
NORMS = ("batch", "frozen")


def detector_options(schedule: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What both verbs take; ``schedule`` is the default."""
    options = (
        click.option(
            "--schedule", type=click.Choice(SCHEDULES), default=schedule, show_default=True,
            help="Steps, batch, rate and sizes, as the papers fine-tune.",
        ),
        click.option("--steps", type=click.IntRange(1), help="Batches to train on (the schedule's)."),
        click.option("--batch-size", type=click.IntRange(1), help="Images a step (16); the rate follows it."),
        click.option("--lr", type=float, help="Learning rate (0.02 for 16 images)."),
        click.option("--sides", help="Shorter sides in training, with commas; tests take the largest (480 to 800)."),
        click.option(
            "--architecture", type=click.Choice(ARCHITECTURES), default="c4", show_default=True,
            help="The papers' C4, or a feature pyramid.",
        ),
        click.option(
            "--norm", type=click.Choice(NORMS), default="batch", show_default=True,
            help="Train the backbone's norms, or freeze them.",
        ),
        click.option("--samples", type=click.IntRange(1), help="Regions an image to train on (512)."),
        click.option("--proposals", type=click.IntRange(1), help="Regions of a test image to look at (1000)."),
        click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Seeds to train under."),
        click.option(
            "--checkpoint-every", type=click.IntRange(1), default=500, show_default=True, help="Steps between two."
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of new weights and of all draws."),
        click.option("--out", type=click.Path(path_type=Path), help="Where to write results (RUN/eval)."),
        overwrite_option,
        json_option,
    )  # fmt: skip

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        for flag, role in (("--test", "judge"), ("--train", "train")):
            text = f"Annotated images to {role} on; given again, they are joined."
            function = click.option(flag, required=True, multiple=True, help=text)(function)
        return click.argument("run", type=click.Path(exists=True, path_type=Path))(function)

    return add


@click.command("detect", cls=Verb)
@detector_options("voc")
def detect(run: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Fine-tune Faster R-CNN (R50-C4) from the encoder of RUN and report its average precision (COCO's and VOC's).

    Images are voc:FOLDER?split=NAME, coco:FILE.json?images=FOLDER or yolo:LABELS?images=FOLDER.

    \b
    Example:
      semaug eval detect run/ --train voc:VOC2007?split=trainval --test voc:VOC2007?split=test --json
    """
    _run("detect", run, out, as_json, masks=False, **options)


@click.command("segment", cls=Verb)
@detector_options("coco-2x")
def segment(run: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Fine-tune Mask R-CNN (R50-C4) from the encoder of RUN and report COCO's average precision of masks and boxes.

    Images are coco:FILE.json?images=FOLDER, or yolo:LABELS?images=FOLDER with polygons.

    \b
    Example:
      semaug eval segment run/ --train coco:train.json?images=train --test coco:val.json?images=val --json
    """
    _run("segment", run, out, as_json, masks=True, **options)


def _run(verb: str, run: Path, out: Path | None, as_json: bool, *, masks: bool, **options: Any) -> None:
    from semaug.studies.evaluation import measures, ran_on, write_results
    from semaug.studies.protocols.detection import DetectionPlan, run_detection

    seed, overwrite, sides = options.pop("seed"), options.pop("overwrite"), _sides(options.pop("sides"))
    plan, folder = DetectionPlan(masks=masks, sides=sides, **options), out or run / "eval"
    with progress() as on_progress:
        done = run_detection(
            run, plan, folder / verb, seed=seed, device=pick_device(), workers=settings().workers,
            overwrite=overwrite, on_progress=on_progress,
        )  # fmt: skip
    if done is None:  # another process of torchrun's reports
        return
    rows = measures(done.result)
    chosen = {**options, "seed": seed, "sides": sides, "schedule": done.schedule, "detector": done.detector}
    where = ran_on(run, {}, settings=chosen, device=pick_device()) | {"sources": done.sources}
    path = write_results(folder, verb, rows, ran_on=where, warnings=done.result.warnings)
    for warning in done.result.warnings:
        note(f"Note: {warning}")
    shown = {name: row for name, row in rows.items() if "/class=" not in name}
    emit({"results": str(path), **rows}, as_json, table_of(shown))


def _sides(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError as error:
        raise click.UsageError(f"--sides {text!r} is not whole numbers with commas between them") from error
