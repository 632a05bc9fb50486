"""Geometry, invariance and costs of a saved encoder: fixed views, fixed changes, honest gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from semaug.artifacts.decode import encode_png
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.sources import open_source
from semaug.eval.geometry.invariance import NUMBERS, Transform
from semaug.eval.geometry.results import GeometryResult
from semaug.pairs_dataset import make_pairs
from semaug.pairs_dataset.device_views import luminance
from semaug.ssl_methods import build_encoder, save_encoder
from semaug.studies.protocols.costs import _Forward, costs_of
from semaug.studies.protocols.features import Embedder
from semaug.studies.protocols.geometry import TwoViews, run_geometry, run_invariance, two_views
from semaug.studies.protocols.transforms import TRANSFORMS

IMAGES = "scenes:test?items=90"
BY_NAME = {t.name: t for t in TRANSFORMS}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "run"
    save_encoder(folder, build_encoder("small-cnn", input_size=32, seed=0), method="none", seed=0, steps=0)
    return folder


def pictures(count: int = 4, size: int = 24) -> torch.Tensor:
    """Smooth random images, so that sampling between pixels changes little."""
    small = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(small, size, mode="bicubic", align_corners=False).clamp(0, 1)


def numbers(value: float, count: int = 4) -> torch.Tensor:
    return torch.full((count, NUMBERS), value, dtype=torch.float64)


# The changes


@pytest.mark.parametrize("name", ["rotate", "translate", "shear", "brightness", "contrast", "saturation", "hue"])
def test_the_middle_of_a_change_changes_nothing(name: str) -> None:
    images = pictures()
    changed = BY_NAME[name].change(images.clone(), numbers(0.5))
    torch.testing.assert_close(changed, images, atol=2e-6, rtol=0)


def test_geometric_changes_by_hand() -> None:
    images = pictures()
    assert torch.equal(BY_NAME["flip"].change(images, numbers(0)), images.flip(3))
    shifted = BY_NAME["translate"].change(images, numbers(0))  # an eighth of 24 pixels, to the right and down
    torch.testing.assert_close(shifted[:, :, 3:, 3:], images[:, :, :-3, :-3], atol=1e-5, rtol=0)
    mirrored = images[:, :, 3:, :3].flip(3)[:, :, :-3]
    torch.testing.assert_close(shifted[:, :, 6:, :3], mirrored, atol=1e-5, rtol=0)
    torch.testing.assert_close(BY_NAME["zoom"].change(images, numbers(0)), images, atol=1e-5, rtol=0)
    zoomed = BY_NAME["zoom"].change(images, torch.ones(4, NUMBERS, dtype=torch.float64))
    middle = torch.nn.functional.interpolate(images[:, :, 4:20, 4:20], 24, mode="bilinear", align_corners=False)
    torch.testing.assert_close(zoomed[:, :, 2:-2, 2:-2], middle[:, :, 2:-2, 2:-2], atol=1e-4, rtol=0)


def test_a_rotation_keeps_the_centre_and_turns_what_surrounds_it() -> None:
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, 33),) * 2, indexing="ij")
    images = (0.5 + 0.3 * x + 0.1 * y).expand(1, 3, 33, 33).contiguous()
    turned = BY_NAME["rotate"].change(images, torch.ones(1, NUMBERS, dtype=torch.float64))  # 30 degrees
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    expected = 0.5 + 0.3 * (cos * x - sin * y) + 0.1 * (sin * x + cos * y)
    torch.testing.assert_close(turned[0, 0, 8:-8, 8:-8], expected[8:-8, 8:-8], atol=0.01, rtol=0)


def test_crops_keep_the_share_of_the_image_they_promise() -> None:
    """On a ramp from 0 to 1 along both sides, the range of a crop is its share of the side."""
    ramp = torch.linspace(0, 1, 64)
    images = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), ramp.expand(64, 64)]).expand(
        200, -1, -1, -1
    )
    drawn = torch.rand(200, NUMBERS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    crops = BY_NAME["crop"].change(images, drawn)
    width, height = (crops[:, c].amax((1, 2)) - crops[:, c].amin((1, 2)) for c in (0, 1))
    area = width * height
    assert 0.45 < area.min() < 0.55
    assert 0.9 < area.max() <= 1
    assert float(area.mean()) == pytest.approx(0.74, abs=0.03)


def test_colour_changes_by_hand() -> None:
    images = pictures() * 0.5 + 0.2
    low = numbers(0)
    torch.testing.assert_close(BY_NAME["brightness"].change(images.clone(), low), images * 0.6, atol=1e-6, rtol=0)
    gray = BY_NAME["gray"].change(images.clone(), low)
    torch.testing.assert_close(gray, luminance(images).expand_as(images))
    mean = luminance(images).mean((2, 3), keepdim=True)
    contrast = BY_NAME["contrast"].change(images.clone(), low)
    torch.testing.assert_close(contrast, 0.6 * images + 0.4 * mean, atol=1e-6, rtol=0)
    noise = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(3))
    blurred = BY_NAME["blur"].change(noise.clone(), low)  # a deviation of 0.96 pixels
    assert float(blurred.var() / noise.var()) == pytest.approx(1 / (4 * np.pi * 0.96**2), rel=0.1)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: t.name)
def test_every_change_gives_images_and_depends_on_its_numbers(transform: Transform) -> None:
    images = pictures()
    drawn = torch.rand(4, NUMBERS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    first, again = (transform.change(images.clone(), drawn) for _ in range(2))
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    assert torch.equal(first, again)
    assert not torch.allclose(first, images, atol=1e-3)
    assert torch.equal(transform.change(images.clone(), 1 - drawn), first) is not transform.random
    one = transform.change(images[2:3].clone(), drawn[2:3])
    torch.testing.assert_close(one, first[2:3], atol=1e-6, rtol=0)  # images do not see one another
    other_layout = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(transform.change(other_layout, drawn), first, atol=1e-6, rtol=0)


def test_families() -> None:
    assert {t.family for t in TRANSFORMS} == {"geometric", "colour", "mixed"}
    assert len(BY_NAME) == len(TRANSFORMS)


# Two views


def test_views_are_the_presets_and_no_training_epochs(run: Path) -> None:
    found = two_views(run, IMAGES, limit=40, seed=3)
    assert isinstance(found, TwoViews)
    first, second = found.spaces["backbone"]
    assert first.shape == second.shape == (40, 128)
    assert set(found.spaces) == {"backbone", "projector"}
    embedder = Embedder(run)
    pairs = make_pairs("standard", open_source(IMAGES), preset="symmetric", size=32, seed=3)
    pairs.set_epoch(-1)
    from semaug.artifacts.draws import generator

    chosen = sorted(generator(3, "geometry-limit").permutation(90)[:40].tolist())
    with torch.inference_mode():
        expected, _ = embedder.work.encode(torch.stack([pairs[i][1] for i in chosen]))
    np.testing.assert_allclose(second, expected.numpy(), atol=1e-4)


def test_views_do_not_depend_on_readers(run: Path) -> None:
    one, three = (two_views(run, IMAGES, workers=w) for w in (1, 3))
    assert isinstance(one, TwoViews)
    assert isinstance(three, TwoViews)
    np.testing.assert_array_equal(one.spaces["projector"][0], three.spaces["projector"][0])


def test_unreadable_images_are_listed(run: Path, tmp_path: Path) -> None:
    for place in range(5):
        image = np.random.default_rng(place).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (tmp_path / f"{place}.png").write_bytes(encode_png(image))
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:400])
    found = two_views(run, str(tmp_path))
    assert isinstance(found, TwoViews)
    assert len(found.spaces["backbone"][0]) == 4
    assert [s.key for s in found.skipped] == ["2.png"]
    assert [s.key for s in run_invariance(run, str(tmp_path), draws=1).skipped] == ["2.png"]
    with pytest.raises(InvalidOption, match="limit of 0"):
        two_views(run, str(tmp_path), limit=0)


def test_geometry_of_a_run(run: Path) -> None:
    features = Embedder(run, keep=False).features(IMAGES)
    found = run_geometry(features, two_views(run, IMAGES), loops=False)
    names = {m.metric for m in found}
    for space in ("backbone", "projector"):
        for metric in ("twonn", "mle", "uniformity", "betti0_auc", "alignment", "infonce_bound"):
            assert f"geometry/{space}/{metric}" in names
    assert 0 < (found.value("geometry/backbone/alignment") or 0) < 4
    without = run_geometry(features, "not asked for")
    missing = [m for m in without if m.value is None]
    assert {m.metric.rsplit("/", 1)[1] for m in missing} >= {"alignment", "infonce_bound"}
    assert all(m.reason == "not asked for" for m in missing)
    assert without.value("geometry/backbone/twonn") == found.value("geometry/backbone/twonn")


def test_more_images_than_the_limit_are_drawn_from(run: Path) -> None:
    features = Embedder(run, keep=False).features(IMAGES)
    found = run_geometry(features, "not asked for", limit=30)
    assert {m.n for m in found if m.metric.endswith("/uniformity")} == {30}
    assert "measured on 30 of 90 images, drawn at random" in found.warnings
    assert found == run_geometry(features, "not asked for", limit=30)
    assert found != run_geometry(features, "not asked for", limit=30, seed=1)


def test_views_more_alike_align_better(run: Path) -> None:
    """The same images twice align perfectly; two draws of the preset do not, other images less still."""
    features = Embedder(run, keep=False).features(IMAGES)
    values = features.features

    def alignment(second: np.ndarray) -> float:
        result: GeometryResult = run_geometry(
            features, TwoViews({"backbone": (values, second), "projector": (values, values)})
        )
        return result.value("geometry/backbone/alignment") or 0.0

    drawn = two_views(run, IMAGES)
    assert isinstance(drawn, TwoViews)
    of_views = run_geometry(features, drawn).value("geometry/backbone/alignment") or 0.0
    assert alignment(values) == pytest.approx(0, abs=1e-12)
    assert of_views > 0.01
    assert alignment(np.roll(values, 1, axis=0)) > 0.01


def test_a_features_artifact_has_no_views(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.zarr"
    Embedder(run, keep=False).embed_to(IMAGES, out)
    assert two_views(run, str(out)) == "a features artifact holds no images to make views of"
    with pytest.raises(InvalidOption, match="give --images the images"):
        run_invariance(run, str(out))
    with pytest.raises(InvalidOption, match="give the images"):
        costs_of(run, str(out))


def test_invariance_of_a_run(run: Path) -> None:
    found = run_invariance(run, IMAGES, limit=12, draws=2)
    scores = {m.metric: m.value for m in found}
    for space in ("backbone", "projector"):
        for family in ("geometric", "colour", "mixed"):
            assert 0 < scores[f"invariance/{space}/{family}"] < 1
            assert scores[f"invariance/{space}/{family}_above_chance"] < scores[f"invariance/{space}/{family}"]
    assert {m.n for m in found} == {12}


# Costs


def test_costs_of_a_run(run: Path) -> None:
    found = costs_of(run, IMAGES, batch_size=16, limit=80)
    values = {m.metric: m.value for m in found}
    encoder = build_encoder("small-cnn", input_size=32)
    assert values["costs/backbone_parameters"] == sum(p.numel() for p in encoder.backbone.parameters())
    assert encoder.projector is not None
    assert values["costs/projector_parameters"] == sum(p.numel() for p in encoder.projector.parameters())
    low, middle, high = (values[f"costs/forward_seconds{q}"] for q in ("_quartile_low", "", "_quartile_high"))
    assert 0 < low <= middle <= high
    assert values["costs/read_seconds"] > 0
    assert found.device == "cpu"
    with pytest.raises(InvalidOption, match="90 images are 1 batches of 64"):
        costs_of(run, IMAGES)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the height of memory")
def test_memory_is_what_a_pass_holds() -> None:
    class Holding(torch.nn.Module):
        projector = None

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(20_000_000)[:1] + images.mean((1, 2, 3))

    megabytes, reason = _Forward(Holding(), "cpu").memory(torch.zeros(4, 3, 8, 8))
    assert megabytes == pytest.approx(80, abs=8)
    assert not reason


def test_an_encoder_without_projector_has_one_space(tmp_path: Path) -> None:
    encoder = build_encoder("small-cnn", input_size=32, projector=None)
    save_encoder(tmp_path / "run", encoder, method="none", seed=0, steps=0)
    found = two_views(tmp_path / "run", IMAGES, limit=20)
    assert isinstance(found, TwoViews)
    assert set(found.spaces) == {"backbone"}
    features = Embedder(tmp_path / "run", keep=False).features(IMAGES)
    assert not [m for m in run_geometry(features, found) if "projector" in m.metric]
