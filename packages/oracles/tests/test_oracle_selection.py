"""Which boxes and masks are usable, and in which order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from semaug.oracles.selection import rank_masks, usable_boxes

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


def test_not_a_number_is_not_a_box() -> None:
    assert len(usable_boxes(np.array([[0, 0, np.nan, 9], [0, 0, 9, np.inf]], np.float32), 20, 20)) == 0


def square(y: int, x: int, side: int) -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_masks_that_are_specks_or_background_are_left_out_and_equals_are_ranked_by_centrality() -> None:
    corner, centre, speck, all_of_it = square(0, 0, 30), square(35, 35, 30), square(1, 1, 9), square(0, 0, 97)
    ranked = rank_masks([speck, corner, all_of_it, centre])
    assert [m is x for m, x in zip(ranked, (centre, corner), strict=True)] == [True, True]
    assert rank_masks([corner, square(0, 0, 50)])[0].sum() == 2500
    assert rank_masks([speck, all_of_it]) == []
    assert rank_masks([]) == []
