"""Weighted kNN against brute force, scikit-learn, and its own limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.probes.knn import KnnSettings, evaluate_knn, knn_accuracy, largest, neighbours

NAMES = tuple(f"class {i}" for i in range(8))


def clustered(n: int, seed: int, classes: int = 8, dim: int = 12, noise: float = 1.2, prefix: str = "") -> Features:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = rng.integers(0, classes, n)
    values = (centres[labels] + noise * rng.normal(size=(n, dim))).astype(np.float32)
    projections = (values @ np.random.default_rng(98).normal(size=(dim, 6))).astype(np.float32)
    keys = tuple(f"{prefix}{i}.jpg" for i in range(n))
    return Features(values, projections, labels.astype(np.int64), keys, NAMES[:classes])


def brute_force_votes(train: Features, test: Features, k: int, temperature: float) -> np.ndarray:
    """Votes (n, classes) by the definition, one query at a time in float64."""
    bank = train.features.astype(np.float64)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    votes = np.zeros((len(test), train.classes))
    for row, query in enumerate(test.features.astype(np.float64)):
        similarity = bank @ (query / np.linalg.norm(query))
        for place in np.argsort(-similarity)[:k]:
            votes[row, train.labels[place]] += np.exp((similarity[place] - similarity.max()) / temperature)
    return votes


def test_every_cell_of_the_grid_equals_brute_force() -> None:
    train, test = clustered(300, 0), clustered(80, 1)
    result = evaluate_knn(train, test, KnnSettings(query_chunk=17, bank_chunk=64), select=False)
    grid = result.backbone
    assert 0.3 < grid.at(20, 0.07) < 0.95  # a grid of zeros or ones would prove nothing
    for k in grid.ks:
        for temperature in grid.temperatures:
            expected = (brute_force_votes(train, test, k, temperature).argmax(1) == test.labels).mean()
            assert grid.at(k, temperature) == pytest.approx(expected, abs=1e-12), (k, temperature)


def test_top5_equals_brute_force_and_is_missing_with_five_classes() -> None:
    train, test = clustered(300, 0, noise=3), clustered(80, 1, noise=3)
    grid = evaluate_knn(train, test, select=False).backbone
    ranked = np.argsort(-brute_force_votes(train, test, 20, 0.07), axis=1)[:, :5]
    assert grid.top5 == pytest.approx((ranked == test.labels[:, None]).any(1).mean(), abs=1e-12)
    few = evaluate_knn(clustered(100, 0, classes=5), clustered(40, 1, classes=5), select=False)
    missing = next(measure for measure in few if measure.metric == "knn/backbone/top5")
    assert missing.value is None
    assert "five classes" in missing.reason


@pytest.mark.parametrize("k", [1, 10, 50])
def test_agrees_with_scikit_learn(k: int) -> None:
    train, test = clustered(400, 2), clustered(120, 3)
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1))
    expected = reference.fit(train.features, train.labels).score(test.features, test.labels)
    assert knn_accuracy(train, test, k=k, temperature=0.1) == pytest.approx(expected, abs=1e-12)


def test_limits_of_the_temperature() -> None:
    train, test = clustered(300, 4), clustered(90, 5)
    grid = evaluate_knn(train, test, KnnSettings(ks=(1, 21), temperatures=(1e-6, 1e6)), select=False).backbone
    nearest = grid.at(1, 1e-6)
    assert grid.at(1, 1e6) == nearest
    assert grid.at(21, 1e-6) == nearest
    votes = brute_force_votes(train, test, 21, np.inf)
    majority = votes.argmax(1)
    tied = (votes == votes.max(1, keepdims=True)).sum(1) > 1
    kept = test.take(~tied)
    again = evaluate_knn(train, kept, KnnSettings(ks=(21,), temperatures=(1e6,)), select=False).backbone
    assert again.at(21, 1e6) == pytest.approx((majority[~tied] == kept.labels).mean(), abs=1e-12)
    assert grid.at(21, 1e6) != nearest


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(25, 120), st.integers(5, 40))
def test_order_of_the_images_does_not_matter(seed: int, bank: int, queries: int) -> None:
    train, test = clustered(bank, seed), clustered(queries, seed + 1)
    rng = np.random.default_rng(seed)
    shuffled = train.take(rng.permutation(bank)), test.take(rng.permutation(queries))
    for k in (1, 7, 20):
        assert knn_accuracy(train, test, k) == knn_accuracy(*shuffled, k)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(300, 900), st.booleans())
def test_largest_equals_topk(seed: int, k: int, width: int, ties: bool) -> None:
    values = torch.randn(5, width, generator=torch.Generator().manual_seed(seed))
    values = (values * 2).round() if ties else values
    found, places = largest(values, k)
    assert torch.equal(found, values.topk(k, dim=1).values)
    assert torch.equal(values.gather(1, places), found)
    assert all(len(set(row.tolist())) == k for row in places)


def test_chunks_change_nothing() -> None:
    train, test = clustered(500, 6), clustered(70, 7)
    whole, cut = (
        evaluate_knn(train, test, KnnSettings(query_chunk=q, bank_chunk=b), select=False).backbone.accuracy
        for q, b in ((1000, 1000), (13, 37))
    )
    np.testing.assert_array_equal(whole, cut)


def test_similarities_held_at_once_are_bounded() -> None:
    bank, queries = torch.randn(1000, 4), torch.randn(50, 4)
    for rows, similarity, places in neighbours(queries, bank, 3, query_chunk=8, bank_chunk=64):
        assert rows.stop - rows.start <= 8
        assert similarity.shape == places.shape == (rows.stop - rows.start, 3)


def test_queries_from_the_bank_warn_and_exclude_self_is_leave_one_out() -> None:
    train = clustered(200, 8)
    leaky = evaluate_knn(train, train, select=False)
    assert leaky.backbone.at(1, 0.07) == 1.0
    assert any("similarity 1" in warning for warning in leaky.warnings)
    honest = evaluate_knn(train, train, KnnSettings(exclude_self=True, bank_chunk=33), select=False)
    unit = train.features / np.linalg.norm(train.features, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    expected = (train.labels[similarity.argmax(1)] == train.labels).mean()
    assert honest.backbone.at(1, 0.07) == pytest.approx(expected, abs=1e-12)
    assert expected < 1
    assert honest.warnings == ()


def test_a_collapsed_encoder_is_named() -> None:
    train, test = clustered(60, 9), clustered(30, 10)
    flat = [
        Features(np.ones_like(part.features), None, part.labels, part.keys, part.class_names) for part in (train, test)
    ]
    assert any("collapsed" in warning for warning in evaluate_knn(*flat, select=False).warnings)


def test_k_beyond_the_bank_is_missing_with_its_reason() -> None:
    result = evaluate_knn(clustered(30, 11), clustered(20, 12), select=False)
    cell = next(measure for measure in result if measure.metric == "knn/backbone/top1/k=50/T=0.07")
    assert cell.value is None
    assert "30 images" in cell.reason
    assert next(measure for measure in result if measure.metric == "knn/backbone/top1").value is not None


def test_a_set_too_small_to_select_on_keeps_its_headline() -> None:
    train, test = clustered(200, 13), clustered(60, 14)
    singles = train.take(np.asarray([int(np.flatnonzero(train.labels == c)[0]) for c in range(8)]))
    values = {measure.metric: measure for measure in evaluate_knn(singles, test)}
    assert values["knn/backbone/selected_top1"].value is None
    assert "leave none to select" in values["knn/backbone/selected_top1"].reason
    assert values["knn/backbone/top1"].value is None
    assert values["knn/backbone/top1/k=5/T=0.07"].value is not None
    few = {measure.metric: measure for measure in evaluate_knn(train.take(np.arange(12)), test, KnnSettings(ks=(50,)))}
    assert "fewer than k = 20" in few["knn/backbone/selected_top1"].reason


def test_settings_are_chosen_without_the_test_set() -> None:
    train, test = clustered(300, 13), clustered(60, 14)
    relabelled = Features(test.features, test.projections, np.roll(test.labels, 7), test.keys, test.class_names)
    chosen = evaluate_knn(train, test).backbone.selected
    assert chosen is not None
    assert chosen == evaluate_knn(train, relabelled).backbone.selected


def test_gap_is_backbone_minus_projector() -> None:
    result = evaluate_knn(clustered(300, 15), clustered(60, 16), select=False)
    values = {measure.metric: measure.value for measure in result}
    assert result.projector is not None
    assert values["knn/gap"] == pytest.approx(values["knn/backbone/top1"] - values["knn/projector/top1"])


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(EvaluationError, match="every k must be at least 1"):
        KnnSettings(ks=(0, 5))
    with pytest.raises(EvaluationError, match="every T must be above 0"):
        KnnSettings(temperatures=(0.0,))
