"""``semaug eval figures``: the pictures of a run, as files and as one page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from semaug.cli.commands.evaluation.shared import finish, keep_features, protocol_options, table_of
from semaug.cli.console import Place, Verb, emit, note, pick_device, progress, settings

PICTURES = ("map", "knn", "grad-cam", "quality", "guidance", "failures", "similarity")
ARTIFACT = Place(exists=True, path_type=Path)


def picture_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The artifacts that pictures read beside the features."""
    for option in (
        click.option(
            "--similarities",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Similarities of original and synthetic images: .npy, or .csv with a column similarity.",
        ),
        click.option(
            "--quality", type=ARTIFACT, help="Quality artifact of the test images (scored on the spot without)."
        ),
        click.option("--truth", type=ARTIFACT, help="Guidance artifact of annotations (`semaug guide import`)."),
        click.option("--guidance", type=ARTIFACT, help="Guidance artifact of the test or the training images."),
    ):
        function = option(function)
    return function


@click.command("figures", cls=Verb)
@protocol_options
@picture_options
@click.option("--only", multiple=True, type=click.Choice(PICTURES), help="Draw this picture only; repeatable.")
def figures(
    run: Path, bank: str, test: str, out: Path | None, as_json: bool, only: tuple[str, ...], **more: Any
) -> None:
    """Draw a run's pictures: t-SNE, kNN over k and T, Grad-CAM, quality, guidance, failures, similarities.

    SVG and PNG files go to RUN/eval/figures, and index.html shows them all. A picture that lacks what it needs is left
    out, and the page says why.
    """
    from semaug.studies.protocols.subject import Subject
    from semaug.studies.run_page import write_pictures

    folder = out or run / "eval" / "figures"
    with progress() as on_progress:
        subject = Subject(
            run, bank, test, device=pick_device(), workers=settings().workers, keep=keep_features(),
            on_progress=on_progress, **more,
        )  # fmt: skip
        pictures, page, files = write_pictures(subject, folder, only or None)
    for name, reason in pictures.missing.items():
        note(f"No picture {name}: {reason}")
    from semaug.studies.evaluation import measures

    rows = measures(pictures)
    emit(
        {"page": str(page), "files": [str(f) for f in files], "missing": dict(pictures.missing), **rows},
        as_json,
        "\n".join(filter(None, (table_of(rows), f"{len(files)} files and {page}"))),
    )
    finish(folder, subject.embedded)
