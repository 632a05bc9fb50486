"""``semaug study``: every table and figure of the papers as a study that runs here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semaug.cli.console import VerbGroup, emit, json_option, note, out_option, progress, settings
from semaug.cli.engines import engine_options, pick_devices, shard_workers

if TYPE_CHECKING:
    from semaug.studies.study.availability import Available

SHORT = {"sdi": "P0", "sasi": "P1", "semantic-pairs": "P2", "diffaug": "P4", "own": "own"}
SCALES = ("tiny", "smoke", "small", "paper")
DATA_HELP = "Fill a data role, as ROLE.train=SPEC or ROLE.test=SPEC (repeatable)."
WEIGHTS_HELP = "Fill a model's role, as ROLE=FOLDER or ROLE=HUB-ID (repeatable)."
MADE_HELP = "Take an artifact that is there, as NAME=PATH, or ROLE/NAME=PATH for other data than main (repeatable)."
NOTE_HELP = "What the models behind an artifact were trained on, as NAME=TEXT, for the report (repeatable)."
GUIDANCE_HELP = "Compare crops guided by this artifact too, as PATH or NAME=PATH (compare only; repeatable)."
root_option = click.option(
    "--data-root", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder in which known data sets lie under their names ($SEMAUG_DATA).",
)  # fmt: skip


@click.group(cls=VerbGroup)
def group() -> None:
    """Run the papers' tables and figures: variants against controls, like for like, beside the printed numbers.

    A study is a preset at a scale: tiny proves the wiring, smoke takes minutes, small a GPU's half hour a run, paper is
    the paper's own setting. Its folder can be stopped, gone on with and reported at any time.
    """


@group.command("list")
@click.option("--paper", type=click.Choice(tuple(SHORT)), help="Only the studies of one paper.")
@root_option
@json_option
def list_(paper: str | None, data_root: Path | None, as_json: bool) -> None:
    """Name the studies by paper, the scales that can run here, and what the others lack.

    Example: semaug study list --paper sasi
    """
    from semaug.studies.study.availability import list_studies

    found = list_studies(SHORT[paper] if paper else None, data_root)
    rows = [one.describe() for one in found]
    emit({"studies": rows}, as_json, _listed(found))


def _listed(found: Sequence[Available]) -> str:
    """By paper: each study, the scales that can run, and what the others lack; then how to give what is lacking."""
    from semaug.studies.study.paper import PAPERS

    lines, remedies = [], dict.fromkeys(line for one in found for rows in one.missing.values() for line in rows)
    for paper, title in PAPERS.items():
        own = [one for one in found if one.preset.paper == paper]
        width = max((len(one.preset.name) for one in own), default=0)
        lines += [title, *(line for one in own for line in _row(one, width))] if own else []
    lines += ["", "What is lacking", *(f"  {line}" for line in remedies)] if remedies else []
    return "\n".join(
        [*lines, "", "`semaug study show NAME` tells what a study is, how long it takes, and its command."]
    )


def _row(one: Available, width: int) -> list[str]:
    lacks = dict.fromkeys(line.split(": ")[0] for rows in one.missing.values() for line in rows)
    others = " and ".join(scale for scale, rows in one.missing.items() if rows)
    lines = [f"  {one.preset.name:<{width}}  {one.preset.title}: {', '.join(one.runs_at) or 'none'} can run"]
    return [*lines, f"  {'':<{width}}  {others} lack {', '.join(lacks)}"] if lacks else lines


@group.command()
@click.argument("name")
@root_option
@json_option
def show(name: str, data_root: Path | None, as_json: bool) -> None:
    """Say what the study NAME compares, how long each scale takes, what it should score, and what it lacks here.

    Example: semaug study show sasi-table-1
    """
    from semaug.studies.study.availability import available
    from semaug.studies.study.catalogue import printed_cells

    found = available(name, data_root=data_root)
    preset = found.preset
    if not as_json:
        click.echo(_shown(found))
        return
    cells = {" | ".join(place): cell.text for place, cell in printed_cells(preset).items()}
    about = found.describe() | {
        "text": preset.text,
        "scales": {scale: sized.text for scale, sized in preset.scales.items()},
        "settings": list(preset.settings),
        "variants": {variant: v.title or v.pairs for variant, v in preset.variants.items()},
        "controls": [variant for variant, v in preset.variants.items() if v.control],
        "artifacts": {made: a.kind for made, a in preset.artifacts.items()},
        "data": {role: d.wants for role, d in preset.data.items()},
        "evaluations": list(preset.evaluations),
        "printed": cells,
    }
    emit(about, as_json)


def _shown(found: Available) -> str:
    """A study as a person reads it."""
    preset = found.preset
    lines = [f"{preset.name}: {preset.title}", "", preset.text.strip(), ""]
    for title, rows in (
        ("settings", {name: s.title or (s.method or preset.method) for name, s in preset.settings.items()}),
        ("variants", {name: (v.title or v.pairs) + (" (control)" * v.control) for name, v in preset.variants.items()}),
        ("data", {role: d.wants for role, d in preset.data.items()}),
        ("scales", {scale: sized.text for scale, sized in preset.scales.items()}),
    ):
        width = max((len(name) for name in rows), default=0)
        lines += [title, *(f"  {name:<{width}}  {text}" for name, text in rows.items())] if rows else []
    for scale, lacks in found.missing.items():
        lines += [f"{scale} lacks", *(f"  {line}" for line in lacks)] if lacks else []
    return "\n".join(lines)


@group.command()
@click.argument("name")
@click.option("--scale", type=click.Choice(SCALES), default="smoke", show_default=True, help="How large.")
@click.option("--train", help="Training images of the main data role.")
@click.option("--test", help="Test images of the main data role.")
@click.option("--data", "data", multiple=True, metavar="ROLE.SPLIT=SPEC", help=DATA_HELP)
@click.option("--weights", multiple=True, metavar="ROLE=MODEL", help=WEIGHTS_HELP)
@click.option("--artifact", "made", multiple=True, metavar="NAME=PATH", help=MADE_HELP)
@click.option("--guidance", multiple=True, metavar="[NAME=]PATH", help=GUIDANCE_HELP)
@click.option("--guidance-note", "notes", multiple=True, metavar="NAME=TEXT", help=NOTE_HELP)
@click.option("--method", help="The method that all variants are trained by (compare only; simclr).")
@root_option
@click.option("--seeds", type=click.IntRange(1), help="Number of paired seeds (the scale's).")
@click.option("--only", multiple=True, help="A variant to run (repeatable; all).")
@engine_options
@out_option("artifacts, runs, report.html, results.json, results.csv and results.tex")
@json_option
def run(
    name: str, scale: str, train: str | None, test: str | None, data: tuple[str, ...], weights: tuple[str, ...],
    made: tuple[str, ...], guidance: tuple[str, ...], notes: tuple[str, ...], method: str | None,
    data_root: Path | None, seeds: int | None, only: tuple[str, ...], out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Run the study NAME (or a preset's own TOML file). Stopped, the same command goes on; what is done is reused.

    --device takes several, as cuda:0,cuda:1, and deals the jobs out; --workers jobs run at once, here or on Ray.

    \b
    Example:
      semaug study run sasi-table-12 --scale tiny --out study/
      semaug study run compare --scale small --train FOLDER --test FOLDER --out compare/
    """
    from semaug.studies.study.completing import named_guidance
    from semaug.studies.study.running import plan_study, run_study

    given = _pairs("--data", data) | _main(train, test)
    study = plan_study(
        name, scale, out, data=given, weights=_pairs("--weights", weights), data_root=data_root, seeds=seeds, only=only,
        made=_pairs("--artifact", made), guidance=named_guidance(guidance), method=method,
        notes=_pairs("--guidance-note", notes),
    )  # fmt: skip
    devices = pick_devices().split(",")
    with shard_workers() as engine, progress() as bar:
        makers = max(1, settings().workers) if isinstance(engine, int) else engine
        workers = settings().workers or _jobs_at_once(scale, devices) if isinstance(engine, int) else engine
        done = run_study(study, workers=workers, makers=makers, devices=devices, on_progress=bar)
    _tell(done, as_json)


@group.command()
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def report(out: Path, as_json: bool) -> None:
    """Write the report of the study in OUT again, from what is there now.

    Example: semaug study report study/
    """
    from semaug.studies.study.report import write_study_report

    _tell(write_study_report(out), as_json)


def _jobs_at_once(scale: str, devices: Sequence[str]) -> int:
    """Jobs that run at once unless --workers says: two where cores are shared, but not for a few steps."""
    return min(2, os.cpu_count() or 1) if scale != "tiny" and devices == ["cpu"] else 1


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    found = dict(word.partition("=")[::2] for word in words)
    if bad := [name for name, value in found.items() if not name or not value]:
        raise click.UsageError(f"{option} {bad[0]!r} is no NAME=VALUE")
    return found


def _main(train: str | None, test: str | None) -> dict[str, str]:
    given = {"main.train": train, "main.test": test}
    return {name: spec for name, spec in given.items() if spec is not None}


def _tell(done: Any, as_json: bool) -> None:
    """The verdict and where the report is; exit code 1 where a part failed."""
    told = done.verdict.replace("**", "")
    result = {"report": str(done.report), "verdict": told, "failed": list(done.failed)}
    emit(result, as_json, f"{told}\nReport: {done.report}")
    if done.failed:
        note(f"{len(done.failed)} {'part' if len(done.failed) == 1 else 'parts'} failed, the first: {done.failed[0]}")
        click.get_current_context().exit(1)
