"""``semaug quickstart``."""

from __future__ import annotations

from pathlib import Path

import click

from semaug.cli.console import Verb, emit, json_option, note, progress, settings


@click.command("quickstart", cls=Verb)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("quickstart"),
    show_default=True,
    help="Where all of it goes.",
)
@click.option("--steps", type=click.IntRange(10), help="Training steps of each run, instead of what fits four minutes.")
@click.option("--seeds", type=click.IntRange(1), help="Seeds of each variant (3).")
@click.option("--images", type=click.IntRange(64), help="Generated images to learn from (2,000).")
@json_option
def command(out: Path, steps: int | None, seeds: int | None, images: int | None, as_json: bool) -> None:
    """See semantic guidance work in about four minutes, without any data.

    Generates a set of images, scores and routes them, extracts guidance with the offline oracles, trains an encoder on
    standard, random-box and guided pairs, evaluates all, and writes one report.
    """
    import os
    from dataclasses import replace

    from semaug.studies.quickstart import QuickstartPlan, run_quickstart

    plan = QuickstartPlan()
    plan = replace(
        plan,
        steps=steps or plan.steps,
        seeds=tuple(range(seeds)) if seeds else plan.seeds,
        train_images=images or plan.train_images,
    )
    workers = settings().workers or min(2, os.cpu_count() or 1)
    with progress() as on_progress:
        result = run_quickstart(out, plan, workers=workers, on_progress=on_progress, say=note)
    for line in result.failed:
        note(f"Failed: {line}")
    summary = {"report": str(result.report), "linear": dict(result.linear), "knn": dict(result.knn)}
    emit(summary, as_json, f"Report: {result.report}")
    if result.failed:
        click.get_current_context().exit(1)
