"""``semaug eval``: protocols over the frozen features of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from semaug.cli.console import SKIPPED_SOME, VerbGroup, emit, json_option, note, pick_device, progress, settings


@click.group(cls=VerbGroup)
def group() -> None:
    """Evaluate the encoder of a run on labelled images."""


def protocol_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every protocol takes."""
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of the selection split."),
        click.option("--out", type=click.Path(path_type=Path), help="Where to write results (RUN/eval)."),
        click.option("--test", required=True, help="Labelled images to score on; classes are matched by name."),
        click.option("--train", "bank", required=True, help="Labelled images to fit on."),
        click.argument("run", type=click.Path(exists=True, path_type=Path)),
    ):
        function = option(function)
    return json_option(function)


@group.command("knn")
@protocol_options
@click.option(
    "--exclude-self",
    is_flag=True,
    help="Leave a query's own image out of the bank (--train and --test of the same images).",
)
def knn(run: Path, bank: str, test: str, out: Path | None, seed: int, as_json: bool, exclude_self: bool) -> None:
    """Weighted kNN over k and temperature, backbone and projector; k and T chosen on a split of --train."""
    from semaug.artifacts.sources import open_source
    from semaug.studies.evaluation import run_knn

    if exclude_self and open_source(bank).fingerprint != open_source(test).fingerprint:
        raise click.UsageError(f"--exclude-self knows images by key, and {bank} and {test} are different images")
    features = _features(run, bank, test)
    result = run_knn(*features, exclude_self=exclude_self, device=pick_device(), seed=seed)
    _report(run, out, "knn", result, features, as_json)


@group.command("linear")
@protocol_options
@click.option("--solver", type=click.Choice(["lbfgs", "sgd"]), default="lbfgs", show_default=True, help="How to fit.")
def linear(run: Path, bank: str, test: str, out: Path | None, seed: int, as_json: bool, solver: str) -> None:
    """Linear probe on frozen features; the penalty or rate is chosen on a split of --train."""
    from semaug.studies.evaluation import run_linear

    features = _features(run, bank, test)
    with progress() as on_progress:
        result = run_linear(*features, solver=solver, device=pick_device(), seed=seed, on_progress=on_progress)
    _report(run, out, "linear", result, features, as_json)


@group.command("all")
@protocol_options
def everything(run: Path, bank: str, test: str, out: Path | None, seed: int, as_json: bool) -> None:
    """Linear probe, kNN and a report: curves, kNN over k and T, t-SNE of the test images."""
    from semaug.studies.evaluation import headline
    from semaug.studies.run_report import evaluate_and_report

    features = _features(run, bank, test)
    with progress() as on_progress:
        rows, page = evaluate_and_report(
            run, out or run / "eval", *features, device=pick_device(), seed=seed, on_progress=on_progress
        )
    note(f"Report: {page}")
    emit({"report": str(page), **rows}, as_json, _table(headline(rows)))
    _finish(out or run / "eval", features)


def _features(run: Path, train: str, test: str) -> tuple[Any, Any]:
    from semaug.artifacts.sources import open_source
    from semaug.studies.assemble import embed_run

    sources = [open_source(spec) for spec in (train, test)]
    with progress() as on_progress:
        found = [
            embed_run(run, s, device=pick_device(), workers=settings().workers, on_progress=on_progress)
            for s in sources
        ]
    return found[0], found[1]


def _report(run: Path, out: Path | None, name: str, result: Any, features: Sequence[Any], as_json: bool) -> None:
    from semaug.studies.evaluation import headline, measures, write_results

    rows, folder = measures(result), out or run / "eval"
    path = write_results(folder, name, rows)
    for warning in result.warnings:
        note(f"Note: {warning}")
    emit({"results": str(path), **rows}, as_json, _table(headline(rows)))
    _finish(folder, features)


def _finish(folder: Path, features: Sequence[Any]) -> None:
    """List the images that could not be read; end with exit code 3 where there are any."""
    from semaug.artifacts.store import write_skipped

    skipped = list(dict.fromkeys(s for found in features for s in found.skipped))
    write_skipped(folder / "skipped.csv", skipped)
    if skipped:
        count, first = len(skipped), skipped[0]
        note(
            f"{count} {'image was' if count == 1 else 'images were'} left out, listed in {folder / 'skipped.csv'} "
            f"(the first: {first.key}: {first.reason})"
        )
        click.get_current_context().exit(SKIPPED_SOME)


def _table(rows: dict[str, Any]) -> str:
    width = max(map(len, rows), default=0)
    lines = []
    for name, row in rows.items():
        value = row["reason"] if row["value"] is None else f"{row['value']:.4f}"
        lines.append(f"{name.ljust(width)}  {value}  (n = {row['n']:,})")
    return "\n".join(lines)
