"""Which boxes are usable, and which one is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption
from semaug.oracles.selection import BOX_CHOICES, box_areas, rank_masks, select_boxes, select_mask, usable_boxes

numbers = st.floats(-50, 150, width=32)
box_lists = st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=8).map(
    lambda rows: np.array(rows, np.float32).reshape(-1, 4)
)
sides = st.integers(1, 100)


@given(box_lists, sides, sides)
def test_usable_boxes_lie_inside_the_image_and_are_two_pixels_wide(boxes: np.ndarray, height: int, width: int) -> None:
    kept = usable_boxes(boxes, height, width)
    assert (kept[:, :2] >= 0).all()
    assert (kept[:, 2] <= width).all()
    assert (kept[:, 3] <= height).all()
    assert (kept[:, 2:] - kept[:, :2] >= 2).all()


@given(box_lists, sides, sides)
def test_cleaning_twice_changes_nothing(boxes: np.ndarray, height: int, width: int) -> None:
    once = usable_boxes(boxes, height, width)
    np.testing.assert_array_equal(usable_boxes(once, height, width), once)


@given(box_lists, st.floats(0, 1, exclude_max=True), st.sampled_from(BOX_CHOICES))
def test_every_choice_has_at_least_a_hundredth_of_the_image(boxes: np.ndarray, draw: float, choice: str) -> None:
    kept = usable_boxes(boxes, 100, 100)
    chosen = select_boxes(kept, 100, 100, choice, draw=draw)  # type: ignore[arg-type]
    assert (box_areas(chosen) >= 100).all()
    large = (box_areas(kept) >= 100).sum()
    assert len(chosen) == (large if choice == "all" else min(1, large))


def test_not_a_number_is_not_a_box() -> None:
    assert len(usable_boxes(np.array([[0, 0, np.nan, 9], [0, 0, 9, np.inf]], np.float32), 20, 20)) == 0


def test_choices_on_known_boxes() -> None:
    boxes = np.array([[10, 10, 20, 20], [0, 0, 40, 40], [50, 60, 90, 80], [0, 0, 3, 3]], np.float32)
    assert select_boxes(boxes, 100, 100, "largest").tolist() == [[0, 0, 40, 40]]
    assert select_boxes(boxes, 100, 100, "union").tolist() == [[0, 0, 90, 80]]
    assert select_boxes(boxes, 100, 100, "random", draw=0.99).tolist() == [[50, 60, 90, 80]]
    assert select_boxes(boxes, 100, 100, "random", draw=0.0).tolist() == [[10, 10, 20, 20]]
    with pytest.raises(InvalidOption, match="'best' is not one of largest"):
        select_boxes(boxes, 100, 100, "best")  # type: ignore[arg-type]


def square(y: int, x: int, side: int) -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_masks_that_are_specks_or_background_are_left_out_and_equals_are_ranked_by_centrality() -> None:
    corner, centre, speck, all_of_it = square(0, 0, 30), square(35, 35, 30), square(1, 1, 9), square(0, 0, 97)
    ranked = rank_masks([speck, corner, all_of_it, centre])
    assert [m is x for m, x in zip(ranked, (centre, corner), strict=True)] == [True, True]
    assert select_mask([corner, square(0, 0, 50)]).sum() == 2500  # type: ignore[union-attr]
    assert select_mask([speck, all_of_it]) is None
    assert rank_masks([]) == []
