"""``semaug pairs compare``."""

from __future__ import annotations

from pathlib import Path

import click

from semaug.cli.console import Place, Verb, emit, json_option, note, out_option, pick_device, progress, settings

ITEMS = ("T1", "T2", "T3", "T4", "T5", "Fig4", "Fig5")
SCALES = ("tiny", "smoke", "small", "paper")


@click.command("compare", cls=Verb)
@click.argument("pairs", type=Place(exists=True, path_type=Path))
@click.option("--images", required=True, help="The images of the pairs.")
@click.option("--train", help="Labelled images that a probe learns from (--images).")
@click.option("--test", required=True, help="Labelled images that it is scored on.")
@click.option("--other", help="The images that T2 compares with, say Tiny-ImageNet.")
@click.option(
    "--item", type=click.Choice(ITEMS), default="T1", show_default=True, help="A table or figure of the paper."
)
@click.option("--only", multiple=True, help="One of its settings, say '200 epochs' (repeatable; all).")
@click.option("--scale", type=click.Choice(SCALES), default="smoke", show_default=True, help="How large.")
@click.option("--controls/--no-controls", default=True, help="Also train the controls (yes).")
@out_option("runs, report.html and results.json")
@json_option
def compare(
    pairs: Path, images: str, train: str | None, test: str, other: str | None, item: str, only: tuple[str, ...],
    scale: str, controls: bool, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Train on PAIRS and on augmented pairs of the same images, like for like, and report the gains.

    All arms share seeds, first weights and steps. Stopped, the same command goes on.

    Example: semaug pairs compare pairs.zarr --images photos/ --test test/ --item T1 --scale smoke --out study/
    """
    from semaug.pairs_dataset.pair_table import PairTable
    from semaug.studies.semantic_pairs_study import PairStudy, pair_items, pair_scales, run_pair_study

    study = PairStudy(
        pair_items()[item], pair_scales()[scale], images, train or images, test, other, controls, only, pick_device()
    )
    with progress() as bar:
        result = run_pair_study(study, PairTable.open(pairs), out, workers=settings().workers, on_progress=bar)
    first = study.item.arms[0]
    gains = {
        cell.cell.name: {f"{first} - {arm}": round(100 * gain.mean, 2) for arm, gain in cell.gains.items()}
        for cell in result.cells
    }
    emit({"report": str(result.report), "metric": result.cells[0].metric, "points": gains}, as_json)
    if result.failed:
        note(f"{len(result.failed)} runs failed, the first: {result.failed[0]}")
        click.get_current_context().exit(1)
