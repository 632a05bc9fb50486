"""Weighted kNN against brute force, scikit-learn, and its own limits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.probes import knn
from semaug.eval.probes.knn import KnnSettings, UnitRows, evaluate_knn, knn_accuracy, largest, nearest

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


@pytest.mark.parametrize("block", [8192, 32], ids=["one block of queries", "several"])
def test_every_cell_of_the_grid_equals_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "QUERY_BLOCK", block)
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


@pytest.mark.parametrize("rows", [None, np.arange(3, 1000, 3)], ids=["all rows", "some rows"])
def test_nearest_equals_sorting(rows: np.ndarray | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "QUERY_BLOCK", 20)
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(1000, 4)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    chosen = np.arange(1000) if rows is None else rows
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (queries, bank[chosen])]
    expected = np.argsort(-(unit[0].astype(np.float64) @ unit[1].T), axis=1)[:, :3]
    settings = KnnSettings(bank_chunk=64)
    seen = []
    for place, similarity, places in nearest(
        UnitRows.of(queries, settings), UnitRows.of(bank, settings, rows), 3, query_chunk=8
    ):
        assert place.stop - place.start <= 8
        np.testing.assert_array_equal(places, expected[place])
        np.testing.assert_allclose(similarity[:, 0], (unit[0][place] * unit[1][expected[place, 0]]).sum(1), atol=1e-5)
        seen += range(place.start, place.stop)
    assert seen == list(range(50))


def test_blocks_of_the_bank_are_bounded_in_bytes() -> None:
    wide = np.broadcast_to(np.float32(1), (10**6, 2048))
    assert UnitRows.of(wide, KnnSettings()).chunk * 2048 * 4 <= knn.BANK_BYTES
    assert UnitRows.of(wide[:, :8], KnnSettings()).chunk == knn.BANK_CHUNK


def saved(features: Features, path: Path, shard_size: int) -> Features:
    """The same features mapped from an artifact on the disk."""
    from semaug.artifacts.sources.array import ArraySource
    from semaug.eval.feature_store import FeatureWork, open_features, write_features
    from semaug.eval.features import Preparation

    count, done = len(features), iter(range(10**9))

    def encode(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [next(done) for _ in range(len(batch))]
        return torch.from_numpy(features.features[rows]), torch.from_numpy(features.projections[rows])

    images = ArraySource(np.zeros((count, 1, 1, 3), np.uint8), features.keys, features.labels, features.class_names)
    work = FeatureWork(encode, "digest", Preparation.of(1, (0,) * 3, (1,) * 3), 12, 6)
    write_features(work, images, path, shard_size=shard_size)
    return open_features(path)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_streamed_from_files_equals_in_memory(
    tmp_path: Path, exclude_self: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = clustered(2500, 30)
    test = train.take(np.arange(0, 2500, 5)) if exclude_self else clustered(500, 31)
    settings = KnnSettings(exclude_self=exclude_self)
    whole = evaluate_knn(train, test, settings)
    mapped = saved(train, tmp_path / "train.zarr", 1024), saved(test, tmp_path / "test.zarr", 100)
    monkeypatch.setattr(knn, "QUERY_BLOCK", 128)
    monkeypatch.setattr(knn, "BANK_BYTES", 4 * 12 * 300)
    streamed = evaluate_knn(*mapped, settings)
    for ours, theirs in ((streamed.backbone, whole.backbone), (streamed.projector, whole.projector)):
        np.testing.assert_array_equal(ours.accuracy, theirs.accuracy)
        assert (ours.selected, ours.top5) == (theirs.selected, theirs.top5)
    assert streamed.warnings == whole.warnings


def test_memory_does_not_grow_with_the_bank(tmp_path: Path) -> None:
    """A bank of 128 MB, mapped; what the process holds at most grows by a few blocks of 4 MB."""
    code = f"""
import numpy as np, torch
torch.set_num_threads(1)
from pathlib import Path
from semaug.artifacts.joined import join_column
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest
from semaug.artifacts.shards import peak_memory
from semaug.artifacts.store import ArtifactWriter
from semaug.eval.features import Features
from semaug.eval.probes import knn
rng = np.random.default_rng(0)
path, size, shards, width = {str(tmp_path / "bank.zarr")!r}, 4096, 16, 512
with ArtifactWriter.open(path, Manifest(kind="features", items=size * shards, shard_size=size)) as writer:
    for shard in range(shards):
        rows = rng.standard_normal((size, width), dtype=np.float32)
        writer.write(shard, {{"feature": rows, **pack_strings("key", [""] * size)}})
    writer.finish()
bank = join_column(Artifact.open(path), "feature")
def features(values):
    labels = np.arange(len(values)) % 3
    return Features(values, None, labels, tuple(map(str, range(len(values)))), ("a", "b", "c"))
knn.BANK_BYTES, knn.QUERY_BLOCK = 4 << 20, 64
settings = knn.KnnSettings(ks=(20,), query_chunk=64)
queries = features(np.asarray(bank[:200]))
knn.evaluate_knn(features(np.asarray(bank[:5000])), queries, settings, select=False)  # what the libraries need once
before = peak_memory()
accuracy = knn.evaluate_knn(features(bank), queries, settings, select=False).backbone.at(20, 0.01)
print(peak_memory() - before, accuracy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, accuracy = map(float, done.stdout.split())
    assert accuracy > 0.9  # every query is its own nearest neighbour
    assert grown < 40e6


@pytest.mark.parametrize("noise", [0.0, 0.02], ids=["the queries", "near copies"])
def test_a_bank_that_holds_its_queries_is_named(noise: float) -> None:
    """A tenth of the queries lie in the bank, as they are or slightly changed."""
    train, test = clustered(1500, 40, dim=32), clustered(300, 41, dim=32)
    assert evaluate_knn(train, test).warnings == ()
    copies = test.features[:30] + noise * np.random.default_rng(0).normal(size=(30, 32)).astype(np.float32)
    values = np.concatenate([train.features[:-30], copies])
    labels = np.concatenate([train.labels[:-30], test.labels[:30]])
    leaky = Features(values, None, labels, train.keys, train.class_names)
    warnings = evaluate_knn(leaky, test).warnings
    assert len(warnings) == 1
    assert ("at similarity 1" if noise == 0 else "near copies") in warnings[0]
    assert re.match("1[0-3]% of the queries", warnings[0])


def test_an_encoder_that_memorised_its_queries_is_named() -> None:
    """Each image has a code of its own that has nothing to do with what it shows, up to what a second view changes."""
    rng = np.random.default_rng(0)
    names, labels = NAMES[:4], rng.integers(0, 4, 1200)
    codes = rng.normal(size=(1200, 64)).astype(np.float32)
    bank = Features(codes, None, labels, tuple(f"bank{i}" for i in range(1200)), names)
    seen = (codes[:300] + 0.05 * rng.normal(size=(300, 64))).astype(np.float32)
    memorised = Features(seen, None, labels[:300], tuple(f"query{i}" for i in range(300)), names)
    result = evaluate_knn(bank, memorised)
    assert result.backbone.at(1, 0.07) == 1.0
    assert "100% of the queries lie closer to a bank image" in result.warnings[0]


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
