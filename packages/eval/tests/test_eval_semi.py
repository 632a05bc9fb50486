"""Shares of the labels: how they are drawn, and what the probe makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semaug.eval.errors import EvaluationError, LabelsMissing, OneClass
from semaug.eval.features import Features
from semaug.eval.probes.linear import LbfgsSettings, evaluate_linear
from semaug.eval.probes.semi import SemiSettings, evaluate_semi
from semaug.eval.subsets import stratified_subset

QUICK = LbfgsSettings((1e-1, 1e-2), iterations=100)


def blobs(n: int, seed: int, classes: int = 6, noise: float = 1.2, prefix: str = "") -> Features:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).normal(size=(classes, 12))
    labels = np.arange(n) % classes
    values = (centres[labels] + noise * rng.normal(size=(n, 12))).astype(np.float32)
    names = tuple(f"c{i}" for i in range(classes))
    return Features(values, None, labels, tuple(f"{prefix}{i}" for i in range(n)), names)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=6),
    st.floats(0.001, 1.0),
    st.integers(0, 2**32 - 1),
    st.integers(0, 9),
)
def test_a_subset_takes_its_share_of_each_class_and_at_least_one(
    counts: list[int], share: float, seed: int, draw: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = stratified_subset(labels, share, seed, draw=draw)
    assert (np.diff(rows) > 0).all()
    for label, count in enumerate(counts):
        taken = int((labels[rows] == label).sum())
        assert 1 <= taken <= count
        assert taken == 1 or abs(taken - share * count) <= 0.5 + 1e-6
    smaller = stratified_subset(labels, share / 2, seed, draw=draw)
    assert np.isin(smaller, rows).all()
    np.testing.assert_array_equal(rows, stratified_subset(labels, share, seed, draw=draw))


def test_every_image_is_as_likely_to_be_drawn() -> None:
    labels = np.repeat([0, 1], 10)
    drawn = np.zeros(20)
    for draw in range(2000):
        drawn[stratified_subset(labels, 0.2, 7, draw=draw)] += 1
    statistic = ((drawn - 400) ** 2 / (400 * 0.8)).sum()  # 20 cells, 18 of them free
    assert statistic < 48  # the 0.9999 quantile of chi-square with 18 degrees of freedom is 47.6


def test_scores_equal_the_linear_probe_on_each_subset() -> None:
    train, test = blobs(300, 0), blobs(150, 1, prefix="t")
    ours = evaluate_semi(train, test, SemiSettings((0.1,), draws=3, probe=QUICK), seed=4)
    expected = []
    for draw in range(3):
        subset = train.take(stratified_subset(train.labels, 0.1, 4, draw=draw))
        expected.append(evaluate_linear(subset, test, QUICK, seed=4))
    assert ours.scores[0].top1 == tuple(result.top1 for result in expected)
    measures = {measure.metric: measure.value for measure in ours}
    assert measures["semi/10%/labelled"] == 30
    assert measures["semi/10%/frozen/top1"] == pytest.approx(np.mean([result.top1 for result in expected]))
    assert measures["semi/10%/frozen/top1_std"] == pytest.approx(np.std([result.top1 for result in expected], ddof=1))
    assert measures["semi/10%/frozen/top5"] == pytest.approx(np.mean([result.top5 for result in expected]))
    assert len(set(ours.scores[0].top1)) > 1


def test_all_labels_are_the_linear_probe_and_fewer_are_worse() -> None:
    train, test = blobs(600, 2), blobs(300, 3, prefix="t")
    result = evaluate_semi(train, test, SemiSettings((0.01, 0.1, 1.0), draws=2, probe=QUICK))
    few, some, every = (float(np.mean(scores.top1)) for scores in result.scores)
    assert 1 / 6 < few < some < every
    assert every == evaluate_linear(train, test, QUICK).top1


def test_one_image_a_class_fixes_the_penalty_and_says_so() -> None:
    train, test = blobs(240, 4), blobs(60, 5, prefix="t")
    result = evaluate_semi(train, test, SemiSettings((0.01,), draws=2, probe=QUICK))
    assert result.scores[0].labelled == 6
    assert result.warnings == (
        "1%: one image each of 6 classes, which is more than the share of so few images",
        "1%: every class has one labelled image, so the penalty is 0.01, not chosen",
    )


def test_a_class_with_one_image_is_labelled_in_every_draw() -> None:
    train, test = blobs(240, 6), blobs(60, 7, prefix="t")
    rare = train.take(np.setdiff1d(np.arange(240), np.flatnonzero(train.labels == 3)[1:]))
    result = evaluate_semi(rare, test, SemiSettings((0.1,), draws=2, probe=QUICK))
    assert result.scores[0].labelled == 5 * 4 + 1
    assert "10%: one image each of 1 classes" in result.warnings[0]


def test_missing_values_have_reasons() -> None:
    train, test = blobs(60, 8, classes=3), blobs(30, 9, classes=3, prefix="t")
    measures = {m.metric: m for m in evaluate_semi(train, test, SemiSettings((0.1,), draws=1, probe=QUICK))}
    assert measures["semi/10%/frozen/top1"].value is not None
    assert measures["semi/10%/frozen/top1_std"].reason == "one draw"
    assert (
        measures["semi/10%/frozen/top5"].reason
        == measures["semi/10%/frozen/top5_std"].reason
        == "five classes or fewer"
    )


def test_bad_input_is_named() -> None:
    train, test = blobs(60, 10), blobs(30, 11, prefix="t")
    with pytest.raises(OneClass):
        evaluate_semi(train.take(train.labels == 0), test)
    with pytest.raises(LabelsMissing):
        evaluate_semi(Features(train.features, None, np.full(60, -1), train.keys, train.class_names), test)
    for wrong in ({"shares": ()}, {"shares": (0.0,)}, {"shares": (1.5,)}, {"draws": 0}):
        with pytest.raises(EvaluationError):
            SemiSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="a share of 2"):
        stratified_subset(train.labels, 2)
