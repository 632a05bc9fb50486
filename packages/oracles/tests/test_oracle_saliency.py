"""Saliency against two independent references: the exact distance, and the raster scan in plain Python."""

from __future__ import annotations

import heapq

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semaug.artifacts.errors import InvalidOption
from semaug.oracles.saliency import (
    CentreDetector,
    SaliencyDetector,
    barrier_distance,
    border_contrast,
    otsu_mask,
    saliency_map,
)

small_channels = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 255))


def exact_barrier_distance(channel: np.ndarray) -> np.ndarray:
    """min over floors a of (bottleneck path from the border over pixels >= a) - a."""
    height, width = channel.shape
    best = np.full((height, width), 10**6)
    for floor in np.unique(channel):
        reach = np.full((height, width), 10**6)
        queue = [
            (int(channel[y, x]), y, x)
            for y in range(height)
            for x in range(width)
            if (y in (0, height - 1) or x in (0, width - 1)) and channel[y, x] >= floor
        ]
        heapq.heapify(queue)
        while queue:
            top, y, x = heapq.heappop(queue)
            if top >= reach[y, x]:
                continue
            reach[y, x] = top
            for ny, nx in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= ny < height and 0 <= nx < width and channel[ny, nx] >= floor:
                    heapq.heappush(queue, (max(top, int(channel[ny, nx])), ny, nx))
        best = np.minimum(best, reach - int(floor))
    return best


def scanned_barrier_distance(channel: np.ndarray, passes: int) -> np.ndarray:
    """Algorithm 1 of Zhang et al. with a state of (distance, high, low) a pixel, in plain Python."""
    height, width = channel.shape
    inner = [(y, x) for y in range(1, height - 1) for x in range(1, width - 1)]
    state = {}
    for (y, x), value in np.ndenumerate(channel):
        border = y in (0, height - 1) or x in (0, width - 1)
        state[y, x] = (0 if border else np.inf, int(value), int(value))
    for scan in range(passes):
        back = scan % 2 == 1
        for y, x in reversed(inner) if back else inner:
            value = int(channel[y, x])
            neighbours = ((y + 1, x), (y, x + 1)) if back else ((y - 1, x), (y, x - 1))
            for place in neighbours:
                distance, high, low = state[place]
                if distance == np.inf:
                    continue
                high, low = max(high, value), min(low, value)
                if high - low < state[y, x][0]:
                    state[y, x] = (high - low, high, low)
    return np.array([[state[y, x][0] for x in range(width)] for y in range(height)])


@given(small_channels, st.integers(1, 4))
def test_numba_scan_equals_the_plain_scan(channel: np.ndarray, passes: int) -> None:
    np.testing.assert_array_equal(barrier_distance(channel, passes), scanned_barrier_distance(channel, passes))


@settings(max_examples=60)
@given(small_channels)
def test_fast_distance_is_never_below_the_exact_one(channel: np.ndarray) -> None:
    assert (barrier_distance(channel, 3) >= exact_barrier_distance(channel)).all()


def test_fast_distance_is_close_to_the_exact_one_on_a_smooth_image() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24)).astype(np.uint8)
    channel = cv2.GaussianBlur(noise, (0, 0), 2)
    fast, exact = barrier_distance(channel, 3), exact_barrier_distance(channel)
    assert (fast == exact).mean() > 0.7
    assert (fast - exact).mean() < 0.2 * exact.mean()


def test_distance_of_a_step_is_its_height() -> None:
    channel = np.full((20, 30), 40, np.uint8)
    channel[6:12, 8:20] = 95
    distance = barrier_distance(channel, 3)
    assert (distance[6:12, 8:20] == 55).all()
    assert distance.sum() == 55 * 6 * 12


def test_border_contrast_forgives_the_border_that_the_object_touches() -> None:
    lab = np.full((60, 60, 3), 120, np.uint8)
    lab[20:, 20:40] = 200
    cue = border_contrast(lab)
    assert cue[50, 30] > 0.9
    assert cue[5, 5] < 0.1


def test_flat_image_has_no_box() -> None:
    assert SaliencyDetector().detect([np.full((50, 70, 3), 128, np.uint8)])[0].shape == (0, 4)
    assert not otsu_mask(np.zeros((4, 4), np.float32)).any()


def test_boxes_are_in_pixels_of_the_full_image_and_the_more_salient_comes_first() -> None:
    image = np.zeros((600, 800, 3), np.uint8)
    image[100:200, 100:300] = 90
    image[300:500, 500:700] = 255
    boxes = SaliencyDetector().detect([image])[0]
    np.testing.assert_allclose(boxes[0], [500, 300, 700, 500], atol=5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 2), (3, 7)])
def test_extreme_shapes_give_boxes_of_the_right_shape(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    boxes = SaliencyDetector().detect([image])[0]
    assert boxes.dtype == np.float32
    assert boxes.shape[1] == 4
    assert (boxes[:, 2] <= shape[1]).all()
    assert (boxes[:, 3] <= shape[0]).all()


def test_saliency_is_scaled_to_the_unit_interval_at_the_working_size() -> None:
    image = np.random.default_rng(2).integers(0, 256, (300, 150, 3)).astype(np.uint8)
    found = saliency_map(image, side=100)
    assert found.shape == (100, 50)
    assert (found.min(), found.max()) == (0, 1)


def test_batch_equals_single() -> None:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (40 + 7 * i, 60, 3)).astype(np.uint8) for i in range(4)]
    detector = SaliencyDetector()
    for together, alone in zip(detector.detect(images), [detector.detect([i])[0] for i in images], strict=True):
        np.testing.assert_array_equal(together, alone)


def test_centre_box_has_the_asked_side() -> None:
    assert CentreDetector(0.5).detect([np.zeros((40, 80, 3), np.uint8)])[0].tolist() == [[20, 10, 60, 30]]


@pytest.mark.parametrize("options", [{"side": 4}, {"passes": 0}, {"max_boxes": 0}, {"min_area": 1.0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidOption, match="give side"):
        SaliencyDetector(**options)  # type: ignore[arg-type]
