"""``semaug pairs propose``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from semaug.cli.console import (
    Place,
    Verb,
    emit,
    finish,
    json_option,
    note,
    out_option,
    overwrite_option,
    pick_device,
    progress,
)
from semaug.cli.engines import engine_options, shard_workers

ARTIFACT = Place(exists=True)


@click.command("propose", cls=Verb)
@click.argument("folder")
@out_option("the proposals (a pair artifact)", store=True)
@click.option("--guidance", type=ARTIFACT, help="Where the objects are (without it, in the centre of each image).")
@click.option("--quality", type=ARTIFACT, help="Quality scores (without it, they are computed on the way).")
@click.option("--encoder", help="A run, or timm:NAME, that compares objects and contexts (colour and texture do).")
@click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="The file of timm's weights.")
@click.option("--size", type=click.IntRange(8), help="Pixels a side of the regions it sees (the run's, or 96).")
@click.option("--descriptors", type=Place(path_type=Path), help="Where descriptors are kept and reused (beside --out).")
@click.option("--per-class", type=click.IntRange(1), default=157, show_default=True, help="Pairs a class at most.")
@click.option("--uses", type=click.IntRange(1), default=1, show_default=True, help="Pairs an image at most.")
@click.option(
    "--min-similarity", type=click.FloatRange(0, 1, max_open=True), default=0.5, show_default=True,
    help="Share of random pairs of the class whose objects must be less alike.",
)  # fmt: skip
@click.option("--similarity", type=click.FloatRange(0), default=1.0, show_default=True, help="Weight: objects alike.")
@click.option("--context", type=click.FloatRange(0), default=1.0, show_default=True, help="Weight: other background.")
@click.option("--illumination", type=click.FloatRange(0), default=0.25, show_default=True, help="Weight: other light.")
@click.option("--scale", type=click.FloatRange(0), default=0.25, show_default=True, help="Weight: other object size.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws random pairs, which scores are scaled by.")
@engine_options
@overwrite_option
@json_option
def propose(
    folder: str, out: Path, guidance: str | None, quality: str | None, encoder: str | None, weights: str | None,
    size: int | None, descriptors: Path | None, per_class: int, uses: int, min_similarity: float, seed: int,
    overwrite: bool, as_json: bool, **parts: Any,
) -> None:  # fmt: skip
    """Rank pairs of images of each class in FOLDER: the same object, another context; then choose the best.

    Descriptors of the images are made once and kept, so that another --per-class or weight takes seconds.

    Example: semaug pairs propose photos/ --guidance guidance.zarr --out proposals.zarr
    """
    from semaug.pairs_dataset.proposals import ProposalRule
    from semaug.studies.proposing import EncoderChoice
    from semaug.studies.proposing import propose as run

    rule = ProposalRule(per_class, uses, min_similarity=min_similarity, **parts)
    choice = EncoderChoice(encoder, weights, size, pick_device() if encoder else "cpu")
    with progress() as bar, shard_workers() as workers:
        made = run(
            folder, out, guidance=guidance, quality=quality, encoder=choice, descriptors=descriptors, rule=rule,
            seed=seed, workers=workers, overwrite=overwrite, on_progress=bar,
        )  # fmt: skip
    result = _result(made, out)
    short = [row.name for row in made.proposals.counts if row.proposed < per_class]
    emit({**result, "short": len(short)}, as_json)
    if short:
        note(f"{len(short)} classes have fewer than {per_class} pairs, {short[0]} first; add images, or raise --uses")
    finish(made.described)


def _result(made: Any, out: Path) -> dict[str, Any]:
    """What is reported: which features ranked the pairs, and the counts."""
    counts = made.proposals.counts
    return {
        "out": str(out),
        "descriptors": str(made.described.path),
        "features": made.proposals.features,
        "images": sum(row.images for row in counts),
        "objects_found": made.found,
        "pairs": len(made.proposals.rows),
        "classes": {row.name: {"images": row.images, "pairs": row.proposed} for row in counts},
    }
