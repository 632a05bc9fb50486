"""Support vector machines against scikit-learn by hand, the leak of a scaler fit outside the folds, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from semaug.artifacts.draws import generator
from semaug.eval.errors import EvaluationError, LabelsMissing, NonFiniteFeatures, OneClass
from semaug.eval.features import Features
from semaug.eval.probes.svm import SvmSettings, cross_validate_svm, evaluate_svm
from semaug.eval.splits import selection_split

NAMES = tuple(f"c{i}" for i in range(4))


def blobs(n: int, seed: int, classes: int = 4, dim: int = 6, noise: float = 1.5, prefix: str = "") -> Features:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(11).normal(size=(classes, dim))
    labels = np.arange(n) % classes
    values = (3 + centres[labels] + noise * rng.normal(size=(n, dim))).astype(np.float32)
    return Features(values, None, labels, tuple(f"{prefix}{i}" for i in range(n)), NAMES[:classes])


def named(features: Features, values: np.ndarray) -> Features:
    return Features(values.astype(np.float32), None, features.labels, features.keys, features.class_names)


def by_hand(features: Features, folds: int, costs: tuple[float, ...], kernel: str, seed: int) -> list[float]:
    """Accuracies of the folds, step by step, on scalers fit inside each training part."""
    x, y = features.features, features.labels
    state = int(generator(seed, "svm-folds").integers(2**31))
    accuracies = []
    for fit, held in StratifiedKFold(folds, shuffle=True, random_state=state).split(x, y):
        inner, selection = selection_split(y[fit], seed=seed)

        def score(known: np.ndarray, asked: np.ndarray, cost: float) -> float:
            scaler = StandardScaler().fit(x[known])
            machine = LinearSVC(C=cost, tol=1e-3, random_state=0) if kernel == "linear" else SVC(C=cost)
            machine.fit(scaler.transform(x[known]), y[known])
            return float(machine.score(scaler.transform(x[asked]), y[asked]))

        best = max(costs, key=lambda cost: score(fit[inner], fit[selection], cost))
        accuracies.append(score(fit, held, best))
    return accuracies


@pytest.mark.parametrize(("kernel", "folds"), [("linear", 10), ("rbf", 5)])
def test_folds_equal_scikit_learn_by_hand(kernel: str, folds: int) -> None:
    features, costs = blobs(160, 0), (0.01, 1.0)
    ours = cross_validate_svm(features, SvmSettings(kernel, costs), seed=3)
    assert len(ours.accuracies) == folds
    assert ours.accuracies == pytest.approx(by_hand(features, folds, costs, kernel, 3), abs=1e-12)
    assert 0.3 < np.mean(ours.accuracies) < 0.95
    assert set(ours.costs) <= set(costs)


def test_mean_spread_and_corrected_interval() -> None:
    result = cross_validate_svm(blobs(120, 1), SvmSettings(costs=(0.1,)))
    accuracies = np.asarray(result.accuracies)
    found = {measure.metric: measure for measure in result}
    half = 2.2621571628 * math.sqrt((1 / 10 + 1 / 9) * accuracies.var(ddof=1))  # t at 0.975, 9 degrees of freedom
    assert found["svm/folds/top1"].value == pytest.approx(accuracies.mean())
    assert found["svm/folds/top1_std"].value == pytest.approx(accuracies.std(ddof=1))
    assert found["svm/folds/top1_interval_low"].value == pytest.approx(accuracies.mean() - half)
    assert found["svm/folds/top1_interval_high"].value == pytest.approx(accuracies.mean() + half)
    assert {measure.n for measure in result} == {120}


def test_the_scaler_never_sees_the_held_out_fold() -> None:
    """One image of enormous features: a scaler fit on everything squeezes all others together, in every fold."""
    clean = blobs(200, 2, noise=0.05)
    values = clean.features.copy()
    values[0] = 1e7
    spoiled = named(clean, values)
    result = cross_validate_svm(spoiled, SvmSettings(costs=(1e-2,)), seed=1)
    state = int(generator(1, "svm-folds").integers(2**31))
    splits = list(StratifiedKFold(10, shuffle=True, random_state=state).split(values, clean.labels))
    holding = next(number for number, (_, held) in enumerate(splits) if 0 in held)
    assert result.accuracies[holding] >= 1 - 1 / len(splits[holding][1])  # all but the outlier itself
    leaky = StandardScaler().fit_transform(values)
    fit, held = splits[holding]
    outside = (
        LinearSVC(C=1e-2, random_state=0).fit(leaky[fit], clean.labels[fit]).score(leaky[held], clean.labels[held])
    )
    assert outside < 0.6


def test_train_and_test_form_equals_scikit_learn_by_hand() -> None:
    train, test = blobs(200, 3), blobs(150, 4, prefix="t")
    result = evaluate_svm(train, test, SvmSettings(costs=(1e-3, 1e-1)), seed=2)
    fit, selection = selection_split(train.labels, seed=2)
    scores = {}
    for cost in (1e-3, 1e-1):
        scaler = StandardScaler().fit(train.features[fit])
        machine = LinearSVC(C=cost, tol=1e-3, random_state=0)
        machine.fit(scaler.transform(train.features[fit]), train.labels[fit])
        scores[cost] = machine.score(scaler.transform(train.features[selection]), train.labels[selection])
    assert result.selection_accuracy == pytest.approx(scores)
    assert result.cost == max(scores, key=lambda cost: scores[cost])
    scaler = StandardScaler().fit(train.features)
    machine = LinearSVC(C=result.cost, tol=1e-3, random_state=0).fit(scaler.transform(train.features), train.labels)
    assert result.top1 == pytest.approx(machine.score(scaler.transform(test.features), test.labels))
    assert [(measure.metric, measure.n) for measure in result] == [("svm/top1", 150)]


def test_separable_gaussians_are_separated_and_rbf_bends() -> None:
    clean = blobs(80, 5, noise=0.05)
    assert np.mean(cross_validate_svm(clean).accuracies) == 1.0
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 2 * np.pi, 200), 1.0 + 2.0 * (np.arange(200) % 2)
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32)
    rings = Features(ring, None, np.arange(200) % 2, tuple(map(str, range(200))), ("inner", "outer"))
    bent, straight = (cross_validate_svm(rings, SvmSettings(kernel)) for kernel in ("rbf", "linear"))
    assert np.mean(bent.accuracies) == 1.0
    assert np.mean(straight.accuracies) < 0.8
    assert next(iter(bent)).metric == "svm-rbf/folds/top1"


def test_the_cost_is_chosen_without_the_test_set() -> None:
    train, test = blobs(200, 6), blobs(100, 7, prefix="t")
    turned = Features(test.features, None, np.roll(test.labels, 1), test.keys, NAMES)
    ours, other = evaluate_svm(train, test), evaluate_svm(train, turned)
    assert ours.selection_accuracy == other.selection_accuracy
    assert ours.cost == other.cost
    assert ours.top1 > other.top1 + 0.2


def test_fewer_images_in_a_class_than_folds_give_fewer_folds() -> None:
    features = blobs(80, 8)
    rare = features.take(np.setdiff1d(np.arange(80), np.flatnonzero(features.labels == 1)[4:]))
    result = cross_validate_svm(rare, SvmSettings(costs=(0.1,)))
    assert len(result.accuracies) == 4
    assert result.warnings == ("4 folds instead of 10: class c1 has 4 images",)


def test_a_class_with_one_image_gives_no_folds_but_can_be_trained_on() -> None:
    features, test = blobs(80, 9), blobs(40, 10, prefix="t")
    single = features.take(np.setdiff1d(np.arange(80), np.flatnonzero(features.labels == 1)[1:]))
    measures = list(cross_validate_svm(single))
    assert len(measures) == 4
    assert all(measure.value is None and "class c1 has 1 image" in measure.reason for measure in measures)
    assert evaluate_svm(single, test).n == 40


def test_large_sets_are_drawn_from_class_by_class() -> None:
    features = blobs(400, 11)
    result = cross_validate_svm(features, SvmSettings(costs=(0.1,), limit=100))
    assert result.n == 100
    assert result.warnings == ("folds of 100 of 400 images, drawn class by class (the limit is 100)",)


def test_a_solver_that_stops_early_is_named() -> None:
    result = evaluate_svm(blobs(200, 12), blobs(50, 13, prefix="t"), SvmSettings(costs=(1e3,), iterations=1))
    assert result.warnings == ("the solver stopped at 1 iterations with C = 1000: give smaller costs",)


def test_order_scale_and_shift_of_columns_do_not_matter() -> None:
    train, test = blobs(160, 14), blobs(80, 15, prefix="t")
    settings = SvmSettings(costs=(0.1,))
    plain = evaluate_svm(train, test, settings).top1
    order, scale = np.random.default_rng(0).permutation(6), np.asarray([1, 100, 0.01, 3, 1, 10])
    other, asked = (named(part, part.features[:, order] * scale - 5) for part in (train, test))
    assert evaluate_svm(other, asked, settings).top1 == pytest.approx(plain, abs=1 / 80 + 1e-9)


def test_classes_without_training_images_and_copies_are_told() -> None:
    train, test = blobs(160, 16), blobs(80, 17, prefix="t")
    result = evaluate_svm(train.take(train.labels != 2), test)
    assert "c2" in result.warnings[0]
    assert result.top1 <= 0.75
    assert "160 of 160 test images lie in the training set" in evaluate_svm(train, train).warnings[0]


def test_bad_input_is_named() -> None:
    features = blobs(60, 18)
    with pytest.raises(OneClass):
        cross_validate_svm(features.take(features.labels == 0))
    with pytest.raises(LabelsMissing):
        cross_validate_svm(Features(features.features, None, np.full(60, -1), features.keys, NAMES))
    broken = features.features.copy()
    broken[5] = np.nan
    with pytest.raises(NonFiniteFeatures):
        cross_validate_svm(named(features, broken))
    with pytest.raises(EvaluationError, match="kernel 'poly' is not known; choose one of linear, rbf"):
        SvmSettings("poly")
    for wrong in ({"costs": ()}, {"costs": (0.0,)}, {"folds": 1}, {"limit": 2}):
        with pytest.raises(EvaluationError):
            SvmSettings(**wrong)  # type: ignore[arg-type]
