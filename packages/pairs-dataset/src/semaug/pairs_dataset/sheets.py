"""Contact sheets of view pairs: what a variant shows the network, beside where it was cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.pairs_dataset.overlays import BOX_COLOUR, VIEW_COLOURS, draw_guidance
from semaug.pairs_dataset.sources import DiffusionPairs, InflatedPairs, PairSource

_PAPER, _INK, _MUTED = (255, 255, 255), (30, 30, 34), (110, 110, 118)
_GAP, _GROUP_GAP, _HEADER = 6, 20, 46


def pair_sheet(
    variants: Mapping[str, PairSource],
    items: Sequence[int],
    *,
    guidance: GuidanceTable | None = None,
    cell: int = 128,
) -> Image.Image:
    """One row an item, one group of three cells a variant: the image with guidance and crops drawn, and both views.

    ``items`` are numbers of items, the same for all ``variants``; views are those of each source's current epoch,
    shown without their normalisation. Returns an RGB image of ``cell``-pixel cells. Raises ``InvalidOption`` without
    variants or items.
    """
    if not variants or not items:
        raise InvalidOption(f"a sheet of {len(variants)} variants and {len(items)} items is empty; give one of each")
    group = 3 * cell + 2 * _GAP
    width = len(variants) * group + (len(variants) - 1) * _GROUP_GAP + 2 * _GAP
    sheet = Image.new("RGB", (width, _HEADER + len(items) * (cell + _GAP)), _PAPER)
    for column, (name, pairs) in enumerate(variants.items()):
        left = _GAP + column * (group + _GROUP_GAP)
        _head(sheet, left, name, cell)
        for row, item in enumerate(items):
            for k, picture in enumerate(_cells(pairs, item, guidance, cell)):
                sheet.paste(picture, (left + k * (cell + _GAP), _HEADER + row * (cell + _GAP)))
    return sheet


def _head(sheet: Image.Image, left: int, name: str, cell: int) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.text((left, 4), name, fill=_INK, font=ImageFont.load_default(16))
    small = ImageFont.load_default(11)
    pen.rectangle([left, 31, left + 8, 39], outline=BOX_COLOUR, fill=BOX_COLOUR)
    pen.text((left + 12, 28), "guidance", fill=_MUTED, font=small)
    for view, colour in enumerate(VIEW_COLOURS):
        at = left + (view + 1) * (cell + _GAP)
        pen.rectangle([at, 31, at + 8, 39], fill=colour)
        pen.text((at + 12, 28), f"view {view + 1}", fill=_MUTED, font=small)


def _cells(pairs: PairSource, item: int, guidance: GuidanceTable | None, cell: int) -> list[Image.Image]:
    view_1, view_2, *_, index = pairs[item]
    image = pairs.source.read(index)
    crops = pairs.plan(item, *image.shape[:2]).crops[_of_original(pairs, item)].tolist()
    drawn = draw_guidance(image, guidance.get(pairs.source.key(index)) if guidance else None, crops, side=cell)
    framed = Image.new("RGB", (cell, cell), (236, 236, 240))
    framed.paste(drawn, ((cell - drawn.width) // 2, (cell - drawn.height) // 2))
    return [framed, *(_picture(v, pairs, cell) for v in (view_1, view_2))]


def _of_original(pairs: PairSource, item: int) -> list[int]:
    """The views of ``item`` that are cut from the image that its index names."""
    if isinstance(pairs, DiffusionPairs):
        return pairs.real_views(item)
    inflated = isinstance(pairs, InflatedPairs) and item >= len(pairs.images)
    return [] if inflated else list(range(len(pairs.views.recipes) + pairs.views.local_count))


def _picture(view: torch.Tensor, pairs: PairSource, cell: int) -> Image.Image:
    return Image.fromarray(view_pixels(view, pairs)).resize((cell, cell), Image.Resampling.BICUBIC)


def view_pixels(view: torch.Tensor, pairs: PairSource) -> NDArray[np.uint8]:
    """A view (3, S, S) without its normalisation: uint8 (S, S, 3)."""
    mean, std = np.array(pairs.views.mean, np.float32), np.array(pairs.views.std, np.float32)
    values = view.numpy().transpose(1, 2, 0) * std + mean
    return (values * 255).round().clip(0, 255).astype(np.uint8)
