"""Grad-CAM, quality sensitivity, failures, similarities, curves over T: closed forms and edge cases."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import Guidance
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.figures.embedding import tsne_map
from semaug.eval.figures.failures import find_failures
from semaug.eval.figures.grad_cam import (
    Layer,
    box_region,
    centroid_similarity,
    class_logit,
    energy_in_boxes,
    grad_cam,
    heat_map,
    overlay,
    own_embedding,
)
from semaug.eval.figures.knn import knn_temperature_curves
from semaug.eval.figures.quality import preset_sensitivity, quality_curve, quality_sensitivity, wilson_interval
from semaug.eval.figures.similarity import fit_similarities, similarity_histogram
from semaug.eval.probes.knn import KnnGrid


class Toy(nn.Module):
    """Maps are the image's channels as they are; features their means: every heat map is known."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.maps.weight.copy_(torch.eye(3)[:, :, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean((2, 3))


def toy_images(seed: int = 0, n: int = 4) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3, 5, 5)).astype(np.float32))


def test_the_heat_of_a_linear_network_is_the_weighted_sum_of_its_maps() -> None:
    network, images = Toy().eval(), toy_images()
    weight = np.asarray([[1.0, -2.0], [0.5, 0.0], [-1.0, 3.0]], np.float32)
    labels = np.asarray([0, 1, 1, 0])
    found = grad_cam(network, Layer(network.maps), images, class_logit(weight, np.ones(2, np.float32), labels))
    expected = np.einsum("bc,bchw->bhw", weight[:, labels].T / 25, images.numpy())
    np.testing.assert_allclose(found, expected.clip(min=0), atol=1e-6)
    assert (expected < 0).any()


def test_the_heat_of_an_own_embedding_weighs_maps_by_their_means() -> None:
    network, images = Toy().eval(), toy_images(1)
    found = grad_cam(network, Layer(network.maps), images, own_embedding)
    means = images.numpy().mean((2, 3))
    expected = np.einsum("bc,bchw->bhw", means / 25, images.numpy()).clip(min=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_cosine_to_the_own_embedding_has_no_heat_and_to_a_centroid_some() -> None:
    network, images = Toy().eval(), toy_images(2)
    own = network(images).detach().numpy()
    found = grad_cam(network, Layer(network.maps), images, centroid_similarity(own, np.arange(4)))
    assert np.abs(found).max() < 1e-6
    other = centroid_similarity(own[::-1].copy(), np.arange(4))
    assert grad_cam(network, Layer(network.maps), images, other).max() > 1e-3


class Nonlinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.Tanh())
        self.shift: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        if self.shift is not None:
            maps = maps + self.shift
        return self.second(maps).mean((2, 3))


def test_channel_weights_are_the_finite_differences_of_the_score() -> None:
    network, images = Nonlinear().double().eval(), toy_images(3, 2).double()
    found = grad_cam(network, Layer(network.first), images, own_embedding)
    with torch.no_grad():
        maps, slopes = network.first(images), []
        for channel in range(6):
            values = []
            for step in (1e-5, -1e-5):
                network.shift = torch.zeros(1, 6, 1, 1, dtype=torch.float64)
                network.shift[0, channel] = step
                values.append(own_embedding(network(images)))
            slopes.append((values[0] - values[1]) / 2e-5 / 25)
        expected = (torch.stack(slopes, 1)[:, :, None, None] * maps).sum(1).clamp(min=0)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-9)


class Tokens(nn.Module):
    """The toy network as a transformer writes it: two tokens without a place, then the cells row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        cells = images.flatten(2).transpose(1, 2)
        tokens = self.norm(torch.cat([torch.full_like(cells[:, :2], 7.0), cells], 1))
        return tokens[:, 2:].mean(1)


def test_tokens_give_the_heat_of_the_same_maps() -> None:
    maps, tokens, images = Toy().eval(), Tokens().eval(), toy_images(4)
    expected = grad_cam(maps, Layer(maps.maps), images, own_embedding)
    found = grad_cam(tokens, Layer(tokens.norm, "tokens", prefix=2), images, own_embedding)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(EvaluationError, match="26 tokens behind 1 others make no square"):
        grad_cam(tokens, Layer(tokens.norm, "tokens", prefix=1), images, own_embedding)
    with pytest.raises(EvaluationError, match="3 dimensions where maps have 4"):
        grad_cam(tokens, Layer(tokens.norm), images, own_embedding)


def test_heat_of_frozen_weights_inside_no_grad_and_layers_that_do_not_count() -> None:
    network, images = Toy().eval().requires_grad_(False), toy_images()
    with torch.no_grad():
        assert grad_cam(network, Layer(network.maps), images, own_embedding).max() > 0
    assert not network.maps._forward_hooks
    with pytest.raises(EvaluationError, match="do not depend on the layer"):
        grad_cam(lambda x: x.mean((2, 3)) + 0 * network.maps(x.detach()).mean(), Layer(network.maps), images,
                 own_embedding)  # fmt: skip
    with pytest.raises(EvaluationError, match="do not depend on the layer"):
        grad_cam(lambda x: x.mean((2, 3)) + 0 * network.maps(x).detach().mean(), Layer(network.maps), images,
                 own_embedding)  # fmt: skip
    with pytest.raises(EvaluationError, match="ran 2 times"):
        grad_cam(lambda x: network(x) + network(x), Layer(network.maps), images, own_embedding)


def test_heat_maps_reach_from_zero_to_one_or_stay_empty() -> None:
    heat = np.zeros((2, 2, 2), np.float32)
    heat[0, 0, 1] = 5.0
    large = heat_map(heat, 8)
    assert large.shape == (2, 8, 8)
    assert large[0].max() == pytest.approx(1)
    assert (large[0].argmax() // 8, large[0].argmax() % 8) == (0, 6)
    assert not large[1].any()
    image = np.full((8, 8, 3), 90, np.uint8)
    assert (np.asarray(overlay(image, large[1])) == 90).all()
    assert (np.asarray(overlay(image, large[0]))[0, 7] != 90).any()


def test_regions_follow_the_square_that_features_are_made_of() -> None:
    whole = box_region(np.asarray([[0, 0, 40, 20]]), 20, 40, 1.0, 10)
    assert whole.all()
    left = box_region(np.asarray([[0, 0, 20, 20]]), 20, 40, 1.0, 10)  # the square spans x 10 to 30
    assert left[:, :5].all()
    assert not left[:, 5:].any()
    outside = box_region(np.asarray([[0, 0, 9, 20], [31, 0, 40, 20]]), 20, 40, 1.0, 10)
    assert not outside.any()
    cropped = box_region(np.asarray([[15, 5, 25, 15]]), 20, 40, 0.5, 10)
    assert cropped.all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_energy_is_a_share_and_an_even_map_has_its_area(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    regions = rng.random((n, 6, 6)) < 0.4
    heat = rng.random((n, 6, 6)).astype(np.float32)
    found = energy_in_boxes(heat, regions)
    assert ((found.inside >= 0) & (found.inside <= 1)).all()
    even = energy_in_boxes(np.ones_like(heat), regions)
    np.testing.assert_allclose(even.inside, even.area)
    inside_only = energy_in_boxes(heat * regions, regions)
    np.testing.assert_allclose(inside_only.inside, 1)


def test_energy_without_heat_or_boxes_is_empty_with_its_reason() -> None:
    found = energy_in_boxes(np.zeros((3, 4, 4), np.float32), np.ones((3, 4, 4), bool))
    rows = {m.metric: m for m in found}
    assert rows["grad_cam/energy_in_box"].value is None
    assert "none of 3 images" in rows["grad_cam/energy_in_box"].reason
    one = {m.metric: m for m in energy_in_boxes(np.ones((1, 4, 4), np.float32), np.ones((1, 4, 4), bool))}
    assert one["grad_cam/energy_in_box"].value == 1
    assert one["grad_cam/energy_in_box/shuffled"].value is None
    assert one["grad_cam/energy_in_box/gain_std"].value is None
    with pytest.raises(EvaluationError, match="give one a map"):
        energy_in_boxes(np.ones((1, 4, 4), np.float32), np.ones((2, 4, 4), bool))


def test_accuracy_rises_with_quality_where_it_does() -> None:
    rng = np.random.default_rng(0)
    quality = rng.random(4000)
    correct = rng.random(4000) < quality
    found = quality_sensitivity(quality, correct, bins=4)
    assert [row.n for row in found.bins] == [1000] * 4
    for row, expected in zip(found.bins, (0.125, 0.375, 0.625, 0.875), strict=True):
        assert row.accuracy == pytest.approx(expected, abs=0.05)
        assert row.interval[0] < row.accuracy < row.interval[1]
    assert found.tau is not None
    assert found.tau > 0.3
    assert sum(row.n * row.accuracy for row in found.bins) == pytest.approx(found.overall * 4000)
    assert abs(quality_sensitivity(quality, rng.random(4000) < 0.5).tau or 0) < 0.05


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=40),
       st.integers(1, 7))  # fmt: skip
def test_bins_hold_every_image_once_whatever_the_ties(rows: list[tuple[float, bool]], bins: int) -> None:
    quality, correct = np.asarray([r[0] for r in rows]), np.asarray([r[1] for r in rows])
    found = quality_sensitivity(quality, correct, bins)
    assert sum(row.n for row in found.bins) == len(rows)
    assert 1 <= len(found.bins) <= bins
    edges = [(row.low, row.high) for row in found.bins]
    assert all(a[1] < b[0] for a, b in pairwise(edges))
    for measure in found:
        assert measure.value is not None or measure.reason


def test_quality_that_cannot_be_split_is_refused_or_explained() -> None:
    same = quality_sensitivity(np.full(5, 0.4), np.asarray([True, False, True, True, False]))
    assert len(same.bins) == 1
    assert same.tau is None
    with pytest.raises(EvaluationError, match="3 qualities and 2 answers"):
        quality_sensitivity(np.zeros(3), np.ones(2, bool))
    with pytest.raises(EvaluationError, match="1 of 2 qualities are not finite"):
        quality_sensitivity(np.asarray([0.1, np.nan]), np.ones(2, bool))


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (3, 9), (50, 80), (9, 9)])
def test_wilsons_interval_solves_its_equation(hits: int, n: int) -> None:
    """Its ends are the shares p at which (hits/n - p)^2 = z^2 p (1 - p) / n."""
    low, high = wilson_interval(hits, n)
    z = stats.norm.ppf(0.975)
    for p in (low, high):
        assert (hits / n - p) ** 2 == pytest.approx(z * z * p * (1 - p) / n, abs=1e-12)


def test_similarities_are_fitted_by_the_normal_of_largest_likelihood() -> None:
    values = np.random.default_rng(0).normal(0.72, 0.06, 3000).clip(-1, 1)
    fit = fit_similarities(values)
    mean, sd = stats.norm.fit(values)
    assert (fit.mean, fit.sd) == pytest.approx((mean, sd))
    assert fit.below == (values < 0.6).mean()
    assert fit.distance is not None
    assert fit.distance < 0.02
    bimodal = fit_similarities(np.concatenate([values[:500] - 0.4, values[500:1000]]))
    assert bimodal.distance is not None
    assert bimodal.distance > 0.1
    assert fit_similarities([0.6, 0.6]).below == 0  # equality is kept
    assert fit_similarities([0.6, 0.6]).distance is None
    for bad, message in (([], "no similarities"), ([0.5, math.nan], "1 of 2"), ([1.5], "no cosines")):
        with pytest.raises(EvaluationError, match=message):
            fit_similarities(bad)


def row(key: str, *boxes: tuple[float, ...], size: tuple[int, int] = (100, 100), **more: object) -> Guidance:
    return Guidance(key, *size, boxes=np.asarray(boxes, np.float32).reshape(-1, 4), **more)  # type: ignore[arg-type]


def test_failures_against_true_boxes() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:50, 10:50] = True
    ours = GuidanceTable.of(
        [row("good", (10, 10, 50, 50)), row("half", (30, 10, 70, 50)), row("off", (60, 60, 90, 90)),
         row("none", fallback=True), row("mask", scale="pixel", masks=(encode_mask(mask),)),
         row("unknown", (0, 0, 5, 5)), row("resized", (20, 20, 100, 100), size=(200, 200))]
    )  # fmt: skip
    truth = GuidanceTable.of([row(key, (10, 10, 50, 50), (0, 0, 1, 1))
                              for key in ("good", "half", "off", "none", "mask", "resized")])  # fmt: skip
    found = find_failures(ours, truth)
    assert found.n == 6
    assert [f.key for f in found.of("miss")] == ["none"]
    assert [f.key for f in found.of("error")] == ["off"]
    assert found.of("error")[0].why == "overlap (IoU) with a true box 0.00"
    rows = {m.metric: m.value for m in found}
    assert rows["guidance/miss_rate"] == pytest.approx(1 / 6)
    assert rows["guidance/mean_overlap"] == pytest.approx((1 + 1 / 3 + 0 + 0 + 1 + 1) / 6)


def test_failures_without_true_boxes_are_told_by_place_and_size() -> None:
    ours = GuidanceTable.of(
        [row("fine", (20, 20, 70, 70)), row("whole", (0, 0, 100, 99)), row("dot", (50, 50, 55, 55)),
         row("strip", (0, 0, 90, 8)), row("line", (5, 40, 95, 50)), row("none", fallback=True)]
    )  # fmt: skip
    found = find_failures(ours)
    assert {f.key: f.why for f in found.of("error")} == {
        "whole": "the box covers 99% of the image",
        "dot": "the box covers 0.3% of the image",
        "strip": "the box is a strip along an edge",
    }
    assert [m.value for m in found] == [1 / 6, 3 / 6, None]
    assert next(iter(find_failures(GuidanceTable.of([])))).value is None


def test_new_figures_are_xml_that_shows_what_it_is_told() -> None:
    rng = np.random.default_rng(0)
    quality = rng.random(60)
    found = quality_sensitivity(quality, rng.random(60) < quality)
    accuracy = rng.random((2, 3))
    grid = KnnGrid("backbone", (1, 20), (0.05, 0.07, 0.5), accuracy, None, 9, 30)
    nasty = "<$b&>"
    figures = {
        "low": quality_curve(found, {"low": 0.5}),
        nasty: preset_sensitivity({nasty: {"default": [0.5, 0.6], "res": [0.4]}}, {nasty: 0.3}),
        "normal: mean": similarity_histogram(rng.normal(0.7, 0.05, 200).clip(-1, 1)),
        "below": similarity_histogram([0.5, 0.5]),
        "backbone, k = 1": knn_temperature_curves([("backbone", grid)]),
    }
    for word, image in figures.items():
        assert word in "".join(ElementTree.fromstring(image.decode()).itertext())
    assert similarity_histogram([0.5, 0.7], image_format="png").startswith(b"\x89PNG")
    with pytest.raises(EvaluationError, match="no configuration"):
        preset_sensitivity({})


@pytest.mark.parametrize(("value", "reason"), [(math.nan, "16 of 16 .* NaN"), (0.0, "collapsed"), (1.0, "collapsed")])
def test_a_map_of_nan_or_of_one_point_is_refused(value: float, reason: str) -> None:
    values, labels = np.full((16, 8), value, np.float32), np.arange(16) % 2
    with pytest.raises(EvaluationError, match=reason):
        tsne_map(Features(values, None, labels, tuple(map(str, range(16))), ("a", "b")))
