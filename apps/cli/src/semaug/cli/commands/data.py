"""``semaug data``: images and artifacts themselves."""

from __future__ import annotations

from pathlib import Path

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


@click.group(cls=VerbGroup)
def group() -> None:
    """Index, pack, describe and verify images and artifacts.

    SOURCE is a folder, a packed store or other artifact with images, a .csv or .parquet list, torchvision:NAME?root=..,
    hf:PATH?split=.., scenes:train, or a well-known set by name, such as cifar100:train?root=DIR.
    """


@group.command()
@click.argument("source")
@out_option("the index", store=True)
@engine_options
@overwrite_option
@json_option
def index(source: str, out: Path, overwrite: bool, as_json: bool) -> None:
    """Decode every image once; keep keys, hashes, sizes, labels, and the list of unreadable files."""
    from semaug.artifacts.index import index_source
    from semaug.artifacts.sources import open_source

    with progress() as bar, shard_workers() as workers:
        summary = index_source(open_source(source), out, workers=workers, overwrite=overwrite, on_progress=bar)
    result = {
        "out": str(out),
        "items": summary.manifest.items,
        "unreadable": len(summary.skipped),
        "classes": len(summary.manifest.config["class_names"]),
        "fingerprint": summary.manifest.info["fingerprint"],
        "seconds_per_1000": summary.costs.seconds_per_1000,
        "peak_memory": summary.costs.peak_memory,
    }
    emit(result, as_json)
    finish(summary)


@group.command()
@click.argument("source")
@out_option("the packed store", store=True)
@click.option("--size", type=click.IntRange(1), help="Resize the shorter side to this many pixels; nothing is cropped.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["auto", "raw", "jpeg"]),
    default="auto",
    show_default=True,
    help="raw: pixels, lossless, fastest; jpeg: files, kept as they are unless resized; auto: raw where small.",
)
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of images encoded anew.")
@click.option("--shard-size", type=click.IntRange(1), help="Images a shard (default: about 64 MB of pixels).")
@engine_options
@overwrite_option
@json_option
def pack(
    source: str,
    out: Path,
    size: int | None,
    layout: str,
    quality: int,
    shard_size: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Copy images into a few big files that are read through memory maps."""
    from typing import cast

    from semaug.artifacts.pack import Format, pack_images
    from semaug.artifacts.sources import open_source

    with progress() as bar, shard_workers() as workers:
        summary = pack_images(
            open_source(source),
            out,
            size=size,
            format=cast("Format", layout),
            quality=quality,
            shard_size=shard_size,
            workers=workers,
            overwrite=overwrite,
            on_progress=bar,
        )
    result = {
        "out": str(out),
        "items": summary.manifest.items - len(summary.skipped),
        "skipped": len(summary.skipped),
        "format": summary.manifest.config["format"],
        "fingerprint": summary.manifest.inputs["source"],
        "seconds_per_1000": summary.costs.seconds_per_1000,
        "peak_memory": summary.costs.peak_memory,
    }
    emit(result, as_json)
    finish(summary)


@group.command()
@click.argument("source")
@json_option
def info(source: str, as_json: bool) -> None:
    """Say what a source, an artifact or a training run is."""
    from semaug.artifacts.describe import describe

    emit(describe(source), as_json)


@group.command()
@click.argument("artifact", type=Place(path_type=Path))
@json_option
def verify(artifact: Path, as_json: bool) -> None:
    """Recompute every digest of an artifact, a materialised folder or a training run; exit 1 when one differs.

    The digest printed leaves costs and times out: two runs that did the same print the same.
    """
    from semaug.artifacts.verify import verify as check

    found = check(artifact)
    result = {
        "path": str(found.path),
        "kind": found.kind,
        "items": found.items,
        "digest": found.digest,
        "ok": not found.problems,
        "problems": list(found.problems),
    }
    text = f"{found.kind}, {found.items} items, digest {found.digest}: {'ok' if not found.problems else 'DAMAGED'}"
    emit(result, as_json, text)
    for problem in found.problems:
        note(problem)
    if found.problems:
        click.get_current_context().exit(1)
