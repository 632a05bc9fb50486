"""``semaug eval knn`` and ``linear``: probes of frozen features."""

from __future__ import annotations

from pathlib import Path

import click

from semaug.cli.commands.evaluation.shared import features_of, protocol_options, report
from semaug.cli.console import Verb, pick_device, progress


@click.command("knn", cls=Verb)
@protocol_options
@click.option(
    "--exclude-self",
    is_flag=True,
    help="Leave a query's own image out of the bank (--train and --test of the same images).",
)
def knn(run: Path, bank: str, test: str, out: Path | None, seed: int, as_json: bool, exclude_self: bool) -> None:
    """Weighted kNN over k and temperature, backbone and projector; k and T chosen on a split of --train."""
    from semaug.studies.evaluation import content_of, run_knn

    if exclude_self and content_of(bank, run)["source"] != content_of(test, run)["source"]:
        raise click.UsageError(f"--exclude-self knows images by key, and {bank} and {test} are different images")
    features = features_of(run, bank, test)
    result = run_knn(*features, exclude_self=exclude_self, device=pick_device(), seed=seed)
    report(run, out, "knn", result, features, as_json)


@click.command("linear", cls=Verb)
@protocol_options
@click.option("--solver", type=click.Choice(["lbfgs", "sgd"]), default="lbfgs", show_default=True, help="How to fit.")
def linear(run: Path, bank: str, test: str, out: Path | None, seed: int, as_json: bool, solver: str) -> None:
    """Linear probe on frozen features; the penalty or rate is chosen on a split of --train."""
    from semaug.studies.evaluation import run_linear

    features = features_of(run, bank, test)
    with progress() as on_progress:
        result = run_linear(*features, solver=solver, device=pick_device(), seed=seed, on_progress=on_progress)
    report(run, out, "linear", result, features, as_json)
