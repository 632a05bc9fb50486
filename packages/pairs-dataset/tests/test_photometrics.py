"""Every operation of the fused path against torchvision and Pillow, the draws' distributions, and their slots."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption
from semaug.pairs_dataset import photometrics as ph
from semaug.pairs_dataset.presets import PRESETS, REMOVALS, TRANSFORMS, Recipe, preset, recipe_dict, removal

PLAIN = ph.normalisation((0, 0, 0), (1, 1, 1))


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with edges and noise."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    image[height // 3 : height // 2, width // 4 :] += 60
    return (image + rng.integers(-8, 9, image.shape)).clip(0, 255).astype(np.uint8)


def parameters(**changes) -> np.ndarray:
    p = np.zeros(ph.PARAMETER_FIELDS)
    p[ph.P_ORDER : ph.P_ORDER + 4] = changes.pop("order", [0, 1, 2, 3])
    p[ph.P_BRIGHTNESS] = p[ph.P_CONTRAST] = p[ph.P_SATURATION] = 1.0
    p[ph.P_THRESHOLD], p[ph.P_RADIUS] = ph.NEVER, 1000
    for name, value in changes.items():
        p[getattr(ph, f"P_{name.upper()}")] = value
    return p


def rendered(image, p, size, crop=None, norm=PLAIN) -> np.ndarray:
    out = np.empty((3, size, size), np.float32)
    crop = crop or (0, 0, *image.shape[:2])
    ph.render(image, *crop, p, norm, np.empty(ph.scratch_length(size), np.float32), out)
    return out


def floats(image, size) -> torch.Tensor:
    tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return tv.resize(tensor, [size, size], antialias=True)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(375, 500, 224), (90, 60, 224), (32, 32, 32), (64, 9, 33), (700, 1300, 64)]
)
def test_resize_is_the_antialiased_triangle(height, width, size) -> None:
    image = photograph(height, width)
    ours = rendered(image, parameters(), size)
    assert np.abs(ours - floats(image, size).numpy()).max() < 2e-5
    pillow = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(ours * 255 - pillow).max() < 1.01  # Pillow rounds twice


@pytest.mark.parametrize("crop", [(0, 0, 1, 1), (10, 5, 2, 70), (5, 0, 40, 12), (60, 79, 40, 1), (20, 10, 57, 64)])
def test_only_the_crop_is_read(crop) -> None:
    image = photograph(100, 80)
    top, left, height, width = crop
    cut = np.ascontiguousarray(image[top : top + height, left : left + width])
    whole = rendered(image, parameters(), 48, crop)
    assert np.array_equal(whole, rendered(cut, parameters(), 48))
    assert np.abs(whole - floats(cut, 48).numpy()).max() < 2e-5


def test_flip_mirrors_the_view() -> None:
    image = photograph(50, 70)
    assert np.array_equal(rendered(image, parameters(flip=1), 40), rendered(image, parameters(), 40)[:, :, ::-1])


@pytest.mark.parametrize("size", [32, 45, 224])
@pytest.mark.parametrize(
    ("name", "value", "reference"),
    [
        ("brightness", 1.7, tv.adjust_brightness),
        ("brightness", 0.3, tv.adjust_brightness),
        ("contrast", 1.8, tv.adjust_contrast),
        ("contrast", 0.2, tv.adjust_contrast),
        ("saturation", 1.8, tv.adjust_saturation),
        ("saturation", 0.0, tv.adjust_saturation),
        ("hue", 0.2, tv.adjust_hue),
        ("hue", -0.13, tv.adjust_hue),
        ("hue", 0.5, tv.adjust_hue),
    ],
)
def test_colour_operations_are_torchvisions(name, value, reference, size) -> None:
    image = photograph(80, 90)
    ours = rendered(image, parameters(jitter=1, **{name: value}), size)
    assert np.abs(ours - reference(floats(image, size), value).numpy()).max() < 1e-4


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]])
def test_jitter_applies_in_the_drawn_order(order) -> None:
    image = photograph(80, 90)
    factors = {"brightness": 1.5, "contrast": 0.6, "saturation": 1.6, "hue": 0.15}
    ours = rendered(image, parameters(jitter=1, order=order, **factors), 64)
    expected = floats(image, 64)
    steps = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    for operation in order:
        expected = steps[operation](expected, list(factors.values())[operation])
    assert np.abs(ours - expected.numpy()).max() < 2e-4


def test_hue_of_grey_and_of_primaries() -> None:
    colours = np.array([[128, 128, 128], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0], [255, 255, 0]], np.uint8)
    for colour in colours:
        image = np.broadcast_to(colour, (8, 8, 3)).copy()
        ours = rendered(image, parameters(jitter=1, hue=1 / 3), 8)
        assert np.allclose(ours[:, 0, 0] * 255, colour[[2, 0, 1]], atol=0.01)


def test_gray_is_torchvisions() -> None:
    image = photograph(80, 90)
    expected = tv.rgb_to_grayscale(floats(image, 64), num_output_channels=3).numpy()
    assert np.abs(rendered(image, parameters(gray=1), 64) - expected).max() < 1e-5


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("size", "kernel"), [(224, 23), (32, 3), (64, 7), (33, 23)])
def test_blur_is_torchvisions(sigma, size, kernel) -> None:
    image = photograph(100, 120)
    ours = rendered(image, parameters(sigma=sigma, radius=kernel // 2), size)
    expected = tv.gaussian_blur(floats(image, size), [kernel, kernel], [sigma, sigma]).numpy()
    assert np.abs(ours - expected).max() < 3e-4


def test_blurred_gray_solarised_normalised_together() -> None:
    image = photograph(100, 120)
    norm = ph.normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    ours = rendered(image, parameters(sigma=1.2, gray=1, threshold=0.5), 64, norm=norm)
    expected = tv.rgb_to_grayscale(floats(image, 64), num_output_channels=3)
    expected = tv.gaussian_blur(expected, [23, 23], [1.2, 1.2])
    near = (expected - 0.5).abs().numpy() < 1e-3
    expected = tv.normalize(tv.solarize(expected, 0.5), [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]).numpy()
    assert np.abs(ours - expected)[~near].max() < 2e-3
    assert near.mean() < 0.05


def test_solarise_and_normalise_without_blur() -> None:
    image = photograph(64, 64)
    norm = ph.normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    ours = rendered(image, parameters(threshold=0.5), 64, norm=norm)
    expected = tv.normalize(tv.solarize(floats(image, 64), 0.5), [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]).numpy()
    assert np.abs(ours - expected).max() < 1e-4


@pytest.mark.parametrize("degrees", [-40.0, -3.0, 12.5, 90.0])
def test_rotation_is_torchvisions_and_comes_before_the_colours(degrees: float) -> None:
    image = photograph(90, 70)
    ours = rendered(image, parameters(angle=np.radians(degrees)), 33)
    theirs = tv.rotate(floats(image, 33), degrees, tv.InterpolationMode.BILINEAR)
    assert np.abs(ours - theirs.numpy()).max() < 1e-4
    jittered = rendered(image, parameters(angle=np.radians(degrees), jitter=1, contrast=0.5), 33)
    assert np.abs(jittered - tv.adjust_contrast(theirs, 0.5).numpy()).max() < 1e-4


def test_angles_are_drawn_up_to_the_degrees_either_way() -> None:
    angles = np.degrees(drawn(Recipe(rotation_p=0.5, degrees=30))[:, ph.P_ANGLE])
    assert abs((angles != 0).mean() - 0.5) < 0.03
    assert 29 < angles.max() <= 30
    assert -30 <= angles.min() < -29
    assert not drawn(Recipe(), 300)[:, ph.P_ANGLE].any()


def test_read_only_and_tiny_images_render() -> None:
    image = photograph(1, 1)
    image.flags.writeable = False
    ours = rendered(image, parameters(), 8)
    assert np.allclose(ours * 255, image[0, 0][:, None, None], atol=1e-3)


def drawn(recipe: Recipe, count: int = 4000) -> np.ndarray:
    rows = np.empty((count, ph.PARAMETER_FIELDS))
    vector = recipe.vector()
    for i in range(count):
        ph.draw_parameters(np.uint64(draw_key(0, "photometric", 0, str(i))), vector, rows[i])
    return rows


def test_draws_have_the_recipes_distribution() -> None:
    rows = drawn(Recipe(solarise_p=0.2))
    for field, share in ((ph.P_FLIP, 0.5), (ph.P_JITTER, 0.8), (ph.P_GRAY, 0.2)):
        assert abs(rows[:, field].mean() - share) < 0.03
    assert abs((rows[:, ph.P_SIGMA] > 0).mean() - 0.5) < 0.03
    assert abs((rows[:, ph.P_THRESHOLD] < 1).mean() - 0.2) < 0.03
    for field in (ph.P_BRIGHTNESS, ph.P_CONTRAST, ph.P_SATURATION):
        assert rows[:, field].min() >= 0.2
        assert rows[:, field].max() <= 1.8
        assert abs(rows[:, field].mean() - 1) < 0.03
    assert abs(rows[:, ph.P_HUE]).max() <= 0.2
    orders = {tuple(r) for r in rows[:, ph.P_ORDER : ph.P_ORDER + 4].astype(int).tolist()}
    assert len(orders) == 24
    assert all(sorted(o) == [0, 1, 2, 3] for o in orders)


@pytest.mark.parametrize("name", [t for t in TRANSFORMS if t != "crop"])
def test_leaving_one_transform_out_leaves_the_others_draws(name: str) -> None:
    fields = {
        "flip": [ph.P_FLIP], "jitter": [ph.P_JITTER], "gray": [ph.P_GRAY], "blur": [ph.P_SIGMA],
        "solarise": [ph.P_THRESHOLD], "rotation": [ph.P_ANGLE],
    }[name]  # fmt: skip
    recipe = Recipe(solarise_p=0.2, rotation_p=0.5)
    full, less = drawn(recipe, 300), drawn(recipe.without(name), 300)
    others = [f for f in range(ph.PARAMETER_FIELDS) if f not in fields]
    assert np.array_equal(full[:, others], less[:, others])
    assert not np.array_equal(full[:, fields], less[:, fields])


def test_presets_are_the_papers() -> None:
    first, second = preset("asymmetric_imagenet")
    assert (first.blur_p, second.blur_p, first.solarise_p, second.solarise_p) == (1.0, 0.1, 0.0, 0.2)
    assert first.jitter == (0.4, 0.4, 0.2, 0.1)
    weak = preset("adainf_symmetric")[0]
    assert (weak.scale, weak.jitter_p, weak.jitter) == ((0.2, 1.0), 0.4, (0.4, 0.4, 0.4, 0.1))
    assert preset("symmetric")[0] == Recipe()
    assert all(len(views) == 2 for views in PRESETS.values())
    assert recipe_dict(Recipe())["scale"] == [0.08, 1.0]
    assert "degrees" not in recipe_dict(Recipe())
    assert recipe_dict(Recipe(rotation_p=0.5))["degrees"] == 15.0


def test_removals_leave_what_their_names_say() -> None:
    full = Recipe(solarise_p=0.2, rotation_p=0.5)
    chances = ("flip_p", "jitter_p", "gray_p", "blur_p", "solarise_p", "rotation_p")
    left = {
        name: ({c[:-2] for c in chances if getattr(full.without(*out), c)}, full.without(*out).crop)
        for name, out in REMOVALS.items()
    }
    everything = {c[:-2] for c in chances}
    single = {f"no_{t}": (everything - {t}, True) for t in ("gray", "jitter", "blur", "flip", "rotation")}
    expected = {"full": (everything, True), **single, "crop_only": (set(), True), "identity": (set(), False)}
    assert left == expected
    with pytest.raises(InvalidOption, match="no_gray"):
        removal("no_crop")


def test_wrong_presets_and_recipes_are_refused() -> None:
    with pytest.raises(InvalidOption, match="symmetric_weak"):
        preset("strong")
    with pytest.raises(InvalidOption, match="rotation"):
        Recipe().without("shear")
    for options in ({"flip_p": 2}, {"jitter": (1, 1, 1, 0.6)}, {"sigma": (0, 1)}, {"blur_kernel": 4}, {"degrees": 200}):
        with pytest.raises(InvalidOption):
            Recipe(**options)
