"""``semaug eval all``: every protocol that fits, and one report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semaug.cli.commands.evaluation.figures import picture_options
from semaug.cli.commands.evaluation.shared import finish, keep_features, protocol_options
from semaug.cli.console import Verb, emit, note, pick_device, progress, settings

if TYPE_CHECKING:
    from semaug.studies.run_report import RunReport


@click.command("all", cls=Verb)
@protocol_options
@picture_options
@click.option("--only", multiple=True, metavar="PROTOCOL", help="Run this protocol and no other; repeatable.")
@click.option("--with", "extra", multiple=True, metavar="PROTOCOL", help="Run one that trains, too; repeatable.")
@click.option("--fresh", is_flag=True, help="Run again what the folder holds already.")
def everything(
    run: Path, bank: str, test: str, out: Path | None, as_json: bool, only: tuple[str, ...], extra: tuple[str, ...],
    fresh: bool, **more: Any,
) -> None:  # fmt: skip
    """Run every protocol that fits the data, and write one report.

    A protocol that does not fit, or fails, becomes a part of the report that says why. What ran before on the same
    encoder, images and settings is taken from RUN/eval.
    """
    from semaug.studies.protocols.subject import Subject
    from semaug.studies.run_report import evaluate_run

    folder = out or run / "eval"
    with progress() as on_progress:
        subject = Subject(
            run, bank, test, device=pick_device(), workers=settings().workers, keep=keep_features(),
            on_progress=on_progress, **more,
        )  # fmt: skip
        found = evaluate_run(subject, folder, extra=extra, only=only or None, fresh=fresh)
    for outcome in found.outcomes:
        if outcome.reason:
            note(f"{outcome.title}: {outcome.state}: {outcome.reason}")
    note(f"Report: {found.page}")
    states = {outcome.name: {"state": outcome.state, "seconds": outcome.seconds} for outcome in found.outcomes}
    emit({"report": str(found.page), "protocols": states, **found.rows}, as_json, _overview(found))
    if found.failed:
        click.get_current_context().exit(1)
    finish(folder, subject.embedded)


def _overview(found: RunReport) -> str:
    """One line a protocol: its state, its time, and the measure that is read first."""
    from semaug.studies.run_page import headline_of

    width = max(len(outcome.title) for outcome in found.outcomes)
    lines = []
    for outcome in found.outcomes:
        headline = headline_of(outcome.rows)
        first = "" if headline is None else f"{headline[0]} {headline[1]:.4f}"
        time = "" if outcome.seconds is None else f"{outcome.seconds:8.1f} s"
        lines.append(f"{outcome.title.ljust(width)}  {outcome.state:<8}  {time:>10}  {first}".rstrip())
    return "\n".join(lines)
