"""Contact sheets: size, what is drawn where, and bad input."""

from __future__ import annotations

import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources import ArraySource
from semaug.pairs_dataset import make_pairs, pair_sheet
from semaug.pairs_dataset.overlays import BOX_COLOUR, MASK_COLOUR, VIEW_COLOURS, draw_guidance
from semaug.pairs_dataset.sheets import view_pixels


def test_a_sheet_shows_every_variant_and_item() -> None:
    source = ArraySource(np.full((4, 60, 90, 3), 128, np.uint8))
    table = GuidanceTable.of(
        [Guidance(source.key(i), 60, 90, boxes=np.array([[20, 10, 60, 50]], np.float32)) for i in range(4)]
    )
    variants = {n: make_pairs(n, source, size=32, guidance=table) for n in ("standard", "guided", "random_box")}
    sheet = pair_sheet(variants, [0, 2], guidance=table, cell=96)
    assert sheet.width > 9 * 96
    assert sheet.height > 2 * 96
    seen = {tuple(c) for c in np.asarray(sheet).reshape(-1, 3)}
    assert {BOX_COLOUR, *VIEW_COLOURS} <= seen
    assert len(pair_sheet({"a": variants["guided"]}, [1]).getbands()) == 3
    with pytest.raises(InvalidOption, match="0 variants"):
        pair_sheet({}, [0])


def test_views_are_shown_without_their_normalisation() -> None:
    source = ArraySource(np.full((1, 20, 20, 3), 200, np.uint8))
    pairs = make_pairs("standard", source, preset="identity", size=16)
    assert (view_pixels(pairs[0][0], pairs) == 200).all()


def test_overlays_draw_boxes_masks_and_crops_where_they_are() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    mask = np.zeros((100, 200), bool)
    mask[40:60, 150:170] = True
    guidance = Guidance("a", 100, 200, "hybrid", np.array([[20, 20, 80, 80]], np.float32), (encode_mask(mask),))
    drawn = np.asarray(draw_guidance(image, guidance, [(5, 100, 90, 95)], side=200))
    assert drawn.shape == (100, 200, 3)
    assert tuple(drawn[50, 20]) == BOX_COLOUR
    assert tuple(drawn[50, 100]) == VIEW_COLOURS[0]
    assert drawn[50, 160, 1] > 60
    assert drawn[50, 160, 1] > drawn[50, 160, 0]
    assert drawn[30, 160].sum() == 0
    assert MASK_COLOUR[1] > MASK_COLOUR[0]
