"""Visual prompts against their definition: mixing, noise, joint crops, and what each kind asks for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption
from semaug.prompt_synthesis.ade20k import to_classes, to_colours
from semaug.prompt_synthesis.generators import KINDS
from semaug.prompt_synthesis.visual_prompts import (
    GENERATOR_OF,
    VisualPrompt,
    VisualPromptSettings,
    joint_crop,
    make_visual_prompt,
    mix_with_mask,
    noise_prompt,
    resize_image,
)

SIZE = (40, 56)


def picture() -> np.ndarray:
    """An image whose pixels tell their place: red is the row, green the column."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([rows, columns, np.full(SIZE, 200)], -1).astype(np.uint8)


def mask_map() -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return to_colours((rows * 2 + columns).astype(np.uint8) % 150)


@pytest.mark.parametrize(
    ("kind", "init", "control"),
    [("real", True, False), ("mask", False, True), ("mixing", True, True), ("noise", False, False)],
)
def test_each_kind_gives_what_its_generator_takes(kind, init, control):
    chosen = VisualPromptSettings(kind=kind)
    prompt = make_visual_prompt(chosen, picture(), mask_map(), 0, "a.jpg")
    assert (prompt.init is not None, prompt.control is not None) == (init, control)
    uses = KINDS[GENERATOR_OF[kind]]
    assert (uses.init, uses.control) == (init, control)
    assert (chosen.needs_image, chosen.needs_mask_map) == (kind in {"real", "mixing"}, kind in {"mask", "mixing"})


def test_mixing_holds_the_mix_and_the_clean_map_or_the_mix_alone():
    prompt = make_visual_prompt(VisualPromptSettings("mixing", alpha=0.25), picture(), mask_map(), 0, "a")
    np.testing.assert_array_equal(prompt.init, mix_with_mask(picture(), mask_map(), 0.25))
    np.testing.assert_array_equal(prompt.control, mask_map())
    assert prompt.control_is_map
    mixed = make_visual_prompt(VisualPromptSettings("mixing", mixing_control="mix"), picture(), mask_map(), 0, "a")
    np.testing.assert_array_equal(mixed.init, mixed.control)
    assert not mixed.control_is_map


@pytest.mark.parametrize("kind", ["real", "mask", "mixing", "noise"])
@pytest.mark.parametrize("augmentation", ["none", "noise", "crop"])
def test_draw_zero_is_the_prompt_itself_and_later_draws_are_pure(kind, augmentation):
    plain, varied = VisualPromptSettings(kind), VisualPromptSettings(kind, augmentation, mask_noise="snap")

    def parts(chosen: VisualPromptSettings, draw: int, key: str = "a", seed: int = 3) -> list[np.ndarray]:
        made = make_visual_prompt(chosen, picture(), mask_map(), seed, key, draw)
        return [part for part in (made.init, made.control) if part is not None]

    def equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
        return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    assert equal(parts(varied, 0), parts(plain, 0))
    assert equal(parts(varied, 1), parts(varied, 1))
    if augmentation != "none" and kind != "noise":
        others = [parts(varied, 2), parts(varied, 1, key="b"), parts(varied, 1, seed=4), parts(plain, 1)]
        assert not any(equal(parts(varied, 1), other) for other in others)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.text(max_size=5), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_crop_takes_one_place_of_image_and_map(seed, key, a, b):
    least, most = sorted((a, b))
    image, found = joint_crop(picture(), mask_map(), (least, most), seed, key, 1)
    top, left = image[0, 0, :2]
    height, width = image.shape[:2]
    place = np.s_[top : top + height, left : left + width]
    np.testing.assert_array_equal(image, picture()[place])
    np.testing.assert_array_equal(found, mask_map()[place])
    to_classes(found)
    assert height <= SIZE[0]
    assert width <= SIZE[1]
    assert abs(height / SIZE[0] - width / SIZE[1]) <= 0.5 / SIZE[0] + 0.5 / SIZE[1] + 1 / SIZE[0]


def test_crops_keep_areas_uniform_in_the_scale_and_reach_every_corner():
    crops = [joint_crop(picture(), None, (0.5, 1.0), 0, f"{i}", 1)[0] for i in range(2000)]
    areas = np.array([c.shape[0] * c.shape[1] / (SIZE[0] * SIZE[1]) for c in crops])
    np.testing.assert_allclose(np.quantile(areas, [0.1, 0.5, 0.9]), [0.55, 0.75, 0.95], atol=0.03)
    assert min(c[0, 0, 0] for c in crops) == min(c[0, 0, 1] for c in crops) == 0
    assert max(c[-1, 0, 0] for c in crops) == SIZE[0] - 1
    assert max(c[0, -1, 1] for c in crops) == SIZE[1] - 1
    whole = joint_crop(picture(), mask_map(), (1.0, 1.0), 0, "a", 1)
    np.testing.assert_array_equal(whole[0], picture())


def test_noise_spares_a_map_or_is_snapped_to_class_colours():
    skip = make_visual_prompt(VisualPromptSettings("mask", "noise"), None, mask_map(), 0, "a", 1)
    np.testing.assert_array_equal(skip.control, mask_map())
    snapped = make_visual_prompt(VisualPromptSettings("mask", "noise", mask_noise="snap"), None, mask_map(), 0, "a", 1)
    assert (snapped.control != mask_map()).any()
    to_classes(snapped.control)
    mixing = make_visual_prompt(VisualPromptSettings("mixing", "noise"), picture(), mask_map(), 0, "a", 1)
    np.testing.assert_array_equal(mixing.control, mask_map())
    noisy = noise_prompt(picture(), 0.1, 0, "a", 1)
    np.testing.assert_array_equal(mixing.init, mix_with_mask(noisy, mask_map(), 0.5))


def test_resizing_keeps_a_maps_colours_and_leaves_its_size_alone():
    found = resize_image(mask_map(), (16, 16), exact_colours=True)
    assert found.shape == (16, 16, 3)
    assert set(to_classes(found).ravel()) <= set(to_classes(mask_map()).ravel())
    assert resize_image(picture(), SIZE) is not None
    np.testing.assert_array_equal(resize_image(picture(), SIZE), picture())
    assert resize_image(picture(), (8, 24)).shape == (8, 24, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "depth"}, "visual prompt is 'depth'; use real, mask, mixing, noise"),
        ({"augmentation": "flip"}, "augmentation is 'flip'"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"crop_scale": (0.9, 0.5)}, r"crop_scale is \(0.9, 0.5\)"),
        ({"crop_scale": (0.0, 0.5)}, "0 < least"),
        ({"mask_noise": "blur"}, "mask_noise is 'blur'"),
        ({"mixing_control": "x"}, "mixing_control is 'x'"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(InvalidOption, match=message):
        VisualPromptSettings(**options)


def test_missing_and_unequal_parts_are_refused():
    with pytest.raises(ValueError, match="'mixing' needs an image and a mask map of 'k'"):
        make_visual_prompt(VisualPromptSettings("mixing"), picture(), None, 0, "k")
    with pytest.raises(ValueError, match="'mask' needs"):
        make_visual_prompt(VisualPromptSettings("mask"), picture(), None, 0, "k")
    with pytest.raises(ValueError, match=r"\(40, 56, 3\), its control \(20, 56, 3\)"):
        VisualPrompt(picture(), mask_map()[:20])
    with pytest.raises(ValueError, match="make the map at the image's size"):
        joint_crop(picture(), mask_map()[:20], (0.5, 1), 0, "k", 1)
