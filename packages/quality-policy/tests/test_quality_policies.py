"""Normalisers, weights, policies and presets against closed forms (spec S1.1, S1.2)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption, SemaugError
from semaug.artifacts.schemas import SCALES, QualityScore
from semaug.quality_policy import (
    CLARITY,
    PRESETS,
    RESOLUTION,
    FixedPolicy,
    ImageStatistics,
    InvalidThresholds,
    InvalidWeights,
    RawStatistics,
    RobustRange,
    Scoring,
    SmallSideRule,
    SoftPolicy,
    ThresholdPolicy,
    Thresholds,
    UnknownName,
    Weights,
    find_preset,
    make_policy,
    routing_histogram,
    shuffled_routes,
)

QUALITY = st.floats(0, 1)
THRESHOLDS = st.tuples(QUALITY, QUALITY).map(sorted).map(lambda ends: Thresholds(*ends))


def scored(quality, height=224, width=224):
    return QualityScore(height, width, 0.0, 0.0, 0.0, 0.0, 0.0, quality)


def raw(side, variance, entropy):
    return RawStatistics(
        np.array([side], np.int32), np.array([side], np.int32), np.array([variance]), np.array([entropy])
    )


@pytest.mark.parametrize(
    ("side", "expected"), [(16, 0), (32, 0), (64, 0.25), (128, 0.5), (224, 0.7018), (512, 1), (900, 1)]
)
def test_log_resolution(side, expected):
    assert RESOLUTION["log32-512"](np.array([side]))[0] == pytest.approx(expected, abs=1e-4)


def test_other_normalisers_at_known_points():
    assert RESOLUTION["lin224"](np.array([112.0, 448.0])).tolist() == [0.5, 1.0]
    assert RESOLUTION["area224"](np.array([112.0, 448.0])).tolist() == [0.25, 1.0]
    assert CLARITY["half500"](np.array([0.0, 500.0])).tolist() == [0.0, 0.5]
    assert CLARITY["half100"](np.array([100.0]))[0] == 0.5
    assert CLARITY["lin1000"](np.array([250.0, 5000.0])).tolist() == [0.25, 1.0]
    assert CLARITY["log1e4"](np.array([100.0, 1e6])) == pytest.approx([np.log(101) / np.log(10001), 1.0])


@pytest.mark.parametrize("registry", [RESOLUTION, CLARITY], ids=["resolution", "clarity"])
def test_normalisers_rise_within_the_unit_interval(registry):
    values = np.geomspace(1, 1e6, 200)
    for name, normalise in registry.items():
        out = normalise(values)
        assert out.min() >= 0, name
        assert out.max() <= 1, name
        assert (np.diff(out) >= 0).all(), name
        assert out[-1] > out[0], name


def test_quality_is_the_weighted_sum():
    scoring = Scoring(Weights(0.5, 0.2, 0.3))
    parts = scoring.components(raw(128, 500.0, 4.0))
    assert (parts.resolution[0], parts.clarity[0], parts.diversity[0]) == (0.5, 0.5, 0.5)
    assert Scoring(Weights(1, 0, 0)).components(raw(64, 500.0, 4.0)).quality[0] == 0.25
    assert parts.quality[0] == pytest.approx(0.5)


@given(st.integers(1, 2000), st.integers(1, 2000), st.floats(0, 1e5), st.floats(0, 8))
def test_quality_rises_with_resolution(a, b, variance, entropy):
    small, large = sorted((a, b))
    low = Scoring().components(raw(small, variance, entropy)).quality[0]
    assert low <= Scoring().components(raw(large, variance, entropy)).quality[0] <= 1


def test_entropy_floor():
    scoring = Scoring(entropy_floor=4.0)
    assert [scoring.components(raw(64, 0.0, h)).diversity[0] for h in (2.0, 4.0, 6.0, 8.0)] == [0, 0, 0.5, 1]
    with pytest.raises(InvalidOption, match="entropy floor is 8"):
        Scoring(entropy_floor=8)


def test_dataset_normaliser_is_fitted_between_the_5th_and_95th_percentile():
    n = 101
    side = np.full(n, 100, np.int32)
    statistics = RawStatistics(side, side, np.arange(n, dtype=float), np.linspace(2, 7, n))
    scoring = Scoring(Weights(0.2, 0.4, 0.4), "dataset", "dataset", "dataset")
    with pytest.raises(InvalidOption, match="not fitted"):
        scoring.components(statistics)
    fitted = scoring.fit(statistics)
    assert fitted.ranges["clarity"] == RobustRange(5.0, 95.0)
    parts = fitted.components(statistics)
    assert parts.clarity[[0, 5, 50, 95, 100]].tolist() == [0, 0, 0.5, 1, 1]
    assert set(parts.resolution.tolist()) == {0.5}  # one size only: it says nothing
    assert parts.quality.min() >= 0
    assert parts.quality.max() <= 1


@pytest.mark.parametrize("weights", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5), (0, 0, 0)])
def test_weights_that_are_no_weights(weights):
    with pytest.raises(InvalidWeights, match="weights") as caught:
        Weights(*weights)
    assert "\n" not in str(caught.value)


def test_weights_can_be_renormalised():
    assert Weights.renormalised(4, 3, 3) == Weights(0.4, 0.3, 0.3)
    with pytest.raises(InvalidWeights):
        Weights.renormalised(0, 0, 0)


def test_scoring_survives_its_identity():
    scoring = Scoring(PRESETS["var"].weights, "lin224", "log1e4", "dataset", 0.0)
    assert Scoring.from_identity(scoring.identity()) == scoring
    with pytest.raises(UnknownName, match="lin225"):
        Scoring(resolution="lin225")


@pytest.mark.parametrize(
    ("quality", "expected"), [(0, "object"), (0.349, "object"), (0.35, "pixel"), (0.65, "pixel"), (0.651, "hybrid")]
)
def test_equation_18(quality, expected):
    assert ThresholdPolicy().route("a", scored(quality)) == expected


@pytest.mark.parametrize("ends", [(0.7, 0.3), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_thresholds_out_of_order(ends):
    with pytest.raises(InvalidThresholds, match="t_low"):
        Thresholds(*ends)


@pytest.mark.parametrize("policy", [ThresholdPolicy(), SoftPolicy(), make_policy("soft-argmax")], ids=lambda p: p.name)
def test_small_images_take_boxes_before_all_else(policy):
    assert policy.route("a", scored(1.0, 64, 64)) == "object"
    assert policy.route("a", scored(1.0, 64, 10)) == "object"
    assert policy.route("a", scored(1.0, 65, 10)) == "hybrid"


def test_small_side_is_inclusive_unless_told():
    policy = ThresholdPolicy(small=SmallSideRule(64, inclusive=False))
    assert policy.route("a", scored(1.0, 64, 64)) == "hybrid"
    assert policy.route("a", scored(1.0, 63, 63)) == "object"


@given(QUALITY, THRESHOLDS, st.floats(0.001, 1))
def test_soft_argmax_is_equation_18_off_ties(quality, thresholds, temperature):
    soft = SoftPolicy(thresholds, temperature=temperature)
    p = np.sort(soft.probabilities(quality))
    assert p.sum() == pytest.approx(1)
    if p[-1] - p[-2] > 1e-9:
        likeliest = SCALES[int(soft.probabilities(quality).argmax())]
        assert likeliest == ThresholdPolicy(thresholds).scale(quality)
    assert SoftPolicy(thresholds, sample=False).scale("a", quality) == ThresholdPolicy(thresholds).scale(quality)


def test_soft_probabilities_move_with_quality():
    p = SoftPolicy().probabilities(np.linspace(0, 1, 101))
    assert (np.diff(p[:, 0]) < 0).all()
    assert (np.diff(p[:, 2]) > 0).all()
    at_low, at_high = SoftPolicy().probabilities(0.35), SoftPolicy().probabilities(0.65)
    assert at_low[0] == pytest.approx(at_low[1])
    assert at_high[2] == pytest.approx(at_high[1])


@given(QUALITY.filter(lambda q: min(abs(q - 0.35), abs(q - 0.65)) > 1e-3), st.text(max_size=8))
def test_cold_soft_policy_is_equation_18(quality, key):
    assert SoftPolicy(temperature=1e-6).scale(key, quality) == ThresholdPolicy().scale(quality)


def test_soft_draws_follow_the_probabilities_and_the_seed():
    keys, soft = [f"{i}.jpg" for i in range(5_000)], SoftPolicy(seed=3)
    routes = [soft.route(key, scored(0.62)) for key in keys]
    expected = soft.probabilities(0.62)
    counts = np.array([routes.count(scale) for scale in SCALES]) / len(keys)
    assert counts == pytest.approx(expected, abs=5 * np.sqrt(0.25 / len(keys)))
    assert routes == [SoftPolicy(seed=3).route(key, scored(0.62)) for key in keys]
    assert routes != [SoftPolicy(seed=4).route(key, scored(0.62)) for key in keys]


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_temperature_is_positive(temperature):
    with pytest.raises(InvalidOption, match="temperature"):
        SoftPolicy(temperature=temperature)


@pytest.mark.parametrize("scale", SCALES)
def test_granularity_fixes_the_scale_even_of_small_images(scale):
    policy = make_policy("soft", granularity=scale)
    assert policy == FixedPolicy(scale)
    assert policy.route("a", scored(0.0, 8, 8)) == scale


def test_unknown_names_are_refused_with_those_there_are():
    for call in (
        lambda: make_policy("hard"),
        lambda: make_policy(granularity="boxes"),
        lambda: find_preset("nope"),
        lambda: FixedPolicy("boxes"),
    ):
        with pytest.raises(UnknownName, match="known are") as caught:
            call()
        assert isinstance(caught.value, SemaugError)


def test_presets_are_the_papers():
    """Tables 11 and 10 as printed."""
    printed = {
        "default": (0.4, 0.3, 0.3, 0.35, 0.65),
        "res": (0.6, 0.2, 0.2, 0.35, 0.65),
        "cla": (0.2, 0.4, 0.4, 0.35, 0.65),
        "loose": (0.4, 0.3, 0.3, 0.30, 0.60),
        "strict": (0.4, 0.3, 0.3, 0.40, 0.70),
        "var": (0.5, 0.25, 0.25, 0.35, 0.65),
        "t10_res": (0.5, 0.2, 0.3, 0.35, 0.65),
        "t10_cla": (0.3, 0.5, 0.2, 0.35, 0.65),
    }
    found = {
        name: (p.weights.resolution, p.weights.clarity, p.weights.diversity, p.thresholds.t_low, p.thresholds.t_high)
        for name, p in PRESETS.items()
    }
    assert found == printed


def test_shuffled_routes_keep_the_proportions_and_follow_the_keys():
    keys = [f"{i}.jpg" for i in range(300)]
    routes = (["object"] * 30) + (["pixel"] * 100) + (["hybrid"] * 170)
    dealt = shuffled_routes(keys, routes, seed=1)
    assert routing_histogram(dealt) == routing_histogram(routes)
    assert dealt != routes
    assert dealt != shuffled_routes(keys, routes, seed=2)
    back = shuffled_routes(keys[::-1], routes[::-1], seed=1)
    assert back[::-1] == dealt
    with pytest.raises(InvalidOption, match="3 keys for 2"):
        shuffled_routes(keys[:3], routes[:2])


def test_score_of_one_image_carries_its_statistics():
    score = Scoring().score(ImageStatistics(128, 128, 500.0, 4.0))
    assert (score.height, score.laplacian_variance, score.clarity) == (128, 500.0, 0.5)
    assert score.quality == pytest.approx(0.5)
