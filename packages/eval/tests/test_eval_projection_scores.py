"""Scores of projections against scikit-learn by hand, leakage, folds of small classes, and summaries."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from semaug.artifacts.draws import generator
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.memorisation import measure_memorisation, nearest_training
from semaug.eval.probes.kmeans import hungarian_accuracy
from semaug.eval.probes.svm import LINEAR_COSTS
from semaug.eval.projection_scores import (
    FoldRows,
    FoldScore,
    fold_rows,
    score_inductive,
    score_transductive,
    small_classes,
    summarise_folds,
)
from semaug.eval.splits import selection_split

NAMES = ("a", "b", "c")


def corners(n: int = 90, noise: float = 0.6, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    places = np.asarray([[0, 0], [3, 0], [0, 3]])[labels] + noise * rng.normal(size=(n, 2))
    return Features(places.astype(np.float32), None, labels, tuple(f"{i}" for i in range(n)), NAMES)


def svm_by_hand(x: np.ndarray, y: np.ndarray, held: np.ndarray, labels: np.ndarray) -> float:
    def machine(cost: float, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        scaler = StandardScaler().fit(a)
        fitted = LinearSVC(C=cost, dual="auto", tol=1e-3, max_iter=2000, random_state=0).fit(scaler.transform(a), b)
        return fitted.predict(scaler.transform(c))

    fit, chosen = selection_split(y, seed=7)
    scores = [(machine(c, x[fit], y[fit], x[chosen]) == y[chosen]).mean() for c in LINEAR_COSTS]
    return float((machine(LINEAR_COSTS[int(np.argmax(scores))], x, y, held) == labels).mean())


def test_an_inductive_fold_equals_scikit_learn_by_hand() -> None:
    features = corners()
    fold = fold_rows(features.labels, 10, seed=7)[4]
    fit, held = features.take(fold.fit), features.take(fold.held)
    score = score_inductive(fit, held, fold, seed=7)
    assert (score.setting, score.seed, score.fold, score.held) == ("inductive", 7, 4, 9)
    assert score.values["svm"] == svm_by_hand(fit.features, fit.labels, held.features, held.labels)
    state = int(generator(7, "k-means", epoch=0).integers(2**31))
    found = KMeans(3, n_init=10, random_state=state).fit(fit.features).predict(held.features)
    assert score.values["kmeans"] == hungarian_accuracy(found, held.labels)
    assert 0.8 < score.values["svm-rbf"] <= 1


def test_transductive_folds_score_every_row_once_and_cluster_all() -> None:
    features = corners()
    folds = fold_rows(features.labels, 5, seed=1)
    scores = score_transductive(features, folds, seed=1)
    assert [s.fold for s in scores] == [0, 1, 2, 3, 4]
    assert sum(s.held for s in scores) == len(features)
    assert ["kmeans" in s.values for s in scores] == [True, False, False, False, False]
    state = int(generator(1, "k-means", epoch=0).integers(2**31))
    rows = np.concatenate([folds[0].fit, folds[0].held])
    clusters = KMeans(3, n_init=10, random_state=state).fit(features.features[rows]).labels_
    assert scores[0].values["kmeans"] == hungarian_accuracy(clusters, features.labels[rows])


def test_held_out_rows_do_not_touch_what_is_fitted() -> None:
    features = corners()
    fold = fold_rows(features.labels, 10)[0]
    fit, held = features.take(fold.fit), features.take(fold.held)
    far = Features(held.features * 1e4, None, held.labels, held.keys, NAMES)
    both = Features(
        np.concatenate([held.features, far.features]), None, np.tile(held.labels, 2),
        (*held.keys, *(f"far {k}" for k in held.keys)), NAMES,
    )  # fmt: skip
    alone, joined = score_inductive(fit, held, fold), score_inductive(fit, both, fold)
    apart = score_inductive(fit, far, fold)
    assert joined.values["svm"] == pytest.approx((alone.values["svm"] + apart.values["svm"]) / 2)


def test_folds_are_stratified_disjoint_and_seeded() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 4])
    folds = fold_rows(labels, 10, seed=3)
    assert np.array_equal(np.sort(np.concatenate([f.held for f in folds])), np.arange(84))
    for fold in folds:
        assert not set(fold.fit) & set(fold.held)
        counts = np.bincount(labels[fold.held], minlength=3)
        assert counts[0] == 5
        assert counts[1] == 3
        assert counts[2] <= 1
    assert any(not np.array_equal(a.held, b.held) for a, b in zip(folds, fold_rows(labels, 10, seed=4), strict=True))
    assert all(np.array_equal(a.held, b.held) for a, b in zip(folds, fold_rows(labels, 10, seed=3), strict=True))
    assert small_classes(labels, NAMES) == ("class c has 4 rows: no fold holds more than one",)


@pytest.mark.parametrize(
    ("labels", "folds", "words"),
    [([0] * 20, 10, "at least 2 classes"), ([-1, 0, 1] * 9, 3, "labelled rows"), ([0, 1] * 4, 10, "give 2 to 4")],
)
def test_folds_that_cannot_be_made(labels: list[int], folds: int, words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        fold_rows(np.asarray(labels), folds)


def test_summaries_are_means_and_spreads_over_folds_and_seeds() -> None:
    values = {(0, 0): 0.5, (0, 1): 0.7, (1, 0): 0.6, (1, 1): 1.0}
    scores = [FoldScore("inductive", seed, fold, {"svm": v}, 9) for (seed, fold), v in values.items()]
    scores += [FoldScore("transductive", seed, 0, {"kmeans": 0.25 + seed / 4}, 90) for seed in (1, 0)]
    svm, kmeans = summarise_folds(scores)
    assert (svm.metric, svm.setting, svm.over_all.n, svm.over_seeds.n) == ("svm", "inductive", 4, 2)
    assert svm.over_all.mean == pytest.approx(0.7)
    assert svm.over_all.sd == pytest.approx(np.std([0.5, 0.7, 0.6, 1.0], ddof=1))
    assert svm.over_seeds.sd == pytest.approx(0.2 / np.sqrt(2))
    assert svm.interval is not None
    assert (kmeans.metric, kmeans.setting, kmeans.interval) == ("kmeans", "transductive", None)
    rows = {m.metric: m.value for summary in (svm, kmeans) for m in summary}
    assert rows["kmeans/transductive"] == 0.375
    assert rows["svm/inductive_seed_std"] == pytest.approx(0.2 / np.sqrt(2))


def test_collapsed_projections_give_a_reason_instead_of_clusters() -> None:
    features = corners()
    flat = Features(np.zeros_like(features.features), None, features.labels, features.keys, NAMES)
    fold = FoldRows(0, np.arange(60), np.arange(60, 90))
    score = score_inductive(flat.take(fold.fit), flat.take(fold.held), fold)
    assert "kmeans" not in score.values
    assert "1 distinct points" in score.reason


def test_nearest_training_rows_equal_brute_force() -> None:
    rng = np.random.default_rng(0)
    train, rows = rng.normal(size=(40, 7)).astype(np.float32), rng.normal(size=(25, 7)).astype(np.float32)
    wanted = np.linalg.norm(rows[:, None].astype(np.float64) - train[None], axis=2).min(axis=1)
    np.testing.assert_allclose(nearest_training(train, rows, chunk=8), wanted, rtol=1e-12)


def test_memorised_rows_are_told_from_fresh_ones() -> None:
    rng = np.random.default_rng(0)
    train, held, fresh = (rng.normal(size=(n, 4)).astype(np.float32) for n in (300, 200, 200))
    repeated = measure_memorisation(train, held, train[:100])
    assert (repeated.generated, repeated.copies, repeated.closer) == (0, 1, 1)
    alike = measure_memorisation(train, held, fresh)
    assert alike.ratio == pytest.approx(1, abs=0.15)
    assert alike.closer == pytest.approx(0.5, abs=0.1)
    assert alike.copies == 0
    assert {m.metric for m in alike} >= {"nearest_training/ratio", "nearest_training/copies"}
    with pytest.raises(EvaluationError, match=r"generated rows \(5, 3\) beside training rows \(300, 4\)"):
        measure_memorisation(train, held, np.zeros((5, 3), np.float32))
