"""``semaug pairs curate|status``: judge proposals in the browser, and say how far the judging is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semaug.cli.console import Place, Verb, emit, json_option, note

if TYPE_CHECKING:
    from semaug.pairs_dataset.curation.journal import Journal

JOURNAL = click.Path(dir_okay=False, path_type=Path)
PER_CLASS = 157


@click.command("curate", cls=Verb)
@click.argument("proposals", type=Place(exists=True, path_type=Path))
@click.option("--images", required=True, help="The images of the pairs: a folder, a packed store, any image source.")
@click.option(
    "--journal", required=True, type=JOURNAL, help="Where verdicts are kept; an existing one is gone on with."
)
@click.option("--guidance", type=Place(exists=True, path_type=Path), help="Guidance whose boxes are shown.")
@click.option(
    "--per-class", type=click.IntRange(0), default=PER_CLASS, show_default=True,
    help="A class with so many accepted pairs is done (0: judge every pair).",
)  # fmt: skip
@click.option(
    "--twice", type=click.FloatRange(0, 1), default=0.0, show_default=True,
    help="Share of the pairs that two curators judge, to measure their agreement.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the pairs that are judged twice.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="On 127.0.0.1 (0: any free).")
@click.option(
    "--token-file",
    type=JOURNAL,
    help="Keep the address's token here, so that open pages outlive a restart (with --port).",
)
@click.option(
    "--root", "roots", multiple=True, type=click.Path(exists=True, file_okay=False),
    help="A folder outside that of the images to which links may lead; repeatable.",
)  # fmt: skip
@json_option
def curate(proposals: Path, images: str, journal: Path, as_json: bool, **options: Any) -> None:
    """Serve a page on 127.0.0.1 that shows PROPOSALS pair by pair; every verdict is in the journal before the next.

    Any number of curators and tabs may judge at once. Stop with Ctrl-C and go on with the same command another day.

    Example: semaug pairs curate proposals.zarr --images photos --journal verdicts.sqlite
    """
    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.sources import open_source
    from semaug.pairs_dataset.curation.images import ShownImages
    from semaug.pairs_dataset.curation.journal import Journal
    from semaug.pairs_dataset.curation.server import Address, Desk, serve, token_in
    from semaug.pairs_dataset.pair_table import PairTable

    table, source = PairTable.open(proposals), open_source(images)
    if table.source:
        table.require_source(source.fingerprint)
    guidance = GuidanceTable.open(options["guidance"]) if options["guidance"] else None
    shown = ShownImages(source, table.images, guidance=guidance, roots=options["roots"])
    token = token_in(options["token_file"]) if options["token_file"] else ""
    address = Address.bind(options["port"], token)
    _warn(shown)
    with Journal.start(journal, table, twice=options["twice"], seed=options["seed"]) as kept:
        try:
            serve(Desk(kept, shown, options["per_class"]), address, lambda url: click.echo(f"Open {url}", err=True))
        except KeyboardInterrupt:
            note("Stopped. Every verdict is kept; run the same command to go on.")
        result = _status(kept, options["per_class"])
    emit({"journal": str(journal), **result}, as_json, None if as_json else _text(result))


def _warn(shown: Any) -> None:
    if shown.missing:
        note(f"{shown.missing} images of the pairs are not among these images; their pairs cannot be accepted")
    if outside := shown.outside():
        note(f"{len(outside)} images are links out of their folder and are not shown ({outside[0]}); see --root")


@click.command("status", cls=Verb)
@click.argument("journal", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--per-class",
    type=click.IntRange(0),
    default=PER_CLASS,
    show_default=True,
    help="Accepted pairs wanted of a class.",
)
@json_option
def status(journal: Path, per_class: int, as_json: bool) -> None:
    """Say how far the judging in JOURNAL is, and how far curators agree.

    Example: semaug pairs status verdicts.sqlite
    """
    from semaug.pairs_dataset.curation.journal import Journal

    with Journal(journal) as kept:
        result = _status(kept, per_class)
    emit({"journal": str(journal), **result}, as_json, None if as_json else _text(result))


def _status(journal: Journal, per_class: int) -> dict[str, Any]:
    from dataclasses import asdict

    from semaug.pairs_dataset.curation.agreement import agreements
    from semaug.pairs_dataset.curation.progress import summarise

    classes = journal.progress()
    return {
        "total": asdict(summarise(classes, per_class)),
        "classes": [asdict(row) for row in classes],
        "agreement": [asdict(row) for row in agreements(journal.judgements())],
    }


def _text(result: Mapping[str, Any]) -> str:
    total = result["total"]
    lines = [
        f"{total['accepted']} of {total['goal']} pairs accepted, {total['judged']} of {total['pairs']} judged, "
        f"{total['waiting']} wait for a second curator, {total['disputed']} disputed",
        f"{total['classes_done']} of {len(result['classes'])} classes done, "
        f"about {total['verdicts_left']} verdicts left",
    ]
    if total["short"]:
        names = ", ".join(total["short"][:5]) + (" and others" if len(total["short"]) > 5 else "")
        lines.append(f"{len(total['short'])} classes have too few proposals for that: {names}")
    for row in result["agreement"]:
        kappa = row["reason"] if row["kappa"] is None else f"kappa {row['kappa']:.3f}"
        lines.append(f"{' and '.join(row['curators'])}: {row['share']:.1%} of {row['pairs']} pairs alike, {kappa}")
    return "\n".join(lines)
