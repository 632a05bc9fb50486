"""``semaug pairs build|check|export|import``: sets of pairs as artifacts and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from semaug.cli.console import Verb, emit, json_option, out_option, overwrite_option

PAIRS = click.Path(exists=True, path_type=Path)
FORMATS = ("jsonl", "csv")
FORM_NAMES = ("proposals", "semantic", "augmented", "all-images", "random-same-class")


@click.command("export", cls=Verb)
@click.argument("pairs", type=PAIRS)
@click.option(
    "--format", "layout", type=click.Choice(FORMATS), default="jsonl", show_default=True, help="Of what is written."
)
@out_option("the file", file=True)
@json_option
def export(pairs: Path, layout: Any, out: Path, as_json: bool) -> None:
    """Write PAIRS (an artifact or a file of pairs) as JSON lines or CSV, one line a pair.

    Example: semaug pairs export pairs.zarr --format csv --out pairs.csv
    """
    from semaug.pairs_dataset.pair_exchange import write_pair_file
    from semaug.pairs_dataset.pair_table import PairTable

    count = write_pair_file(PairTable.open(pairs).rows, out, layout)
    emit({"out": str(out), "format": layout, "pairs": count}, as_json)


@click.command("import", cls=Verb)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--images", help="The images of the pairs: their fingerprint is kept, and unknown keys are counted.")
@click.option(
    "--form", type=click.Choice(FORM_NAMES), default="semantic", show_default=True, help="What the set of pairs is."
)
@out_option("the pair artifact")
@overwrite_option
@json_option
def import_(file: Path, images: str | None, form: Any, out: Path, overwrite: bool, as_json: bool) -> None:
    """Turn FILE (.jsonl or .csv with at least class, image_a and image_b) into a pair artifact.

    Example: semaug pairs import pairs.csv --images photos --out pairs.zarr
    """
    from semaug.artifacts.sources import open_source
    from semaug.pairs_dataset.pair_table import import_pairs

    source = open_source(images) if images else None
    summary, missing = import_pairs(file, out, source=source, form=form, overwrite=overwrite)
    info = summary.manifest.info
    result = {"out": str(out), "pairs": summary.manifest.items, "classes": info["classes"], "images": info["images"]}
    emit(result | ({"images_missing": missing} if source is not None else {}), as_json)
