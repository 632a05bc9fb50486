"""Guidance before and after it is applied, and the images on which it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import UnreadableImage
from semaug.studies.protocols.drawn import SHOWN, SIDE, Drawn, picture_of, short_key
from semaug.studies.protocols.subject import DoesNotFit, Subject

if TYPE_CHECKING:
    from PIL import Image

    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.schemas import Guidance
    from semaug.artifacts.sources import ImageSource
    from semaug.eval.report import Block


def guidance_pictures(subject: Subject) -> Drawn:
    from collections import Counter

    from semaug.eval.figures.bars import routing_histogram
    from semaug.eval.report import Card, Figure, Gallery

    table = subject.guidance_table
    source = subject.source_of(table, "guidance")
    cards = []
    for index in _of_every_route(source, table, subject.seed):
        row, image = table.get(source.key(index)), source.read(index)
        assert row is not None
        crop = picture_of(_guided_crop(image, row))
        cards.append(Card(f"{_route(row)}: {short_key(row.key)}", (picture_of(image), _overlaid(image, row), crop)))
    routes = Counter(_route(row) for row in table.rows.values())
    caption = (
        "Before and after: the image, its guidance (boxes yellow, masks green), and the region that guided crops are "
        "drawn from (the largest box, widened by a tenth)."
    )
    names = ("object", "pixel", "hybrid", "nothing found")
    bars = routing_histogram({"images": routes}, names)
    share = Figure(bars, f"What {len(table):,} images were guided by.", "share of images on each route", dict(routes))
    return Drawn((Gallery(caption, ("original", "guidance", "guided crop"), tuple(cards)), share))


def _route(row: Guidance) -> str:
    return "nothing found" if row.fallback else row.scale


def _of_every_route(source: ImageSource, table: GuidanceTable, seed: int) -> list[int]:
    """Readable images with guidance, a seeded choice that takes routes in turn."""
    order = generator(seed, "figures-guidance").permutation(len(source)).tolist()
    routes: dict[str, list[int]] = {}
    for index in order:
        row = table.get(source.key(index))
        if row is not None and len(routes.setdefault(_route(row), [])) < SHOWN and _readable(source, index):
            routes[_route(row)].append(index)
    chosen: list[int] = []
    while len(chosen) < SHOWN and any(routes.values()):
        for found in routes.values():
            chosen += [found.pop(0)] if found else []
    return chosen[:SHOWN]


def _readable(source: ImageSource, index: int) -> bool:
    try:
        source.read(index)
    except UnreadableImage:
        return False
    return True


def _guided_crop(image: NDArray[np.uint8], row: Guidance) -> NDArray[np.uint8]:
    """The widened largest box, as materialised crops are cut; the whole image where there is none."""
    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.pairs_dataset.crops import CropRule, expanded_box, object_box
    from semaug.pairs_dataset.objects import object_rows

    boxes, _, _ = object_rows([row.key], GuidanceTable.of([row])).row(0)
    if not len(boxes):
        return image
    rule = CropRule(select="largest")
    _, box = object_box(np.uint64(0), boxes, rule.vector())
    x0, y0, x1, y1 = expanded_box(box, rule.margin, image.shape[1], image.shape[0])
    return image[y0:y1, x0:x1]


def failure_pictures(subject: Subject) -> Drawn:
    from semaug.eval.figures.failures import find_failures
    from semaug.eval.report import Card, Gallery, Paragraph

    table = subject.guidance_table
    source = subject.source_of(table, "guidance")
    truth = _truth_for(subject, table)
    found = find_failures(table, truth)
    place = {source.key(i): i for i in range(len(source))}
    blocks: list[Block] = []
    for kind, title in (("miss", "Oracle misses"), ("error", "Oracle errors")):
        failures = [f for f in found.of(kind) if f.key in place and _readable(source, place[f.key])]  # type: ignore[arg-type]
        cards = []
        for failure in failures[:SHOWN]:
            image = source.read(place[failure.key])
            true = truth.get(failure.key) if truth is not None else None
            drawn = _overlaid(image, table.get(failure.key), true)
            cards.append(Card(f"{failure.why}. {short_key(failure.key)}", (picture_of(image), drawn)))
        share = f"{len(found.of(kind)):,} of {found.n:,} images"  # type: ignore[arg-type]
        legend = "boxes yellow, true boxes white" if truth is not None else "boxes yellow, masks green"
        caption = f"**{title}**: {share}, judged by {found.judged_by}; the worst first. Guidance: {legend}."
        blocks.append(Gallery(caption, ("image", "guidance"), tuple(cards)) if cards else Paragraph(caption))
    return Drawn(tuple(blocks), tuple(found))


def _truth_for(subject: Subject, table: GuidanceTable) -> GuidanceTable | None:
    """Annotations of the images that the guidance was made on; None without them."""
    try:
        truth = subject.truth_table
    except DoesNotFit:
        return None
    return truth if truth.source in ("", table.source) else None


def _overlaid(image: NDArray[np.uint8], row: Guidance | None, truth: Guidance | None = None) -> Image.Image:
    from PIL import ImageDraw

    from semaug.pairs_dataset.overlays import draw_guidance

    shown = draw_guidance(image, row, side=SIDE)
    pen = ImageDraw.Draw(shown)
    for x0, y0, x1, y1 in () if truth is None else truth.boxes.tolist():
        sx, sy = shown.width / truth.width, shown.height / truth.height  # type: ignore[union-attr]
        corners = (x0 * sx, y0 * sy, max(x0 * sx, x1 * sx - 1), max(y0 * sy, y1 * sy - 1))
        pen.rectangle(corners, outline=(0, 0, 0), width=6)
        inner = (
            corners[0] + 1,
            corners[1] + 1,
            max(corners[0] + 1, corners[2] - 1),
            max(corners[1] + 1, corners[3] - 1),
        )
        pen.rectangle(inner, outline=(255, 255, 255), width=4)
    return shown
