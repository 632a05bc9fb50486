"""``semaug quality``: score images, and report how they are routed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semaug.cli.console import (
    Place,
    VerbGroup,
    emit,
    finish,
    json_option,
    out_option,
    overwrite_option,
    progress,
)
from semaug.cli.engines import engine_options, shard_workers

if TYPE_CHECKING:
    from semaug.quality_policy import RoutingPolicy, Scoring

PRESET_NAMES = ("default", "res", "cla", "loose", "strict", "var", "t10_res", "t10_cla")
RESOLUTION_NAMES = ("log32-512", "lin224", "area224", "dataset")
CLARITY_NAMES = ("half500", "half100", "lin1000", "log1e4", "dataset")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _stack(*options: Decorator) -> Decorator:
    def add(verb: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            verb = option(verb)
        return verb

    return add


scoring_options = _stack(
    click.option("--preset", type=click.Choice(PRESET_NAMES), help="Weights and thresholds of Tables 10 and 11."),
    click.option("--weights", type=float, nargs=3, metavar="R C D", help="Weights of R, C and D; they sum to 1."),
    click.option("--renormalise", is_flag=True, help="Divide --weights by their sum."),
    click.option("--resolution", type=click.Choice(RESOLUTION_NAMES), help="Normaliser of R (log32-512)."),
    click.option("--clarity", type=click.Choice(CLARITY_NAMES), help="Normaliser of C (half500)."),
    click.option("--diversity", type=click.Choice(("entropy", "dataset")), help="Normaliser of D (entropy / 8)."),
    click.option(
        "--normaliser",
        type=click.Choice(("absolute", "dataset")),
        help="dataset: fit R, C and D between the set's 5th and 95th percentiles.",
    ),
    click.option("--entropy-floor", type=click.FloatRange(0, 8, max_open=True), help="Bits of entropy where D is 0."),
)
policy_options = _stack(
    click.option(
        "--policy",
        type=click.Choice(("threshold", "soft", "soft-argmax")),
        default="soft",
        show_default=True,
        help="How a score becomes a scale.",
    ),
    click.option("--t-low", type=float, help="Below it: boxes (0.35)."),
    click.option("--t-high", type=float, help="Above it: boxes and masks (0.65)."),
    click.option("--temperature", type=float, default=0.05, show_default=True, help="Of the soft policy."),
    click.option("--small-side", type=click.IntRange(0), default=64, show_default=True, help="Up to it: boxes."),
    click.option("--small-exclusive", is_flag=True, help="An image of exactly --small-side is not small."),
    click.option(
        "--granularity",
        type=click.Choice(("auto", "object", "pixel", "hybrid")),
        default="auto",
        show_default=True,
        help="Send every image one way.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the soft policy's draws."),
)


@click.group(cls=VerbGroup)
def group() -> None:
    """Score image quality and report how images are routed.

    Q weighs resolution R, clarity C and diversity D; a policy turns Q into object, pixel or hybrid guidance.
    """


@group.command()
@click.argument("source")
@out_option("the scores", store=True)
@scoring_options
@policy_options
@click.option("--shard-size", type=click.IntRange(1), default=1024, show_default=True, help="Images a shard.")
@engine_options
@overwrite_option
@json_option
def score(source: str, out: Path, shard_size: int, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Score every image of SOURCE, as it is, before any resize.

    Example: semaug quality score photos/ --out quality.zarr
    """
    from semaug.artifacts.sources import open_source
    from semaug.quality_policy import QualityTable, score_source

    scoring, policy = _scoring(options), _policy(options)
    with progress() as bar, shard_workers() as workers:
        summary = score_source(
            open_source(source),
            out,
            scoring=scoring,
            workers=workers,
            shard_size=shard_size,
            overwrite=overwrite,
            on_progress=bar,
        )
    _emit_report(QualityTable.open(out), policy, as_json, {"out": str(out), **_costs(summary.costs)})
    finish(summary)


@group.command()
@click.argument("quality", type=Place(exists=True, file_okay=False, path_type=Path))
@scoring_options
@policy_options
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path), help="Write one row an image too.")
@json_option
def report(quality: Path, csv_file: Path | None, as_json: bool, **options: Any) -> None:
    """Report the scores in QUALITY: counts, routes, quantiles. Other weights or normalisers read no image again.

    Example: semaug quality report quality.zarr --policy threshold --csv scores.csv
    """
    from semaug.artifacts.files import writing
    from semaug.quality_policy import QualityTable, write_csv

    policy = _policy(options)
    table = QualityTable.open(quality)
    if _rescores(options):
        table = table.rescored(_scoring(options))
    if csv_file is not None:
        with writing(csv_file), csv_file.open("w", newline="") as file:
            write_csv(table, policy, file)
    _emit_report(table, policy, as_json, {"csv": str(csv_file)} if csv_file else {})


def _rescores(options: Mapping[str, Any]) -> bool:
    names = ("preset", "weights", "resolution", "clarity", "diversity", "normaliser", "entropy_floor")
    return any(options[name] is not None and options[name] != () for name in names)


def _scoring(options: Mapping[str, Any]) -> Scoring:
    from semaug.quality_policy import Scoring, Weights, find_preset

    weights = find_preset(options["preset"] or "default").weights
    if options["weights"]:
        weights = (Weights.renormalised if options["renormalise"] else Weights)(*options["weights"])
    fitted = options["normaliser"] == "dataset"
    return Scoring(
        weights,
        options["resolution"] or ("dataset" if fitted else "log32-512"),
        options["clarity"] or ("dataset" if fitted else "half500"),
        options["diversity"] or ("dataset" if fitted else "entropy"),
        options["entropy_floor"] or 0.0,
    )


def _policy(options: Mapping[str, Any]) -> RoutingPolicy:
    from semaug.quality_policy import SmallSideRule, Thresholds, find_preset, make_policy

    preset = find_preset(options["preset"] or "default").thresholds
    low = preset.t_low if options["t_low"] is None else options["t_low"]
    high = preset.t_high if options["t_high"] is None else options["t_high"]
    return make_policy(
        options["policy"],
        thresholds=Thresholds(low, high),
        small=SmallSideRule(options["small_side"], not options["small_exclusive"]),
        granularity=options["granularity"],
        temperature=options["temperature"],
        seed=options["seed"],
    )


def _costs(costs: Any) -> dict[str, Any]:
    return {"seconds_per_1000": costs.seconds_per_1000, "peak_memory": costs.peak_memory}


def _emit_report(table: Any, policy: RoutingPolicy, as_json: bool, extra: Mapping[str, Any]) -> None:
    from semaug.quality_policy import quality_report

    result = {**quality_report(table, policy), **extra}
    emit(result, as_json, None if as_json else _text(result))


def _text(result: Mapping[str, Any]) -> str:
    lines = [f"{result['n']} images scored, {result['skipped']} skipped", "", f"routes ({result['policy']['policy']})"]
    for scale, count in result["routing"].items():
        share = count / result["n"] if result["n"] else 0.0
        lines.append(f"  {scale:<8} {count:>8} {share:>7.1%}  {'#' * round(40 * share)}".rstrip())
    if result["quantiles"]:
        names = list(next(iter(result["quantiles"].values())))
        lines += ["", f"{'quantile':<12}" + "".join(f"{name:>8}" for name in names)]
        for name, row in result["quantiles"].items():
            lines.append(f"{name:<12}" + "".join(f"{value:>8.3f}" for value in row.values()))
    if "seconds_per_1000" in result:
        lines += ["", f"{result['seconds_per_1000']:.2f} s per 1,000 images, written to {result['out']}"]
    if "csv" in result:
        lines += ["", f"one row an image in {result['csv']}"]
    return "\n".join(lines)
