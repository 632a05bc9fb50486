"""``semaug eval all``: every protocol that fits, and one report."""

from __future__ import annotations

from pathlib import Path

import click

from semaug.cli.commands.evaluation.shared import features_of, finish, protocol_options, table_of
from semaug.cli.console import Verb, emit, note, pick_device, progress


@click.command("all", cls=Verb)
@protocol_options
def everything(run: Path, bank: str, test: str, out: Path | None, seed: int, as_json: bool) -> None:
    """Linear probe, kNN and a report: curves, kNN over k and T, t-SNE of the test images."""
    from semaug.studies.evaluation import headline
    from semaug.studies.run_report import evaluate_and_report

    features = features_of(run, bank, test)
    with progress() as on_progress:
        rows, page = evaluate_and_report(
            run, out or run / "eval", *features, device=pick_device(), seed=seed, on_progress=on_progress
        )
    note(f"Report: {page}")
    emit({"report": str(page), **rows}, as_json, table_of(headline(rows)))
    finish(out or run / "eval", features)
