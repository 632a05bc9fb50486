"""``semaug eval svm``, ``kmeans``, ``fewshot`` and ``semi``: classical probes of frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from semaug.cli.commands.evaluation.shared import features_of, protocol_options, report
from semaug.cli.console import Verb, pick_device, progress, settings


@click.command("svm", cls=Verb)
@protocol_options
@click.option(
    "--kernel", type=click.Choice(["linear", "rbf"]), default="linear", show_default=True,
    help="rbf is the form of DiffAug's public code.",
)  # fmt: skip
@click.option("--folds", type=int, help="Folds of --train (linear: 10, rbf: 5; 0 leaves them out).")
def svm(
    run: Path, bank: str, test: str, out: Path | None, seed: int, as_json: bool, kernel: str, folds: int | None
) -> None:
    """Support vector machine: fitted on --train and scored on --test, and over stratified folds of --train.

    Example: semaug eval svm run/ --train photos/train --test photos/test
    """
    from semaug.studies.protocols.probes import run_svm, trained_on

    features, seen = features_of(run, bank, test), trained_on(run, bank)
    with progress() as on_progress:
        result = run_svm(
            *features, kernel=kernel, folds=folds, transductive=seen, seed=seed, on_progress=on_progress
        )  # fmt: skip
    report(run, out, "svm", result, features, as_json)


@click.command("kmeans", cls=Verb)
@protocol_options
@click.option("--clusters", type=int, help="Number of clusters (the number of classes).")
@click.option("--repetitions", type=int, help="Runs of other seeds, for the spread (5).")
@click.option("--normalise", is_flag=True, help="Scale features to length 1 first.")
@click.option("--transductive", is_flag=True, help="Cluster and score all images of --train and --test at once.")
def kmeans(
    run: Path,
    bank: str,
    test: str,
    out: Path | None,
    seed: int,
    as_json: bool,
    clusters: int | None,
    repetitions: int | None,
    normalise: bool,
    transductive: bool,
) -> None:
    """k-means, backbone and projector: centres of --train, Hungarian accuracy, NMI and ARI of --test.

    Example: semaug eval kmeans run/ --train photos/train --test photos/test
    """
    from semaug.studies.protocols.probes import run_kmeans

    features = features_of(run, bank, test)
    with progress() as on_progress:
        result = run_kmeans(
            *features, clusters=clusters, repetitions=repetitions, normalise=normalise, transductive=transductive,
            seed=seed, on_progress=on_progress,
        )  # fmt: skip
    report(run, out, "kmeans", result, features, as_json)


@click.command("fewshot", cls=Verb)
@protocol_options
@click.option("--shots", type=int, multiple=True, help="Training images a class, again for more (1, 5, 20).")
@click.option("--ways", type=int, help="Classes an episode (all of them).")
@click.option("--episodes", type=int, help="How many draws (100).")
@click.option("--queries", type=int, help="At most so many test images a class and episode (100; 0: all).")
def fewshot(
    run: Path,
    bank: str,
    test: str,
    out: Path | None,
    seed: int,
    as_json: bool,
    shots: tuple[int, ...],
    ways: int | None,
    episodes: int | None,
    queries: int | None,
) -> None:
    """Few-shot episodes: support from --train, queries from --test; logistic regression and nearest class mean.

    Example: semaug eval fewshot run/ --train photos/train --test photos/test --shots 1 --shots 5
    """
    from semaug.studies.protocols.probes import run_fewshot

    features = features_of(run, bank, test)
    with progress() as on_progress:
        result = run_fewshot(
            *features, shots=shots, ways=ways, episodes=episodes, queries=queries, device=pick_device(), seed=seed,
            on_progress=on_progress,
        )  # fmt: skip
    report(run, out, "fewshot", result, features, as_json)


@click.command("semi", cls=Verb)
@protocol_options
@click.option("--share", "shares", type=float, multiple=True, help="Share of the labels, again for more (0.01, 0.1).")
@click.option("--draws", type=int, help="Draws of each share, for the spread (frozen: 5, fine-tuned: 3).")
@click.option(
    "--frozen/--finetune", "frozen", default=True, show_default=True,
    help="A linear probe of the frozen backbone, or train all of it (writes semi-finetune.json).",
)  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), help="Epochs of each fine-tuning (60).")
def semi(
    run: Path,
    bank: str,
    test: str,
    out: Path | None,
    seed: int,
    as_json: bool,
    shares: tuple[float, ...],
    draws: int | None,
    frozen: bool,
    epochs: int | None,
) -> None:
    """Few labels: a share of --train's, drawn class by class; the backbone stays frozen or is trained too.

    Example: semaug eval semi run/ --train photos/train --test photos/test --share 0.01 --finetune
    """
    if not frozen:
        result, features = _finetuned(run, bank, test, out, seed, shares, draws, epochs)
        report(run, out, "semi-finetune", result, features, as_json)
        return
    if epochs is not None:
        raise click.UsageError(f"--epochs {epochs} is for --finetune; the frozen form solves to the optimum")
    from semaug.studies.protocols.probes import run_semi

    features = features_of(run, bank, test)
    with progress() as on_progress:
        result = run_semi(
            *features, shares=shares, draws=draws, device=pick_device(), seed=seed, on_progress=on_progress
        )
    report(run, out, "semi", result, features, as_json)


def _finetuned(
    run: Path,
    bank: str,
    test: str,
    out: Path | None,
    seed: int,
    shares: tuple[float, ...],
    draws: int | None,
    epochs: int | None,
) -> tuple[Any, Sequence[Any]]:
    """The fine-tuned form's result, and the images it is of."""
    from semaug.eval.probes.semi import SHARES
    from semaug.studies.protocols.training import finetune_settings, semi_finetuned

    recipe = finetune_settings(run, "few-labels", epochs=epochs)
    with progress() as on_progress:
        done = semi_finetuned(
            run, bank, test, recipe, shares=shares or SHARES, draws=3 if draws is None else draws, seed=seed, out=out,
            device=pick_device(), workers=settings().workers, on_progress=on_progress,
        )  # fmt: skip
    return done.result, done.images
