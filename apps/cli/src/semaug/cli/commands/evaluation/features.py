"""``semaug eval embed``: features of images by the encoder of a run, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from semaug.cli.commands.evaluation.shared import finish as finish_protocol
from semaug.cli.commands.evaluation.shared import keep_features, no_cache_option
from semaug.cli.console import (
    Verb,
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


@click.command("embed", cls=Verb)
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--images", required=True, help="Images, or a table, to embed; labels are kept where there are any.")
@out_option("the features: an artifact, a folder (npy) or a file (parquet, anndata)", store=True)
@click.option(
    "--format",
    "layout",
    type=click.Choice(["artifact", "npy", "parquet", "anndata"]),
    default="artifact",
    show_default=True,
    help="artifact: what --train and --test of the probes take; npy, parquet: for other tools; anndata: a copy of a "
    "table's .h5ad with obsm['X_METHOD'].",
)
@click.option(
    "--shard-size",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Images a shard of an artifact, the unit of resuming; a multiple of 1,024 is read without a copy.",
)
@no_cache_option
@overwrite_option
@json_option
def embed(run: Path, images: str, out: Path, layout: Any, shard_size: int, overwrite: bool, as_json: bool) -> None:
    """Write backbone features and projections of every image; rerun to resume.

    Example: semaug eval embed run/ --images photos/ --out features.zarr
    """
    from semaug.studies.protocols.features import Embedder

    with progress() as bar:
        embedder = Embedder(run, pick_device(), settings().workers, keep_features(), bar)
        found = embedder.embed_to(images, out, layout=layout, shard_size=shard_size, overwrite=overwrite)
    for text in found.notes:
        note(f"Note: {text}")
    emit({"out": str(out), "format": layout, **found.describe()}, as_json)
    if layout == "artifact":
        finish(found.summary)
    else:
        finish_protocol(run / "eval", [found.summary])
