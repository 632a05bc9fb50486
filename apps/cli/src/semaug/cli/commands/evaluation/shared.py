"""What the verbs of ``semaug eval`` share: their options, the features of a run, and how results are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from semaug.cli.console import SKIPPED_SOME, emit, json_option, note, pick_device, progress, settings

SOURCES = {"bank": "train", "test": "test", "images": "images"}
"""A verb's parameter that names images -> its role in the results."""
_SPREAD = ("_std", "_interval_low", "_interval_high")


_NO_CACHE = "semaug.no_cache"


def _store_no_cache(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[_NO_CACHE] = value


no_cache_option = click.option(
    "--no-cache",
    is_flag=True,
    expose_value=False,
    callback=_store_no_cache,
    help="Neither keep features below RUN/eval/features nor use those kept there.",
)
"""Read by ``keep_features``; it is no parameter of the verb."""


def protocol_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every protocol takes."""
    for option in (
        no_cache_option,
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of splits, folds and draws."),
        click.option("--out", type=click.Path(path_type=Path), help="Where to write results (RUN/eval)."),
        click.option(
            "--test", required=True, help="Labelled images, or their features, to score on; classes match by name."
        ),
        click.option("--train", "bank", required=True, help="Labelled images, or their features, to fit on."),
        click.argument("run", type=click.Path(exists=True, path_type=Path)),
    ):
        function = option(function)
    return json_option(function)


def features_of(run: Path, train: str, test: str) -> tuple[Any, Any]:
    """Features of the training and the test images by the encoder of a run; either may be a features artifact."""
    bank, queries = embedded(run, train, test)
    return bank, queries


def embedded(run: Path, *specs: str) -> list[Any]:
    """Features of image sources, or what features artifacts hold, kept below the run unless ``--no-cache`` is given."""
    from semaug.studies.protocols.features import features_of_run

    with progress() as on_progress:
        return features_of_run(
            run, specs, device=pick_device(), workers=settings().workers, keep=keep_features(), on_progress=on_progress
        )


def keep_features() -> bool:
    """Whether this call may keep features below the run."""
    return not click.get_current_context().meta.get(_NO_CACHE, False)


def report(
    run: Path,
    out: Path | None,
    name: str,
    result: Any,
    features: Sequence[Any],
    as_json: bool,
    *,
    sources: Mapping[str, str] | None = None,
) -> None:
    """Write one protocol's results with what they were made on, tell its warnings, and print what is read first.

    ``sources`` maps a role to an image spec; by default the verb's ``--train``, ``--test`` and ``--images``.
    """
    from semaug.studies.evaluation import headline, measures, ran_on, write_results

    rows, folder, options = measures(result), out or run / "eval", dict(click.get_current_context().params)
    specs = {role: options[o] for o, role in SOURCES.items() if options.get(o)} if sources is None else sources
    chosen = {o: v for o, v in options.items() if o not in (*SOURCES, "run", "out", "as_json")}
    where = ran_on(run, specs, settings=chosen, device=pick_device())
    path = write_results(folder, name, rows, ran_on=where, warnings=result.warnings)
    for warning in result.warnings:
        note(f"Note: {warning}")
    emit({"results": str(path), **rows}, as_json, table_of(headline(rows)))
    finish(folder, features)


def finish(folder: Path, features: Sequence[Any]) -> None:
    """List the images that could not be read; end with exit code 3 where there are any."""
    from semaug.artifacts.store import write_skipped

    skipped = list(dict.fromkeys(s for found in features for s in found.skipped))
    write_skipped(folder / "skipped.csv", skipped)
    if skipped:
        count, first = len(skipped), skipped[0]
        note(
            f"{count} {'input was' if count == 1 else 'inputs were'} left out, listed in {folder / 'skipped.csv'} "
            f"(the first: {first.key}: {first.reason})"
        )
        click.get_current_context().exit(SKIPPED_SOME)


def table_of(rows: dict[str, Any]) -> str:
    """Aligned lines of metric, value (or why there is none) with its spread and interval, and n."""
    told_beside = {name + end for name in rows for end in _SPREAD}
    shown = {name: row for name, row in rows.items() if name not in told_beside}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {_told(name, rows)}  (n = {row['n']:,})" for name, row in shown.items())


def _told(name: str, rows: dict[str, Any]) -> str:
    if rows[name]["value"] is None:
        return str(rows[name]["reason"])
    spread, low, high = (rows.get(name + end, {}).get("value") for end in _SPREAD)
    text = f"{rows[name]['value']:.4f}"
    text += "" if spread is None else f" ± {spread:.4f}"
    return text if low is None or high is None else f"{text} [{low:.4f}, {high:.4f}]"
