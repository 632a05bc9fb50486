"""Crops against torchvision's algorithm, their bounds, and the rules for boxes and masks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import v2

from semaug.artifacts import draws
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.masks import encode_mask
from semaug.pairs_dataset.beta import symmetric_beta
from semaug.pairs_dataset.crops import (
    CropRule,
    choose_object,
    expanded_box,
    guided_crop,
    mask_accepts,
    plan_crops,
    random_resized_crop,
)
from semaug.pairs_dataset.mask_runs import mask_runs
from semaug.pairs_dataset.random_numbers import uniform

WHOLE = np.array([0.0, 0.0, 1.0, 1.0])
NO_RUNS = np.zeros((0, 2), np.int32)
SIZE_1 = np.ones(2, np.int64)
keys = st.integers(0, 2**64 - 1)
sides = st.integers(8, 400)


@given(keys, st.integers(0, 2**20))
@settings(deadline=None)
def test_compiled_uniform_equals_the_draws(key: int, slot: int) -> None:
    assert uniform(np.uint64(key), slot) == draws.uniform(key, slot)


class _TorchvisionDraws:
    """Feeds torchvision's RandomResizedCrop from the slots of a draw key, four a try."""

    def __init__(self, key: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.key, self.calls = key, 0
        monkeypatch.setattr(torch, "empty", lambda *_: self)
        monkeypatch.setattr(torch, "randint", self._randint)

    def uniform_(self, low, high) -> torch.Tensor:
        low, high = float(low), float(high)
        slot = 4 * (self.calls // 2) + self.calls % 2
        self.calls += 1
        return torch.tensor(low + (high - low) * draws.uniform(self.key, slot), dtype=torch.float64)

    def _randint(self, low: int, high: int, size: tuple[int]) -> torch.Tensor:
        slot = 4 * (self.calls // 2 - 1) + (2 if not hasattr(self, "second") else 3)
        self.second = True
        return torch.tensor(low + int(draws.uniform(self.key, slot) * (high - low)))


def _torchvision_crop(key, height, width, rule, monkeypatch):
    transform = v2.RandomResizedCrop(16, scale=rule.box_scale, ratio=rule.ratio)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    with monkeypatch.context() as patch:
        _TorchvisionDraws(key, patch)
        found = transform.make_params([image])
    return tuple(int(found[k]) for k in ("top", "left", "height", "width"))


@pytest.mark.parametrize("shape", [(375, 500), (32, 32), (40, 400), (400, 40), (5, 7), (64, 100)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 0.6), (0.9, 1.0)])
def test_crops_are_torchvisions_given_its_draws(shape, scale, monkeypatch) -> None:
    height, width = shape
    rule = CropRule(margin=0.0, scale=scale, box_scale=scale)
    for i in range(60):
        key = draws.draw_key(i, "crop", 0, "image")
        expected = _torchvision_crop(key, height, width, rule, monkeypatch)
        vector = rule.vector()
        assert tuple(random_resized_crop(np.uint64(key), 0, width, height, *scale, vector)) == expected
        assert tuple(guided_crop(np.uint64(key), WHOLE, NO_RUNS, SIZE_1, width, height, vector)) == expected


@given(keys, sides, sides, st.tuples(*[st.floats(0, 1)] * 4), st.sampled_from(["inside", "cover", "box_as_view"]))
@settings(max_examples=200, deadline=None)
def test_every_crop_lies_in_the_image_and_inside_in_the_expanded_box(key, height, width, corners, mode) -> None:
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    if (x1 - x0) * width < 2 or (y1 - y0) * height < 2:
        return
    box, rule = np.array([x0, y0, x1, y1]), CropRule(mode=mode)
    top, left, h, w = guided_crop(np.uint64(key), box, NO_RUNS, SIZE_1, width, height, rule.vector())
    assert top >= 0
    assert left >= 0
    assert h >= 1
    assert w >= 1
    assert top + h <= height
    assert left + w <= width
    if mode == "inside":
        bx0, by0, bx1, by1 = expanded_box(box, rule.margin, width, height)
        assert bx0 <= left
        assert left + w <= bx1
        assert by0 <= top
        assert top + h <= by1
        assert bx0 >= math.floor((x0 - 0.1 * (x1 - x0)) * width - 1e-6) or bx1 - bx0 == 2


def test_cover_keeps_half_of_the_box_or_falls_back_inside() -> None:
    box, rule = np.array([0.3, 0.2, 0.7, 0.6]), CropRule(mode="cover", tau=0.5)
    covered = 0
    for i in range(400):
        key = np.uint64(draws.draw_key(i, "crop", 0, "a"))
        top, left, h, w = guided_crop(key, box, NO_RUNS, SIZE_1, 200, 100, rule.vector())
        dx = min(140, left + w) - max(60, left)
        dy = min(60, top + h) - max(20, top)
        keeps = max(dx, 0) * max(dy, 0) >= 0.5 * 80 * 40
        x0, y0, x1, y1 = expanded_box(box, rule.margin, 200, 100)
        inside = x0 <= left and left + w <= x1 and y0 <= top and top + h <= y1
        assert keeps or inside
        covered += keeps
    assert covered > 300


def test_box_as_view_is_the_box() -> None:
    crop = guided_crop(
        np.uint64(1), np.array([0.1, 0.2, 0.5, 0.8]), NO_RUNS, SIZE_1, 100, 50, CropRule(mode="box_as_view").vector()
    )
    assert tuple(crop) == (10, 10, 30, 40)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_runs_count_what_the_mask_counts(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.random()
    runs = mask_runs(encode_mask(mask))
    from semaug.pairs_dataset.mask_runs import area_within, tight_box

    x0, x1 = sorted(rng.integers(0, width + 1, 2).tolist())
    y0, y1 = sorted(rng.integers(0, height + 1, 2).tolist())
    part = mask[y0:y1, x0:x1]
    assert area_within(runs, height, x0, y0, x1, y1) == part.sum()
    found = tight_box(runs, height, x0, y0, x1, y1)
    if not part.any():
        assert found == (0, 0, 0, 0)
    else:
        ys, xs = np.nonzero(part)
        assert found == (x0 + xs.min(), y0 + ys.min(), x0 + xs.max() + 1, y0 + ys.max() + 1)


@given(keys)
@settings(max_examples=100, deadline=None)
def test_accepted_crops_meet_the_mask_rule(key: int) -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:30] = True
    runs, rule = mask_runs(encode_mask(mask)), CropRule()
    box = np.array([20 / 80, 10 / 60, 30 / 80, 50 / 60])
    crop = guided_crop(np.uint64(key), box, runs, np.array([60, 80]), 160, 120, rule.vector())
    top, left, h, w = (v // 2 for v in crop)
    part = mask[top : top + h + 1, left : left + w + 1].sum()
    assert part >= 0.45 * mask.sum() or part >= 0.25 * h * w


def test_mask_rule_by_hand() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True
    runs = mask_runs(encode_mask(mask))
    assert mask_accepts((0, 0, 10, 10), runs, 10, 10, 10, 10, 0.5, 0.3)
    assert mask_accepts((0, 4, 5, 3), runs, 10, 10, 10, 10, 0.5, 0.3)  # a third of the crop is mask
    assert not mask_accepts((0, 4, 5, 4), runs, 10, 10, 10, 10, 0.5, 0.3)  # a quarter of it is


def test_object_choice() -> None:
    boxes = np.array([[0, 0, 0.05, 0.05], [0, 0, 0.5, 0.5], [0.5, 0.5, 0.9, 0.9]])
    drawn = {choose_object(u, boxes, 0.0, 0.01) for u in np.linspace(0, 0.999, 50)}
    assert drawn == {1, 2}
    assert {choose_object(u, boxes, 3.0, 0.01) for u in np.linspace(0, 0.999, 50)} == {0, 1, 2}
    assert choose_object(0.9, boxes, 1.0, 0.01) == 1
    assert choose_object(0.9, boxes, 2.0, 0.01) == -1
    assert choose_object(0.9, boxes[:1], 0.0, 0.01) == 0


def test_random_place_keeps_the_size_and_stays_in_the_image() -> None:
    rule = CropRule(mode="box_as_view", place_randomly=True)
    crops, chosen = np.empty((2, 4), np.int64), np.empty(2, np.int64)
    places = set()
    for i in range(50):
        k = np.array([i, i], np.uint64)
        plan_crops(
            100, 100, k, k, np.ones(2), np.array([[0.1, 0.1, 0.4, 0.3]]), NO_RUNS, np.zeros(2, np.int64), SIZE_1,
            np.stack([rule.vector()] * 2), crops, chosen,
        )  # fmt: skip
        assert abs(crops[0, 2] - 20) <= 1
        assert abs(crops[0, 3] - 30) <= 1
        assert (crops[0] == crops[1]).all()
        places.add((crops[0, 0], crops[0, 1]))
    assert len(places) > 40


@given(st.floats(0, 1, exclude_max=True), st.floats(0.01, 1))
@settings(max_examples=300, deadline=None)
def test_symmetric_beta_is_scipys_quantile(number: float, alpha: float) -> None:
    found = symmetric_beta(number, alpha)
    assert found == pytest.approx(stats.beta.ppf(number, alpha, alpha), rel=1e-12, abs=1e-250)
    assert symmetric_beta(number, 1.0) == number


def _places(rule: CropRule, free: int, count: int = 4000) -> np.ndarray:
    """Top and left of ``count`` square crops that leave ``free`` pixels of room at each side's end."""
    side = 400
    share = (side - free) ** 2 / side**2
    vector = replace(rule, scale=(share, share), ratio=(1.0, 1.0)).vector()
    crops = [
        random_resized_crop(np.uint64(draws.draw_key(i, "crop", 0, "a")), 0, side, side, share, share, vector)
        for i in range(count)
    ]
    assert {crop[2:] for crop in crops} == {(side - free, side - free)}
    return np.array(crops)[:, :2]


@pytest.mark.parametrize("alpha", [0.2, 0.6, 0.8])
def test_places_follow_the_symmetric_beta(alpha) -> None:
    free = 9
    places = _places(CropRule(centre_beta=alpha), free)
    chances = np.diff(stats.beta.cdf(np.linspace(0, 1, free + 2), alpha, alpha))
    for axis in (0, 1):
        counts = np.bincount(places[:, axis], minlength=free + 1)
        assert stats.chisquare(counts, chances * len(places)).pvalue > 1e-3
        assert stats.chisquare(counts, np.full(free + 1, len(places) / (free + 1))).pvalue < 1e-3
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.05


def test_an_alpha_of_one_is_uniform_and_smaller_ones_move_the_same_crops_outwards() -> None:
    uniform_places = _places(CropRule(), 300)
    assert np.array_equal(_places(CropRule(centre_beta=1.0), 300), uniform_places)
    outward = _places(CropRule(centre_beta=0.6), 300)
    assert (np.abs(outward - 150) >= np.abs(uniform_places - 150) - 1).all()
    assert (np.sign(outward - 150) * np.sign(uniform_places - 150) >= 0).all()


@given(keys, sides, sides, st.floats(0.001, 1), st.sampled_from(["inside", "cover"]))
@settings(max_examples=100, deadline=None)
def test_suppressed_crops_lie_in_the_image_and_keep_the_sizes_of_the_uniform(key, height, width, alpha, mode) -> None:
    box = np.array([0.2, 0.1, 0.7, 0.8])
    crops = [
        guided_crop(np.uint64(key), box, NO_RUNS, SIZE_1, width, height, CropRule(mode=mode, centre_beta=a).vector())
        for a in (None, alpha)
    ]
    top, left, h, w = crops[1]
    assert min(top, left) >= 0
    assert top + h <= height
    assert left + w <= width
    if mode == "inside":
        assert crops[0][2:] == crops[1][2:]


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "outside"},
        {"scale": (0.5, 0.2)},
        {"box_scale": (0, 1)},
        {"tau": 1.5},
        {"margin": -1},
        {"select": "x"},
        {"centre_beta": 0.0},
        {"centre_beta": 1.5},
        {"centre_beta": float("nan")},
    ],
)
def test_wrong_rules_are_refused(options) -> None:
    with pytest.raises(InvalidOption):
        CropRule(**options)
