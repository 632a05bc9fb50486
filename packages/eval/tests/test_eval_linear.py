"""Linear probes against scikit-learn, autograd and finite differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from semaug.artifacts.draws import generator
from semaug.artifacts.joined import join_column
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest
from semaug.artifacts.store import ArtifactWriter
from semaug.eval.errors import EvaluationError, LabelsMissing, NonFiniteFeatures, OneClass
from semaug.eval.features import Features
from semaug.eval.probes import logistic
from semaug.eval.probes.knn import evaluate_knn
from semaug.eval.probes.linear import (
    LbfgsSettings,
    SgdSettings,
    evaluate_linear,
    fit_lbfgs,
    fit_sgd,
)
from semaug.eval.probes.logistic import CrossEntropy, Standardised
from semaug.eval.probes.semi import evaluate_semi
from semaug.eval.splits import selection_split
from semaug.eval.subsets import copied_rows


def blobs(n: int, seed: int, classes: int = 7, dim: int = 10, noise: float = 1.5) -> Features:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(77).normal(size=(classes, dim))
    labels = rng.integers(0, classes, n)
    values = (3 + centres[labels] + noise * rng.normal(size=(n, dim))).astype(np.float32)
    names = tuple(f"c{i}" for i in range(classes))
    return Features(values, None, labels.astype(np.int64), tuple(str(i) for i in range(n)), names)


def relabel(features: Features, labels: np.ndarray, names: tuple[str, ...] | None = None) -> Features:
    return Features(features.features, None, labels.astype(np.int64), features.keys, names or features.class_names)


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_lbfgs_finds_scikit_learns_solution(penalty: float) -> None:
    train, test = blobs(400, 0), blobs(200, 1)
    x, y = torch.from_numpy(train.features).double(), torch.from_numpy(train.labels)
    ours = fit_lbfgs(x, y, 7, LbfgsSettings(tolerance=1e-8, iterations=2000), (penalty,))[0]
    known, asked = train.features.astype(np.float64), test.features.astype(np.float64)
    scaler = StandardScaler().fit(known)
    reference = LogisticRegression(C=1 / (len(train) * penalty), tol=1e-8, max_iter=2000)
    reference.fit(scaler.transform(known), train.labels)
    logits = ours.logits(test.features)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    expected = reference.predict_proba(scaler.transform(asked))
    np.testing.assert_allclose(probabilities, expected, atol=2e-5)


def correlated(n: int, seed: int, dim: int = 40) -> Features:
    """Ten overlapping classes in columns that correlate as a network's do: eigenvalues fall over five decades."""
    turns = np.linalg.qr(np.random.default_rng(5).normal(size=(2, dim, dim)))[0]
    basis = turns[0] * np.logspace(0, -2.5, dim) @ turns[1]
    base = blobs(n, seed, classes=10, dim=dim, noise=2)
    return Features((base.features @ basis + 1).astype(np.float32), None, base.labels, base.keys, base.class_names)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The values of the objective at every pass over the data from now on."""
    passes: list[float] = []
    evaluate = CrossEntropy.__call__

    def count(self: CrossEntropy, matrix: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        found = evaluate(self, matrix, penalty)
        passes.append(found[0])
        return found

    monkeypatch.setattr(CrossEntropy, "__call__", count)
    return passes


@pytest.mark.parametrize("penalty", [1e-1, 1e-3, 1e-5])
def test_float32_reaches_scikit_learns_float64_minimum_in_few_passes(
    penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = correlated(2000, 40), correlated(1000, 41)
    known, asked = train.features.astype(np.float64), test.features.astype(np.float64)
    scaler = StandardScaler().fit(known)
    reference = LogisticRegression(C=1 / (len(train) * penalty), tol=1e-9, max_iter=10_000, solver="newton-cholesky")
    reference.fit(scaler.transform(known), train.labels)
    exact = CrossEntropy(Standardised(torch.from_numpy(known)), torch.from_numpy(train.labels), 10)
    least = exact(np.vstack([reference.coef_.T, reference.intercept_]), penalty)[0]

    passes = counted(monkeypatch)
    ours = evaluate_linear(train, test, LbfgsSettings(penalties=(penalty,)))
    assert len(passes) < 60  # plain L-BFGS takes 300 at the weakest penalty
    reached = exact(exact.x.folded(ours.classifier), penalty)[0]
    assert reached == pytest.approx(least, abs=1e-6)
    agreement = (ours.classifier.predict(test.features) == reference.predict(scaler.transform(asked))).mean()
    assert agreement > 0.995
    assert ours.top1 == pytest.approx(reference.score(scaler.transform(asked), test.labels), abs=0.003)


def test_the_last_fit_starts_from_the_chosen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = correlated(1000, 42), correlated(300, 43)
    passes = counted(monkeypatch)
    warm = evaluate_linear(train, test)
    selecting = len(passes)
    cold = evaluate_linear(train, test, LbfgsSettings(penalties=(warm.chosen,)))
    assert passes[selecting] > passes[selecting - 1]  # the cold fit starts at log 10
    np.testing.assert_allclose(
        warm.classifier.logits(test.features), cold.classifier.logits(test.features), atol=0.02, rtol=0.01
    )


@pytest.mark.parametrize("rows", [None, np.arange(1, 9000, 3)], ids=["all rows", "some rows"])
def test_standardising_block_by_block_equals_at_once(rows: np.ndarray | None) -> None:
    values = (np.random.default_rng(0).normal(size=(9000, 5)) * [1, 10, 0.1, 0, 3] + 50).astype(np.float32)
    chosen = torch.from_numpy(values if rows is None else values[rows]).double()
    mean, deviation = chosen.mean(0), chosen.std(0, correction=0)
    expected = (chosen - mean) / torch.where(deviation > 1e-6 * mean, deviation, torch.inf)
    kept, streamed = Standardised(values, rows), Standardised(values, rows, held=0)
    for standard in (kept, streamed):
        blocks = list(standard)
        assert [place.start for place, _ in blocks] == list(range(0, len(chosen), 4096))
        np.testing.assert_allclose(torch.cat([block for _, block in blocks]), expected, atol=2e-4)
    every = expected.T @ expected / len(expected)
    np.testing.assert_allclose(streamed.gram(), every, atol=2e-3)


def test_features_mapped_from_files_give_the_same_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = blobs(3000, 44), blobs(300, 45)
    whole = {kind: evaluate_linear(train, test, kind) for kind in (LbfgsSettings(), SgdSettings(epochs=2))}
    manifest = Manifest(kind="features", items=3000, shard_size=1024)
    with ArtifactWriter.open(tmp_path / "a.zarr", manifest) as writer:
        for shard in range(3):
            place = slice(shard * 1024, (shard + 1) * 1024)
            writer.write(shard, {"feature": train.features[place], **pack_strings("key", train.keys[place])})
        writer.finish()
    mapped = replace(train, features=join_column(Artifact.open(tmp_path / "a.zarr"), "feature"))
    for module in ("linear", "logistic"):
        monkeypatch.setattr(f"semaug.eval.probes.{module}.HELD", 0)
    monkeypatch.setattr(Standardised.__init__, "__kwdefaults__", {"held": 0})
    for settings, expected in whole.items():
        found = evaluate_linear(mapped, test, settings)
        assert found.selection_accuracy == expected.selection_accuracy
        np.testing.assert_allclose(found.classifier.weight, expected.classifier.weight, atol=1e-5)
        assert found.top1 == expected.top1


def test_gradient_of_the_objective_by_finite_differences() -> None:
    train = blobs(50, 2, classes=3, dim=4)
    x, y = torch.from_numpy(train.features).double(), torch.from_numpy(train.labels)
    objective = CrossEntropy(Standardised(x), y, 3)
    point = np.random.default_rng(0).normal(size=(5, 3))
    _, gradient = objective(point, 0.03)
    for place in np.ndindex(5, 3):
        step = np.zeros((5, 3))
        step[place] = 1e-6
        slope = (objective(point + step, 0.03)[0] - objective(point - step, 0.03)[0]) / 2e-6
        assert gradient[place] == pytest.approx(slope, abs=1e-7)


def test_sgd_equals_a_plain_autograd_loop() -> None:
    train = blobs(70, 3, classes=4, dim=5)
    settings = SgdSettings(learning_rates=(0.05,), epochs=10, batch_size=16, weight_decay=0.01)
    x, y = torch.from_numpy(train.features).double(), torch.from_numpy(train.labels)
    ours = fit_sgd(x, y, 4, settings, (0.05,), seed=5)[0]

    layer = torch.nn.Linear(5, 4).double()
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 8])
    rng = generator(5, "linear-probe")
    for _ in range(10):
        for batch in torch.from_numpy(rng.permutation(70)).split(16):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[batch]), y[batch]).backward()
            optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(ours.weight, layer.weight.detach().numpy().T, atol=1e-6)
    np.testing.assert_allclose(ours.bias, layer.bias.detach().numpy(), atol=1e-6)


def test_learning_rates_side_by_side_equal_each_alone() -> None:
    train = blobs(60, 4)
    x, y = torch.from_numpy(train.features).double(), torch.from_numpy(train.labels)
    settings = SgdSettings(epochs=5)
    together = fit_sgd(x, y, 7, settings, (0.01, 0.1))
    for rate, classifier in zip((0.01, 0.1), together, strict=True):
        alone = fit_sgd(x, y, 7, settings, (rate,))[0]
        np.testing.assert_allclose(classifier.weight, alone.weight, atol=1e-6)


@pytest.mark.parametrize("settings", [LbfgsSettings(), SgdSettings(epochs=20)])
def test_separable_classes_are_separated(settings: LbfgsSettings | SgdSettings) -> None:
    result = evaluate_linear(blobs(300, 5, noise=0.05), blobs(100, 6, noise=0.05), settings)
    assert result.top1 == 1.0
    assert {measure.metric: measure.n for measure in result} == {"linear/top1": 100, "linear/top5": 100}
    assert result.chosen in settings.choices


def test_accuracy_is_near_the_bayes_rate_not_above_it_by_chance() -> None:
    train, test = blobs(3000, 7), blobs(3000, 8)
    centres = 3 + np.random.default_rng(77).normal(size=(7, 10))
    distances = ((test.features[:, None] - centres[None]) ** 2).sum(2)
    bayes = (distances.argmin(1) == test.labels).mean()
    assert evaluate_linear(train, test).top1 == pytest.approx(bayes, abs=0.02)


def test_scale_of_a_column_does_not_matter_to_lbfgs() -> None:
    train, test = blobs(300, 9), blobs(200, 10)
    scale = np.asarray([1e3, 1e-3, *[1.0] * 7, 0.0], dtype=np.float32)  # the last column becomes constant
    dropped = np.asarray([*[1.0] * 9, 0.0], dtype=np.float32)
    stretched, plain = (
        evaluate_linear(
            *(Features(f.features * s, None, f.labels, f.keys, f.class_names) for f in (train, test)),
            LbfgsSettings(penalties=(1e-2,)),
        )
        for s in (scale, dropped)
    )
    assert stretched.top1 == pytest.approx(plain.top1, abs=0.011)
    assert plain.top1 > 0.4


def test_top5_and_per_class_by_hand() -> None:
    train, test = blobs(500, 11, noise=3), blobs(300, 12, noise=3)
    result = evaluate_linear(train, test)
    logits = result.classifier.logits(test.features)
    ranked = np.argsort(-logits, axis=1)
    assert result.top5 == pytest.approx((ranked[:, :5] == test.labels[:, None]).any(1).mean())
    for label in range(7):
        chosen = test.labels == label
        assert result.per_class[label] == pytest.approx((ranked[chosen, 0] == label).mean())
    few = evaluate_linear(blobs(60, 0, classes=3), blobs(30, 1, classes=3))
    assert few.top5 is None


def test_classes_match_by_name_not_by_number() -> None:
    train, test = blobs(300, 13), blobs(200, 14)
    order = np.asarray([3, 1, 0, 2, 6, 5, 4])
    renamed = relabel(test, np.argsort(order)[test.labels], tuple(test.class_names[i] for i in order))
    assert evaluate_linear(train, renamed).top1 == evaluate_linear(train, test).top1
    assert evaluate_linear(train, relabel(renamed, renamed.labels, test.class_names)).top1 < 0.5


def test_a_class_without_training_images_is_never_predicted_and_counts_as_wrong() -> None:
    train, test = blobs(300, 15), blobs(200, 16)
    smaller = train.take(train.labels != 2)
    result = evaluate_linear(smaller, test)
    assert result.per_class[2] == 0.0
    assert (result.classifier.logits(test.features).argmax(1) != 2).all()
    assert "c2" in result.warnings[0]
    assert str((test.labels == 2).sum()) in result.warnings[0]


def test_a_test_set_of_fewer_classes_than_the_training_set() -> None:
    train, test = blobs(300, 17), blobs(200, 18)
    result = evaluate_linear(train, test.take(test.labels < 3))
    assert result.n == int((test.labels < 3).sum())
    assert np.isnan(result.per_class[3:]).all()


def test_a_class_with_one_image_is_fitted() -> None:
    train, test = blobs(200, 19), blobs(100, 20)
    rows = np.flatnonzero(train.labels == 0)
    train = train.take(np.setdiff1d(np.arange(200), rows[1:]))
    assert evaluate_linear(train, test).n == 100
    fit, selection = selection_split(train.labels)
    assert 0 in train.labels[fit]
    assert 0 not in train.labels[selection]


def test_unlabelled_images_take_no_part() -> None:
    train, test = blobs(300, 21), blobs(100, 22)
    hidden = train.labels.copy()
    hidden[::3] = -1
    kept = train.take(hidden >= 0)
    assert evaluate_linear(relabel(train, hidden), test).top1 == evaluate_linear(kept, test).top1


def test_settings_are_chosen_without_the_test_set() -> None:
    train, test = blobs(300, 23), blobs(100, 24)
    ours, other = evaluate_linear(train, test), evaluate_linear(train, relabel(test, np.roll(test.labels, 3)))
    assert ours.selection_accuracy == other.selection_accuracy
    assert ours.chosen == other.chosen
    assert ours.top1 > other.top1 + 0.2


def test_bad_input_is_named() -> None:
    train, test = blobs(60, 25), blobs(30, 26)
    with pytest.raises(LabelsMissing, match="none of the 60 training images has a label"):
        evaluate_linear(relabel(train, np.full(60, -1)), test)
    with pytest.raises(OneClass, match=r"one class \(c3\)"):
        evaluate_linear(relabel(train, np.full(60, 3)), test)
    broken = train.features.copy()
    broken[7, 2] = np.nan
    with pytest.raises(NonFiniteFeatures, match=r"1 of 60 training features .* first 7"):
        evaluate_linear(Features(broken, None, train.labels, train.keys, train.class_names), test)
    with pytest.raises(EvaluationError, match="10 columns and test features 4"):
        evaluate_linear(train, blobs(30, 0, dim=4))
    with pytest.raises(EvaluationError, match="diverged"):
        evaluate_linear(
            Features(train.features * 1e20, None, train.labels, train.keys, train.class_names),
            test,
            SgdSettings(learning_rates=(1e20,), epochs=2),
        )
    singles = train.take(np.asarray([int(np.flatnonzero(train.labels == c)[0]) for c in range(7)]))
    with pytest.raises(EvaluationError, match="leave none to select"):
        evaluate_linear(singles, test)


def test_a_single_choice_needs_no_selection() -> None:
    train, test = blobs(60, 27), blobs(30, 28)
    singles = train.take(np.asarray([int(np.flatnonzero(train.labels == c)[0]) for c in range(7)]))
    assert evaluate_linear(singles, test, LbfgsSettings(penalties=(1e-2,))).chosen == 1e-2


def test_short_passes_take_one_thread_and_give_the_others_back(monkeypatch):
    threads, seen = torch.get_num_threads(), []
    progress = lambda event: seen.append(torch.get_num_threads())  # noqa: E731
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    try:
        torch.set_num_threads(2)
        fit_lbfgs(x, y, 3, LbfgsSettings(), (1e-2,), on_progress=progress)
        monkeypatch.setattr(logistic, "SHORT_PASS", 1)
        fit_lbfgs(x, y, 3, LbfgsSettings(), (1e-2,), on_progress=progress)
        assert (seen, torch.get_num_threads()) == ([1, 2], 2)
    finally:
        torch.set_num_threads(threads)


def test_test_images_of_the_training_set_are_told() -> None:
    train, test = blobs(120, 0), blobs(60, 1)
    assert not any("lie in the training set" in note for note in evaluate_linear(train, test).warnings)
    values = np.concatenate([train.features[:20] * np.float32(1 + 1e-6), test.features[20:]])
    labels = np.concatenate([train.labels[:20], test.labels[20:]])
    leaked = relabel(replace(test, features=values), labels)
    assert any("20 of 60 test images lie in the training set" in n for n in evaluate_linear(train, leaked).warnings)
    renamed = replace(leaked, keys=tuple(f"copy of {key}" for key in leaked.keys))
    assert any("20 of 60 test images lie in the training set" in n for n in evaluate_linear(train, renamed).warnings)


@given(
    rows=st.integers(1, 60), width=st.integers(1, 8), copies=st.integers(0, 20), seed=st.integers(0, 10_000),
    spread=st.sampled_from([1e-3, 1.0, 1e4]),
)  # fmt: skip
def test_copied_rows_are_those_that_a_comparison_of_all_with_all_finds(rows, width, copies, seed, spread) -> None:
    rng = np.random.default_rng(seed)
    train = np.repeat(rng.normal(size=(rows, width)) * spread, 1 + seed % 3, axis=0).astype(np.float32)
    copied = train[rng.integers(len(train), size=copies)] * np.float32(1 + 1e-6)
    test = np.concatenate([copied, rng.normal(size=(10, width)).astype(np.float32), np.zeros((1, width), np.float32)])
    apart = np.linalg.norm(train[None].astype(np.float64) - test[:, None], axis=2).min(axis=1)
    limit = 1e-5 * np.linalg.norm(test, axis=1)
    found = copied_rows(train, test)
    sure = np.abs(apart - limit) > 1e-6 * limit
    assert (found == ((apart <= limit) & (limit > 0)))[sure].all()
    assert not found[-1]


@pytest.mark.parametrize("value", [0, 1])
def test_features_that_are_all_the_same_are_called_a_collapse_and_no_leak(value: float) -> None:
    train, test = (replace(f, features=np.full_like(f.features, value)) for f in (blobs(60, 0), blobs(30, 1)))
    for result in (evaluate_linear(train, test), evaluate_semi(train, test), evaluate_knn(train, test)):
        assert sum("the encoder has collapsed" in note for note in result.warnings) == 1
        assert not any("lie in the training set" in note for note in result.warnings)
