"""``semaug eval geometry`` and ``invariance``: the shape of an embedding, and what it keeps of a changed image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from semaug.cli.commands.evaluation.shared import embedded, no_cache_option, report
from semaug.cli.console import Verb, json_option, pick_device, progress, settings


def _image_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of views, changes and subsamples."),
        click.option("--out", type=click.Path(path_type=Path), help="Where to write results (RUN/eval)."),
        click.option("--images", required=True, help="Images to measure on; their labels are not read."),
        click.argument("run", type=click.Path(exists=True, path_type=Path)),
    ):
        function = option(function)
    return json_option(function)


@click.command("geometry", cls=Verb)
@_image_options
@no_cache_option
@click.option(
    "--views",
    type=click.IntRange(0),
    default=2000,
    show_default=True,
    help="Images to take two views of, for alignment and the InfoNCE bound (0: leave them out).",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=50_000,
    show_default=True,
    help="Measure all pairs of a random so many images (0: of all).",
)
@click.option("--loops", is_flag=True, help="Also the Betti curve of loops (extra `tda`).")
def geometry(
    run: Path, images: str, out: Path | None, seed: int, as_json: bool, views: int, limit: int, loops: bool
) -> None:
    """Intrinsic dimension, uniformity, alignment, Betti curves and the InfoNCE bound.

    Example: semaug eval geometry run/ --images photos/test
    """
    from semaug.studies.protocols.geometry import run_geometry, two_views

    (features,) = embedded(run, images)
    with progress() as bar:
        options: dict[str, Any] = {"seed": seed, "device": pick_device(), "on_progress": bar}
        seen = two_views(run, images, limit=views, workers=settings().workers, **options) if views else "not asked for"
        result = run_geometry(features, seen, limit=limit or None, loops=loops, **options)
    report(run, out, "geometry", result, [features] if isinstance(seen, str) else [features, seen], as_json)


@click.command("invariance", cls=Verb)
@_image_options
@click.option(
    "--limit", type=click.IntRange(0), default=500, show_default=True, help="A random so many images (0: all)."
)
@click.option("--draws", type=click.IntRange(1), default=3, show_default=True, help="Draws of each change and image.")
def invariance(run: Path, images: str, out: Path | None, seed: int, as_json: bool, limit: int, draws: int) -> None:
    """Cosine of the features of an image and of its changes: geometric, colour, mixed.

    Example: semaug eval invariance run/ --images photos/test
    """
    from semaug.studies.protocols.geometry import run_invariance

    with progress() as bar:
        result = run_invariance(
            run, images, limit=limit or None, draws=draws, seed=seed, device=pick_device(),
            workers=settings().workers, on_progress=bar,
        )  # fmt: skip
    report(run, out, "invariance", result, [result], as_json)
