"""k-means scores against scikit-learn by hand, every permutation by brute force, and closed forms."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from semaug.artifacts.draws import generator
from semaug.eval.errors import EvaluationError, LabelsMissing, NonFiniteFeatures, OneClass
from semaug.eval.features import Features
from semaug.eval.probes.kmeans import KmeansSettings, evaluate_kmeans, hungarian_accuracy

NAMES = ("a", "b", "c")


def blobs(n: int, seed: int, noise: float = 0.8, prefix: str = "", projected: bool = False) -> Features:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    values = (2 * np.eye(3, 5)[labels] + noise * rng.normal(size=(n, 5))).astype(np.float32)
    projections = values[:, :2].copy() if projected else None
    return Features(values, projections, labels, tuple(f"{prefix}{i}" for i in range(n)), NAMES)


def best_by_brute_force(clusters: np.ndarray, labels: np.ndarray, size: int) -> float:
    return max(float((np.asarray(order)[clusters] == labels).mean()) for order in permutations(range(size)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 5), st.integers(1, 5))
def test_accuracy_is_the_best_of_all_matches_and_keeps_under_renaming(seed: int, n: int, k: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    clusters, labels = rng.integers(0, k, n), rng.integers(0, classes, n)
    found = hungarian_accuracy(clusters, labels)
    assert found == pytest.approx(best_by_brute_force(clusters, labels, max(k, classes)), abs=1e-12)
    renamed, relabelled = rng.permutation(k)[clusters], 10 + rng.permutation(classes)[labels]
    order = rng.permutation(n)
    assert hungarian_accuracy(renamed[order], relabelled[order]) == found
    assert hungarian_accuracy(labels, clusters) == found


def test_accuracy_of_known_cases() -> None:
    labels = np.repeat([0, 1, 2, 3], 5)
    assert hungarian_accuracy((labels + 1) % 4, labels) == 1.0
    assert hungarian_accuracy(np.zeros(20, dtype=int), labels) == 0.25
    assert hungarian_accuracy(np.arange(20), labels) == 0.2  # four of twenty singletons are matched
    with pytest.raises(EvaluationError, match="19 clusters and 20 labels"):
        hungarian_accuracy(labels[1:], labels)


def by_hand(fit: np.ndarray, scored: np.ndarray, labels: np.ndarray, seed: int, seeds: int) -> dict[str, list[float]]:
    rows: dict[str, list[float]] = {"accuracy": [], "nmi": [], "ari": []}
    for repetition in range(seeds):
        state = int(generator(seed, "k-means", epoch=repetition).integers(2**31))
        found = KMeans(3, n_init=10, random_state=state).fit(fit).predict(scored)
        rows["accuracy"].append(best_by_brute_force(found, labels, 3))
        rows["nmi"].append(normalized_mutual_info_score(labels, found))
        rows["ari"].append(adjusted_rand_score(labels, found))
    return rows


@pytest.mark.parametrize("transductive", [False, True])
def test_scores_equal_scikit_learn_by_hand(transductive: bool) -> None:
    train, test = blobs(90, 0, projected=True), blobs(60, 1, prefix="t", projected=True)
    result = evaluate_kmeans(train, test, KmeansSettings(seeds=3, transductive=transductive), seed=5)
    setting = "transductive" if transductive else "inductive"
    measures = {measure.metric: measure for measure in result}
    labels = np.concatenate([train.labels, test.labels]) if transductive else test.labels
    assert train.projections is not None
    assert test.projections is not None
    spaces = {"backbone": (train.features, test.features), "projector": (train.projections, test.projections)}
    for space, (known, asked) in spaces.items():
        fit = np.concatenate([known, asked]) if transductive else known
        for metric, values in by_hand(fit, fit if transductive else asked, labels, 5, 3).items():
            name = f"kmeans/{space}/{setting}/{metric}"
            assert measures[name].value == pytest.approx(np.mean(values), abs=1e-9)
            assert measures[f"{name}_std"].value == pytest.approx(np.std(values, ddof=1), abs=1e-9)
            assert measures[name].n == len(labels)
    assert len(measures) == 12


def test_separable_gaussians_are_found_and_noise_is_near_chance() -> None:
    clean = evaluate_kmeans(blobs(60, 0, 0.05), blobs(60, 1, 0.05, "t"), KmeansSettings(seeds=2))
    assert clean.backbone.values == {"accuracy": (1.0, 1.0), "nmi": (1.0, 1.0), "ari": (1.0, 1.0)}
    assert clean.projector is None
    rng = np.random.default_rng(0)
    noise = [
        Features(rng.normal(size=(600, 5)).astype(np.float32), None, f.labels, f.keys, NAMES)
        for f in (blobs(600, 0), blobs(600, 1, prefix="t"))
    ]
    chance = evaluate_kmeans(noise[0], noise[1], KmeansSettings(seeds=2))
    assert max(chance.backbone.values["accuracy"]) < 0.45
    assert max(chance.backbone.values["ari"]) < 0.05


def test_labels_never_move_the_clusters() -> None:
    train, test = blobs(90, 2), blobs(60, 3, prefix="t")
    rng = np.random.default_rng(0)
    shuffled = Features(train.features, None, rng.permutation(train.labels), train.keys, NAMES)
    few = KmeansSettings(seeds=2)
    assert evaluate_kmeans(train, test, few).backbone == evaluate_kmeans(shuffled, test, few).backbone


def test_length_does_not_matter_when_normalised() -> None:
    train, test = blobs(90, 4, 0.3), blobs(60, 5, 0.3, "t")
    scale = np.random.default_rng(1).uniform(0.01, 100, (90, 1)).astype(np.float32)
    stretched = Features(train.features * scale, None, train.labels, train.keys, NAMES)
    unit = KmeansSettings(seeds=2, normalise=True)
    ours, plain = (evaluate_kmeans(f, test, unit).backbone.values["accuracy"] for f in (stretched, train))
    assert ours == pytest.approx(plain, abs=1e-9)


def test_duplicated_points_are_missing_with_the_reason() -> None:
    train, test = blobs(90, 6), blobs(60, 7, prefix="t")
    twice = np.repeat(train.features[:2], 45, axis=0)
    result = evaluate_kmeans(Features(twice, None, train.labels, train.keys, NAMES), test)
    assert all(m.value is None and m.reason.startswith("2 distinct points of 90, and 3 clusters") for m in result)
    repeated = np.concatenate([train.features, train.features])  # copies that leave enough distinct points do no harm
    keys = tuple(map(str, range(180)))
    doubled = evaluate_kmeans(Features(repeated, None, np.tile(train.labels, 2), keys, NAMES), test)
    assert all(measure.value is not None for measure in doubled)


def test_centres_are_fitted_on_a_draw_of_many_images() -> None:
    train, test = blobs(90, 2), blobs(60, 3, prefix="t")
    result = evaluate_kmeans(train, test, KmeansSettings(seeds=2, per_cluster=10), seed=6)
    assert result.warnings == ("centres of 30 of 90 training images",)
    rows = np.sort(generator(6, "k-means-limit").permutation(90)[:30])
    expected = by_hand(train.features[rows], test.features, test.labels, 6, 2)
    assert result.backbone.values["nmi"] == pytest.approx(expected["nmi"], abs=1e-9)
    whole = evaluate_kmeans(train, test, KmeansSettings(seeds=1, per_cluster=10, transductive=True))
    assert whole.warnings == ()
    assert whole.backbone.n == 150


def test_fewer_images_than_clusters_are_missing_with_the_reason() -> None:
    measures = list(evaluate_kmeans(blobs(6, 8), blobs(9, 9, prefix="t"), KmeansSettings(clusters=7)))
    assert {measure.reason for measure in measures} == {"6 images, fewer than 7 clusters"}


def test_a_class_with_one_image_counts_and_one_seed_has_no_spread() -> None:
    train = blobs(60, 10).take(np.setdiff1d(np.arange(60), np.arange(3, 60, 3)))
    result = evaluate_kmeans(train, blobs(30, 11, prefix="t"), KmeansSettings(seeds=1))
    measures = {measure.metric: measure for measure in result}
    assert result.backbone.clusters == 3
    assert measures["kmeans/backbone/inductive/accuracy"].value is not None
    assert measures["kmeans/backbone/inductive/accuracy_std"].reason == "one seed"


def test_classes_without_training_images_are_told() -> None:
    train, test = blobs(60, 12), blobs(30, 13, prefix="t")
    result = evaluate_kmeans(train.take(train.labels < 2), test)
    assert result.backbone.clusters == 3
    assert "1 test classes have no training images" in result.warnings[0]


def test_bad_input_is_named() -> None:
    train, test = blobs(60, 14), blobs(30, 15, prefix="t")
    with pytest.raises(OneClass):
        evaluate_kmeans(train.take(train.labels == 0), test)
    with pytest.raises(LabelsMissing):
        evaluate_kmeans(train, Features(test.features, None, np.full(30, -1), test.keys, NAMES))
    broken = train.features.copy()
    broken[0, 0] = np.nan
    with pytest.raises(NonFiniteFeatures):
        evaluate_kmeans(Features(broken, None, train.labels, train.keys, NAMES), test)
    for wrong in ({"seeds": 0}, {"starts": 0}, {"clusters": 1}, {"per_cluster": 0}):
        with pytest.raises(EvaluationError):
            KmeansSettings(**wrong)  # type: ignore[arg-type]
