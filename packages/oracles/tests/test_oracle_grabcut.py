"""GrabCut masks: right on plain scenes, the same every time, harmless on degenerate ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.oracles.grabcut import GrabCutSegmenter


def disc_scene(height: int = 240, width: int = 320, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.normal(70, 12, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    disc = (y - 0.5 * height) ** 2 + (x - 0.4 * width) ** 2 < (0.22 * height) ** 2
    image[disc] += (110, 40, -20)
    ys, xs = np.flatnonzero(disc.any(1)), np.flatnonzero(disc.any(0))
    box = np.array([[xs[0] - 8, ys[0] - 8, xs[-1] + 9, ys[-1] + 9]], np.float32)
    return image.clip(0, 255).astype(np.uint8), box, disc


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_mask_in_a_box_covers_the_object() -> None:
    image, box, disc = disc_scene()
    mask = GrabCutSegmenter().segment([image], [box])[0][0]
    assert mask.shape == image.shape[:2]
    assert mask.dtype == bool
    assert overlap(mask, disc) > 0.9


def test_mask_without_a_box_is_seeded_by_saliency() -> None:
    image, _, disc = disc_scene()
    masks = GrabCutSegmenter().segment([image], None)[0]
    assert overlap(masks[0], disc) > 0.85


def test_the_same_image_gives_the_same_mask_whatever_came_before() -> None:
    image, box, _ = disc_scene(seed=1)
    other, other_box, _ = disc_scene(120, 90, seed=2)
    alone = GrabCutSegmenter().segment([image], [box])[0][0]
    cv2.setRNGSeed(99)
    together = GrabCutSegmenter().segment([other, image], [other_box, box])[1][0]
    np.testing.assert_array_equal(alone, together)


def test_one_mask_a_box_in_order() -> None:
    image, box, _ = disc_scene()
    boxes = np.concatenate([box, [[0, 0, 40, 40]], box])
    masks = GrabCutSegmenter().segment([image], [boxes])[0]
    assert len(masks) == 3
    np.testing.assert_array_equal(masks[0], masks[2])
    assert not masks[1][60:].any()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 5000), (4, 4), (9, 9)])
def test_images_too_small_for_colour_models_give_masks_of_their_shape(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    box = np.array([[0, 0, shape[1], shape[0]]], np.float32)
    assert GrabCutSegmenter().segment([image], [box])[0][0].shape == shape
    assert all(m.shape == shape for m in GrabCutSegmenter().segment([image], None)[0])


def test_flat_image_has_no_mask() -> None:
    assert GrabCutSegmenter().segment([np.full((64, 64, 3), 9, np.uint8)], None) == [[]]


def test_box_over_the_whole_image_takes_its_frame_for_background() -> None:
    image, _, disc = disc_scene()
    whole = np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
    assert overlap(GrabCutSegmenter().segment([image], [whole])[0][0], disc) > 0.8


@pytest.mark.parametrize("options", [{"side": 8}, {"iterations": 0}, {"margin": 0.0}, {"max_masks": 0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidOption, match="give side"):
        GrabCutSegmenter(**options)  # type: ignore[arg-type]
