"""Few-shot episodes against scikit-learn, closed forms and the rules of a fair draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from semaug.eval.errors import EvaluationError, LabelsMissing, NonFiniteFeatures, OneClass
from semaug.eval.features import Features
from semaug.eval.probes.batched_logistic import fit_logistic_batch
from semaug.eval.probes.fewshot import FewShotResult, FewShotSettings, _ClassRows, draw_episode, evaluate_fewshot
from semaug.eval.splits import labelled_pair

NAMES = tuple(f"c{i}" for i in range(6))


def blobs(n: int, seed: int, classes: int = 6, dim: int = 16, noise: float = 1.0, prefix: str = "") -> Features:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(classes, dim))
    labels = np.arange(n) % classes
    values = (centres[labels] + noise * rng.normal(size=(n, dim))).astype(np.float32)
    return Features(values, None, labels, tuple(f"{prefix}{i}" for i in range(n)), NAMES[:classes])


def values_of(result: FewShotResult) -> dict[str, float]:
    return {measure.metric: measure.value for measure in result if measure.value is not None}


@pytest.mark.parametrize(("rows", "width"), [(12, 40), (60, 10)])
@pytest.mark.parametrize("cost", [0.05, 1.0, 30.0])
def test_every_problem_of_a_batch_has_scikit_learns_solution(rows: int, width: int, cost: float) -> None:
    rng = np.random.default_rng(rows)
    x = normalize(rng.normal(size=(5 * rows, width)) + 0.5).reshape(5, rows, width)
    y = np.stack([rng.permutation(np.arange(rows) % 4) for _ in range(5)])
    weight, bias = fit_logistic_batch(torch.from_numpy(x), torch.from_numpy(y), 4, cost)
    for e in range(5):
        reference = LogisticRegression(C=cost, tol=1e-10, max_iter=5000).fit(x[e], y[e])
        np.testing.assert_allclose(weight[e].numpy(), reference.coef_.T, atol=2e-4 * max(1, cost))
        np.testing.assert_allclose(bias[e].numpy(), reference.intercept_, atol=2e-4 * max(1, cost))
        ours = torch.softmax(torch.from_numpy(x[e]) @ weight[e] + bias[e], 1).numpy()
        np.testing.assert_allclose(ours, reference.predict_proba(x[e]), atol=2e-5)


def test_the_optimum_has_no_slope_by_autograd() -> None:
    rng = np.random.default_rng(3)
    x, y = torch.from_numpy(rng.normal(size=(3, 20, 50))), torch.from_numpy(rng.integers(0, 3, (3, 20)))
    weight, bias = (part.requires_grad_() for part in fit_logistic_batch(x, y, 3, 0.7))
    loss = torch.nn.functional.cross_entropy((x @ weight + bias[:, None]).mT, y, reduction="sum")
    slopes = torch.autograd.grad(0.7 * loss + weight.square().sum() / 2, [weight, bias])
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-6


def test_repeated_and_zero_rows_are_solved() -> None:
    x = torch.zeros(1, 6, 9, dtype=torch.float64)
    x[0, :3, 0] = 1  # three copies of one image, and three images without any feature
    y = torch.tensor([[0, 0, 1, 1, 1, 0]])
    weight, bias = fit_logistic_batch(x, y, 2)
    # scikit-learn's form for two classes has one weight vector v; W = (-v/2, v/2) is penalised half as much
    reference = LogisticRegression(C=2.0, tol=1e-10).fit(x[0].numpy(), y[0].numpy())
    np.testing.assert_allclose(weight[0, :, 1] - weight[0, :, 0], reference.coef_[0], atol=1e-5)
    assert float(bias[0, 1] - bias[0, 0]) == pytest.approx(float(reference.intercept_[0]), abs=1e-5)


def test_a_problem_that_does_not_converge_is_named() -> None:
    x, y = torch.randn(2, 8, 3, dtype=torch.float64), torch.arange(8).expand(2, -1) % 2
    with pytest.raises(EvaluationError, match="did not converge in 1 steps at C = 100"):
        fit_logistic_batch(x, y, 2, 100.0, iterations=1)


@pytest.mark.parametrize("shots", [1, 3])
def test_each_episodes_accuracy_is_scikit_learns(shots: int) -> None:
    train, test = blobs(90, 0), blobs(120, 1)
    ours = evaluate_fewshot(train, test, FewShotSettings((shots,), episodes=8, queries=10), seed=4).scores[0]
    rows = _ClassRows(labelled_pair(train, test))
    known, asked = normalize(train.features.astype(np.float64)), normalize(test.features.astype(np.float64))
    for number in range(8):
        episode = draw_episode(rows, 6, shots, 10, 4, number)
        x, y = known[episode.support.ravel()], np.repeat(np.arange(6), shots)
        queries = asked[episode.queries]
        logistic = LogisticRegression(C=1.0, tol=1e-9, max_iter=1000).fit(x, y)
        assert ours.accuracies["logistic"][number] == pytest.approx(logistic.score(queries, episode.targets), abs=1e-9)
        means = np.stack([x[y == way].mean(0) for way in range(6)])
        nearest = KNeighborsClassifier(1).fit(means, np.arange(6))
        assert ours.accuracies["centroid"][number] == pytest.approx(nearest.score(queries, episode.targets), abs=1e-9)


def test_mean_and_interval_are_students() -> None:
    result = evaluate_fewshot(blobs(90, 0), blobs(60, 1), FewShotSettings((2,), episodes=25))
    accuracies = np.asarray(result.scores[0].accuracies["logistic"])
    found = values_of(result)
    half = 2.0638985616 * accuracies.std(ddof=1) / 5  # t at 0.975 with 24 degrees of freedom
    assert found["fewshot/2-shot/logistic/top1"] == pytest.approx(accuracies.mean())
    assert found["fewshot/2-shot/logistic/top1_std"] == pytest.approx(accuracies.std(ddof=1))
    assert found["fewshot/2-shot/logistic/top1_interval_low"] == pytest.approx(accuracies.mean() - half)
    assert found["fewshot/2-shot/logistic/top1_interval_high"] == pytest.approx(accuracies.mean() + half)


def test_separated_classes_need_one_shot_and_more_shots_help_where_they_overlap() -> None:
    clean = values_of(evaluate_fewshot(blobs(60, 0, noise=0.01), blobs(60, 1, noise=0.01), FewShotSettings((1,))))
    assert clean["fewshot/1-shot/logistic/top1"] == clean["fewshot/1-shot/centroid/top1"] == 1.0
    noisy = values_of(evaluate_fewshot(blobs(300, 0, noise=1.5), blobs(300, 1, noise=1.5)))
    for classifier in ("logistic", "centroid"):
        one, five, twenty = (noisy[f"fewshot/{shots}-shot/{classifier}/top1"] for shots in (1, 5, 20))
        assert 1 / 6 < one < five < twenty


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(1, 6), st.integers(0, 20))
def test_a_draw_is_balanced_and_its_support_holds_that_of_fewer_shots(
    seed: int, ways: int, shots: int, number: int
) -> None:
    pair = labelled_pair(blobs(42, 0), blobs(50, 1))
    rows = _ClassRows(pair)
    episode, smaller = (draw_episode(rows, ways, count, 3, seed, number) for count in (shots, 1))
    labels = pair.train.labels[episode.support]
    assert (labels == labels[:, :1]).all()
    assert len(np.unique(labels[:, 0])) == ways
    assert len(np.unique(episode.support)) == ways * shots
    assert (labels[episode.targets, 0] == pair.test.labels[episode.queries]).all()
    assert (np.bincount(episode.targets) == 3).all()
    np.testing.assert_array_equal(episode.support[:, :1], smaller.support)
    np.testing.assert_array_equal(episode.queries, smaller.queries)


def test_more_shots_than_samples_are_missing_with_the_reason() -> None:
    train, test = blobs(60, 0), blobs(60, 1)
    train = train.take(np.setdiff1d(np.arange(60), np.flatnonzero(train.labels == 2)[3:]))
    measures = {measure.metric: measure for measure in evaluate_fewshot(train, test, FewShotSettings((3, 5)))}
    assert measures["fewshot/3-shot/logistic/top1"].value is not None
    for classifier in ("logistic", "centroid"):
        for end in ("", "_std", "_interval_low", "_interval_high"):
            missing = measures[f"fewshot/5-shot/{classifier}/top1{end}"]
            assert missing.value is None
            assert missing.reason == "5 shots, and class c2 has 3 training images"


def test_one_episode_has_no_spread() -> None:
    measures = {m.metric: m for m in evaluate_fewshot(blobs(60, 0), blobs(60, 1), FewShotSettings((1,), episodes=1))}
    assert measures["fewshot/1-shot/logistic/top1"].value is not None
    assert measures["fewshot/1-shot/logistic/top1_std"].reason == "one episode"


def test_classes_of_one_set_alone_take_no_part_and_copies_are_named() -> None:
    train, test = blobs(60, 0), blobs(60, 1, prefix="test")
    result = evaluate_fewshot(train.take(train.labels != 5), test.take(test.labels != 0), FewShotSettings((1,)))
    assert result.ways == 4
    assert result.warnings == ("2 classes are in the training or the test set alone and take no part",)
    assert "60 of 60 test images lie in the training set" in evaluate_fewshot(train, train).warnings[0]


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    train, test, few = blobs(60, 0), blobs(60, 1), FewShotSettings((1,), episodes=5)
    first, again, other = (values_of(evaluate_fewshot(train, test, few, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_bad_input_is_named() -> None:
    train, test = blobs(60, 0), blobs(60, 1)
    with pytest.raises(OneClass, match="share 1 classes"):
        evaluate_fewshot(train, test.take(test.labels == 1))
    with pytest.raises(LabelsMissing):
        evaluate_fewshot(train, Features(test.features, None, np.full(60, -1), test.keys, NAMES))
    broken = train.features.copy()
    broken[3] = np.inf
    with pytest.raises(NonFiniteFeatures):
        evaluate_fewshot(Features(broken, None, train.labels, train.keys, NAMES), test)
    with pytest.raises(EvaluationError, match="9 ways of 6 classes"):
        evaluate_fewshot(train, test, FewShotSettings(ways=9))
    for wrong in ({"shots": ()}, {"episodes": 0}, {"ways": 1}, {"queries": 0}, {"cost": 0.0}, {"classifiers": ("x",)}):
        with pytest.raises(EvaluationError):
            FewShotSettings(**wrong)  # type: ignore[arg-type]
