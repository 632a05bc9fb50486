"""``semaug pairs build|check|export|import``: sets of pairs as artifacts and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from semaug.cli.console import Place, Verb, emit, json_option, note, out_option, overwrite_option, progress, settings

PAIRS = Place(exists=True, path_type=Path)
FORMATS = ("jsonl", "csv")
FORM_NAMES = ("proposals", "semantic", "augmented", "all-images", "random-same-class")


@click.command("export", cls=Verb)
@click.argument("pairs", type=PAIRS)
@click.option(
    "--format", "layout", type=click.Choice(FORMATS), default="jsonl", show_default=True, help="Of what is written."
)
@out_option("the file", file=True)
@json_option
def export(pairs: Path, layout: Any, out: Path, as_json: bool) -> None:
    """Write PAIRS (an artifact or a file of pairs) as JSON lines or CSV, one line a pair.

    Example: semaug pairs export pairs.zarr --format csv --out pairs.csv
    """
    from semaug.pairs_dataset.pair_exchange import write_pair_file
    from semaug.pairs_dataset.pair_table import PairTable

    count = write_pair_file(PairTable.open(pairs).rows, out, layout)
    emit({"out": str(out), "format": layout, "pairs": count}, as_json)


@click.command("import", cls=Verb)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--images", help="The images of the pairs: their fingerprint is kept, and unknown keys are counted.")
@click.option(
    "--form", type=click.Choice(FORM_NAMES), default="semantic", show_default=True, help="What the set of pairs is."
)
@out_option("the pair artifact", store=True)
@overwrite_option
@json_option
def import_(file: Path, images: str | None, form: Any, out: Path, overwrite: bool, as_json: bool) -> None:
    """Turn FILE (.jsonl or .csv with at least class, image_a and image_b) into a pair artifact.

    Example: semaug pairs import pairs.csv --images photos --out pairs.zarr
    """
    from semaug.artifacts.sources import open_source
    from semaug.pairs_dataset.pair_table import import_pairs

    source = open_source(images) if images else None
    summary, missing = import_pairs(file, out, source=source, form=form, overwrite=overwrite)
    info = summary.manifest.info
    result = {"out": str(out), "pairs": summary.manifest.items, "classes": info["classes"], "images": info["images"]}
    emit(result | ({"images_missing": missing} if source is not None else {}), as_json)


@click.command("build", cls=Verb)
@click.argument("verdicts", type=PAIRS)
@out_option("the pair artifact", store=True)
@click.option("--rule", type=click.Choice(("all", "majority", "any")), default="all", show_default=True,
              help="Who of several curators must have accepted a pair.")  # fmt: skip
@click.option("--per-class", type=click.IntRange(0), default=157, show_default=True,
              help="Pairs kept of a class, after a shuffle by --seed: smaller sets are nested (0: all).")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the shuffle and of random pairs.")
@click.option("--twin", type=click.Choice(("augmented", "all-images", "random-same-class")),
              help="Make this control of the pairs instead.")  # fmt: skip
@click.option("--pool", help="With --twin random-same-class: draw from all images here, not from those of the pairs.")
@click.option("--without", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Leave out the pairs and images that this file names, one a line (see check --bad).")  # fmt: skip
@overwrite_option
@json_option
def build(verdicts: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Freeze VERDICTS into a pair artifact: a journal, a pair artifact, or a file of pairs.

    Of a journal the accepted pairs are taken; of other sets those with the verdict accept, or all where none has a
    verdict. A twin is made of the pairs that remain.

    Example: semaug pairs build verdicts.sqlite --out pairs.zarr
    """
    from semaug.artifacts.sources import open_source
    from semaug.pairs_dataset.pair_build import build_pairs

    if options["pool"] and options["twin"] != "random-same-class":
        raise click.UsageError("--pool goes with --twin random-same-class")
    pool = open_source(options["pool"]) if options["pool"] else None
    without = options["without"].read_text("utf-8").splitlines() if options["without"] else ()
    built = build_pairs(verdicts, out, **{**options, "pool": pool, "without": without})
    info = built.summary.manifest.info
    result = {"out": str(out), "form": built.form, "pairs": built.summary.manifest.items, **info}
    emit(result | {"short_classes": built.short}, as_json, None if as_json else _built(result))
    if not info["curated"]:
        note("Note: nobody judged these pairs; they are proposals, not the curated set of the paper")
    if built.short:
        worst = min(built.short, key=lambda name: built.short[name])
        count = options["per_class"]
        note(f"Note: {len(built.short)} classes have fewer than {count} pairs, {worst} only {built.short[worst]}")


def _built(result: dict[str, Any]) -> str:
    lines = [f"{result['pairs']} {result['form']} pairs of {result['images']} images in {result['classes']} classes"]
    judged = [
        f"{result[name]} {name.replace('_', ' ')}"
        for name in ("rejected", "disputed", "open", "left_out")
        if name in result
    ]
    return "\n".join([*lines, *([", ".join(judged)] if judged else []), f"written to {result['out']}"])


@click.command("check", cls=Verb)
@click.argument("pairs", type=PAIRS)
@click.option("--images", required=True, help="The images of the pairs.")
@click.option("--against", multiple=True, help="An evaluation set that must hold none of the images; repeatable.")
@click.option("--per-class", type=click.IntRange(0), default=157, show_default=True, help="Pairs wanted (0: any).")
@click.option("--class-list", help="printed: the 175 names of the paper; or a text file with one class name a line.")
@click.option("--list", "listed", type=click.IntRange(0), default=20, show_default=True, help="Findings that are told.")
@click.option("--bad", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the pairs and images with a problem here, for build --without.")  # fmt: skip
@json_option
def check(pairs: Path, images: str, against: tuple[str, ...], per_class: int, class_list: str | None, listed: int,
          bad: Path | None, as_json: bool) -> None:  # fmt: skip
    """Check PAIRS: the same image twice, other classes, missing files, doubles, counts, leaks. Exit 1 where it fails.

    Example: semaug pairs check pairs.zarr --images photos --against test-photos
    """
    from semaug.artifacts.files import write_atomic
    from semaug.artifacts.sources import open_source
    from semaug.pairs_dataset.checks import check_pairs
    from semaug.pairs_dataset.class_list import ClassList
    from semaug.pairs_dataset.pair_table import PairTable

    table, source = PairTable.open(pairs), open_source(images)
    names = ClassList.open(class_list) if class_list else None
    with progress() as bar:
        found = check_pairs(
            table, source, per_class=per_class, against=[open_source(spec) for spec in against], class_list=names,
            threads=settings().threads or 2, on_progress=bar,
        )  # fmt: skip
    if bad is not None:
        write_atomic(bad, "".join(f"{name}\n" for name in found.bad).encode())
    emit(_check_result(pairs, table, found), as_json, None if as_json else _check_text(table, found, listed))
    if found.problems:
        click.get_current_context().exit(1)


def _check_result(pairs: Path, table: Any, found: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "path": str(pairs), "form": table.form, "ok": not found.problems, "pairs": found.pairs, "images": found.images,
        "classes": len(found.counts), "counts": found.counts, "images_by_uses": found.uses,
        "problems": [asdict(row) for row in found.problems], "warnings": [asdict(row) for row in found.warnings],
    }  # fmt: skip


def _check_text(table: Any, found: Any, listed: int) -> str:
    from collections import Counter

    from semaug.pairs_dataset.checks import counts_text

    lines = [f"{found.pairs} {table.form} pairs of {found.images} images, {counts_text(found)} in each of "
             f"{len(found.counts)} classes"]  # fmt: skip
    for kind, count in Counter(row.kind for row in found.problems).items():
        lines.append(f"{kind.replace('_', ' ')}: {count}")
    lines += [f"  {row.text}" for row in found.problems[:listed]]
    if len(found.problems) > listed:
        lines.append(f"  and {len(found.problems) - listed} more (--list, --json)")
    lines += [f"note: {row.text}" for row in found.warnings]
    return "\n".join([*lines, "not sound" if found.problems else "ok"])
