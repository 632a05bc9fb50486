"""Proposals: the score against its equation, what is chosen, regions and descriptors, determinism, near-duplicates."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, InvalidOption, MissingDependency
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import Guidance, QualityScore
from semaug.artifacts.sources import ArraySource, open_source
from semaug.pairs_dataset import proposals
from semaug.pairs_dataset.appearance import context_statistics, difference_hash, object_statistics
from semaug.pairs_dataset.descriptors import Descriptors, describe_source
from semaug.pairs_dataset.proposals import ProposalRule, propose_pairs
from semaug.pairs_dataset.regions import cut, object_region

SIDE = 48


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_descriptors(count: int, seed: int = 0, encoded: bool = False) -> Descriptors:
    draws = np.random.default_rng(seed)
    features = [draws.normal(size=(count, 5)).astype(np.float32) + 1 for _ in range(2)] if encoded else [None, None]
    return Descriptors(
        tuple(f"{i:04d}" for i in range(count)),
        unit(np.abs(draws.normal(size=(count, 6)))),
        unit(np.abs(draws.normal(size=(count, 7)))),
        draws.uniform(size=(count, 3)).astype(np.float32),
        draws.uniform(4, 200, count).astype(np.float32),
        draws.uniform(0.1, 0.5, count).astype(np.float32),
        draws.integers(0, 2**63, count).astype(np.uint64),
        np.ones(count, bool),
        *features,
    )


def blank_source(count: int, classes: int = 1, keys=None) -> ArraySource:
    images = np.zeros((count, 8, 8, 3), np.uint8)
    keys = keys or [f"{i:04d}" for i in range(count)]
    return ArraySource(images, keys=keys, labels=[int(k) % classes for k in keys])


def expected_score(d: Descriptors, a: int, b: int, rule: ProposalRule) -> tuple[float, list[float], float]:
    """Score, parts and least similarity in float64, from the definition: standard scores over all pairs."""
    count = len(d)

    def centred(rows):
        rows = rows.astype(np.float64) - rows.astype(np.float64).mean(0)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def parts(i, j):
        light = np.abs(d.light[i].astype(float) - d.light[j]).mean()
        octaves = min(abs(np.log2(float(d.side[i])) - np.log2(float(d.side[j]))) / 4, 1)
        seen = float(d.context[i].astype(float) @ d.context[j])
        if d.object_features is None:
            return float(d.object[i].astype(float) @ d.object[j]), 1 - seen, light, octaves
        objects, contexts = centred(d.object_features), centred(d.context_features)
        return float(objects[i] @ objects[j]), 1 - (float(contexts[i] @ contexts[j]) + seen) / 2, light, octaves

    table = np.array([parts(i, j) for i, j in itertools.combinations(range(count), 2)])
    standard = (np.array(parts(a, b)) - table.mean(0)) / table.std(0)
    weights = np.array(rule.weights)
    return float(standard @ weights / weights.sum()), list(parts(a, b)), float(np.quantile(table[:, 0], 0.5))


@pytest.mark.parametrize("encoded", [False, True])
def test_scores_are_what_the_definition_says(encoded) -> None:
    d, rule = random_descriptors(14, encoded=encoded), ProposalRule(per_class=4, illumination=0.5)
    found = propose_pairs(blank_source(14), d, rule)
    assert len(found.rows) == 4
    for row in found.rows:
        score, parts, least = expected_score(d, int(row.image_a), int(row.image_b), rule)
        assert row.scores["score"] == pytest.approx(score, abs=2e-5)
        assert [row.scores[name] for name in proposals.PARTS] == pytest.approx(parts, abs=2e-6)
        assert row.scores["similarity"] >= least - 1e-6
    scores = [row.scores["score"] for row in found.rows]
    assert scores == sorted(scores, reverse=True)


@given(
    count=st.integers(2, 30), classes=st.integers(1, 3), uses=st.integers(1, 3), wanted=st.integers(1, 12),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_no_pair_twice_no_class_mixed_no_image_used_too_often(count, classes, uses, wanted, seed) -> None:
    source = blank_source(count, classes)
    found = propose_pairs(source, random_descriptors(count, seed), ProposalRule(wanted, uses))
    times: dict[str, int] = {}
    for row in found.rows:
        assert row.image_a < row.image_b
        assert int(row.image_a) % classes == int(row.image_b) % classes
        assert source.class_names[int(row.image_a) % classes] == row.class_name
        for key in (row.image_a, row.image_b):
            times[key] = times.get(key, 0) + 1
    assert max(times.values(), default=0) <= uses
    assert len({row.pair_id for row in found.rows}) == len(found.rows)
    assert all(c.proposed <= wanted for c in found.counts)
    assert sum(c.images for c in found.counts) == count


def test_greedy_choice_is_near_the_best_matching() -> None:
    """The total of the scores (moved to be positive) against the exact maximum-weight matching."""
    networkx = pytest.importorskip("networkx")
    ratios = []
    for seed in range(6):
        d, rule = random_descriptors(24, seed), ProposalRule(per_class=12, min_similarity=0.0)
        greedy = propose_pairs(blank_source(24), d, rule)
        graph, shift = networkx.Graph(), 10.0
        everything = propose_pairs(blank_source(24), d, replace(rule, per_class=10**6, uses=10**6))
        for row in everything.rows:
            graph.add_edge(row.image_a, row.image_b, weight=row.scores["score"] + shift)
        best = networkx.max_weight_matching(graph)
        total = sum(graph.edges[edge]["weight"] - shift for edge in best)
        ratios.append(sum(row.scores["score"] for row in greedy.rows) / total)
    assert min(ratios) > 0.7
    assert np.mean(ratios) > 0.8


def test_the_order_of_the_images_changes_nothing() -> None:
    d, rule = random_descriptors(20), ProposalRule(per_class=5)
    order = np.random.default_rng(1).permutation(20)
    keys = [d.keys[i] for i in order]
    arrays = {
        name: getattr(d, name)[order] for name in ("object", "context", "light", "side", "share", "hash", "found")
    }
    shuffled = replace(d, keys=tuple(keys), **arrays)
    straight = propose_pairs(blank_source(20, 2), d, rule, seed=3)
    assert propose_pairs(blank_source(20, 2, keys), shuffled, rule, seed=3).rows == straight.rows
    assert propose_pairs(blank_source(20, 2), d, rule, seed=3).rows == straight.rows


def test_images_that_look_the_same_are_not_paired_and_count_as_one() -> None:
    d = random_descriptors(12)
    for name in ("object", "context", "light", "side", "hash"):
        getattr(d, name)[1:3] = getattr(d, name)[0]
    d.hash[2] ^= np.uint64(5)  # two bits away
    found = propose_pairs(blank_source(12), d, ProposalRule(per_class=99, min_similarity=0.0))
    burst = {"0000", "0001", "0002"}
    pairs = [{row.image_a, row.image_b} for row in found.rows]
    assert not any(pair <= burst for pair in pairs)
    assert sum(bool(pair & burst) for pair in pairs) <= 1


def test_a_flat_image_is_not_taken_for_every_other_flat_image() -> None:
    d = random_descriptors(8)
    d.hash[:] = 0
    assert len(propose_pairs(blank_source(8), d, ProposalRule(4, min_similarity=0.0)).rows) >= 3


def test_large_classes_keep_each_images_best_partners(monkeypatch) -> None:
    d, rule = random_descriptors(60), ProposalRule(per_class=10, candidates=20)
    exact = propose_pairs(blank_source(60), d, rule)
    monkeypatch.setattr(proposals, "ALL_PAIRS_UP_TO", 10)
    monkeypatch.setattr(proposals, "_BLOCK", 7)
    blocks = propose_pairs(blank_source(60), d, rule)
    assert [row.pair_id for row in blocks.rows] == [row.pair_id for row in exact.rows]


@pytest.mark.slow
def test_approximate_neighbours_come_near_the_exact_choice() -> None:
    pytest.importorskip("pynndescent")
    d, rule = random_descriptors(600), ProposalRule(per_class=50, exact_up_to=100)
    near, again = (propose_pairs(blank_source(600), d, rule) for _ in range(2))
    exact = propose_pairs(blank_source(600), d, replace(rule, exact_up_to=10_000))
    assert near.rows == again.rows
    mean = [np.mean([row.scores["score"] for row in found.rows]) for found in (near, exact)]
    assert len(near.rows) == 50
    assert mean[0] > 0.6 * mean[1] > 0


def test_without_the_library_a_huge_class_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynndescent", None)
    with pytest.raises(MissingDependency, match=r"semaug-pairs-dataset\[propose\]"):
        propose_pairs(blank_source(12), random_descriptors(12), ProposalRule(exact_up_to=10))


def test_wrong_rules_and_sources_without_classes_are_refused() -> None:
    for options in ({"per_class": 0}, {"uses": 0}, {"min_similarity": 1.0}, {"context": -1.0}):
        with pytest.raises(InvalidOption):
            ProposalRule(**options)
    with pytest.raises(InvalidOption, match="no classes"):
        propose_pairs(ArraySource(np.zeros((2, 8, 8, 3), np.uint8)), random_descriptors(2))


# Regions and descriptors ------------------------------------------------------------------------------------------


def square_on(ground: tuple[int, int, int], colour: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image with a square, and the square's mask."""
    draws = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), ground) + draws.integers(-12, 13, (SIDE, SIDE, 3))
    top, left = draws.integers(4, 20, 2)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top : top + 22, left : left + 22] = True
    image[mask] = np.array(colour) + draws.integers(-12, 13, (int(mask.sum()), 3))
    return image.clip(0, 255).astype(np.uint8), mask


def plain_score(key: str, image: np.ndarray) -> QualityScore:
    return QualityScore(*image.shape[:2], 0.0, 0.0, 0.5, 0.5, 0.5, 0.5)


GROUNDS = [(40, 160, 60), (60, 80, 200), (200, 190, 140), (30, 30, 30)]
COLOURS = [(230, 40, 40), (240, 240, 60)]


def planted() -> tuple[ArraySource, GuidanceTable, dict[str, tuple[int, int]]]:
    """One class of two kinds of object on four kinds of ground, four images each."""
    images, rows, kinds = [], [], {}
    for number, (c, g, _) in enumerate(itertools.product(range(2), range(4), range(4))):
        image, mask = square_on(GROUNDS[g], COLOURS[c], number)
        key = f"{number:03d}.png"
        images.append(image)
        rows.append(Guidance(key, SIDE, SIDE, scale="pixel", masks=(encode_mask(mask),)))
        kinds[key] = (c, g)
    return ArraySource(images, keys=list(kinds), labels=[0] * len(images)), GuidanceTable.of(rows, digest="d"), kinds


def test_proposals_show_the_same_object_on_another_ground(tmp_path) -> None:
    source, guidance, kinds = planted()
    describe_source(source, tmp_path / "d.zarr", score=plain_score, guidance=guidance)
    d = Descriptors.open(tmp_path / "d.zarr")
    assert d.found.all()
    assert d.guided
    found = propose_pairs(source, d, ProposalRule(per_class=12))
    assert len(found.rows) == 12
    for row in found.rows:
        (object_a, ground_a), (object_b, ground_b) = kinds[row.image_a], kinds[row.image_b]
        assert object_a == object_b
        assert ground_a != ground_b


def test_objects_do_not_enter_the_context_nor_grounds_the_object() -> None:
    mask = square_on(GROUNDS[0], COLOURS[0], 5)[1]
    region = object_region(Guidance("a", SIDE, SIDE, scale="pixel", masks=(encode_mask(mask),)))
    parts = {}
    for g, c in itertools.product((0, 1), (0, 1)):
        image = square_on(GROUNDS[g], COLOURS[c], 5)[0]
        parts[g, c] = cut(image, region, 32)
    contexts = {k: context_statistics(p) for k, p in parts.items()}
    objects = {k: object_statistics(p) for k, p in parts.items()}
    assert contexts[0, 0] @ contexts[0, 1] == pytest.approx(1, abs=1e-6)
    assert contexts[0, 0] @ contexts[1, 0] < 0.8
    assert objects[0, 0] @ objects[1, 0] == pytest.approx(1, abs=0.02)
    assert objects[0, 0] @ objects[0, 1] < objects[0, 0] @ objects[1, 0] - 0.1
    painted = parts[0, 0].context(32).reshape(-1, 3)
    assert np.abs(painted - GROUNDS[0]).max() < 30


def test_the_region_is_the_largest_mask_or_box_and_the_centre_where_there_is_none() -> None:
    boxes = np.array([[0, 0, 10, 10], [10, 20, 40, 40], [5, 5, 5, 30]], np.float32)
    assert object_region(Guidance("a", 40, 80, boxes=boxes)).box == (0.125, 0.5, 0.5, 1.0)
    small, large = np.zeros((40, 80), bool), np.zeros((40, 80), bool)
    small[:4, :4], large[10:30, 20:60] = True, True
    masks = tuple(encode_mask(m) for m in (small, large))
    found = object_region(Guidance("a", 40, 80, scale="hybrid", boxes=boxes, masks=masks))
    assert found.box == (0.25, 0.25, 0.75, 0.75)
    assert found.mask is not None
    assert np.array_equal(found.mask, large)
    for nothing in (None, Guidance("a", 40, 80, fallback=True), Guidance("a", 40, 80, boxes=boxes[2:])):
        assert not object_region(nothing).found


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (3, 5), (700, 900)])
def test_every_shape_of_image_and_region_is_described(shape) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    whole = Guidance("a", *shape, boxes=np.array([[0, 0, shape[1], shape[0]]], np.float32))
    for region in (object_region(None), object_region(whole)):
        part = cut(image, region, 16)
        for vector in (object_statistics(part), context_statistics(part)):
            assert np.isfinite(vector).all()
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) or not vector.any()
        assert part.context(16).shape == part.crop.shape == (16, 16, 3)
        assert difference_hash(part.small).dtype == np.uint64


class MeanColour:
    """An encoder of regions: the mean of each channel."""

    name, size = "mean colour", 24

    def identity(self) -> dict:
        return {"kind": "mean"}

    def open(self):
        return lambda images: images.mean(axis=(1, 2)).astype(np.float32)


def test_descriptors_resume_hold_an_encoders_features_and_refuse_what_made_others(tmp_path) -> None:
    source, guidance, _ = planted()
    out, options = tmp_path / "d.zarr", {"score": plain_score, "guidance": guidance}
    describe_source(source, out, encoder=MeanColour(), shard_size=10, **options)
    d = Descriptors.open(out)
    assert d.encoder == "mean colour"
    assert d.keys == tuple(source.key(i) for i in range(len(source)))
    assert np.abs(d.object_features[:16].mean(0) - COLOURS[0]).max() < 6
    again = describe_source(source, out, encoder=MeanColour(), shard_size=10, **options)
    assert Descriptors.open(out).digest == d.digest == Descriptors.open(again.path).digest
    with pytest.raises(ArtifactMismatch, match="encoder"):
        describe_source(source, out, shard_size=10, **options)
    other = GuidanceTable.of(list(guidance.rows.values()), digest="d", source="0" * 32)
    with pytest.raises(ArtifactError, match="guidance was made on images"):
        describe_source(source, tmp_path / "e.zarr", score=plain_score, guidance=other)
    assert propose_pairs(source, d, ProposalRule(3)).features == "mean colour"


def test_unreadable_images_are_listed_and_take_no_part(tmp_path) -> None:
    for name in ("a", "b", "c"):
        image, _ = square_on(GROUNDS[0], COLOURS[0], ord(name))
        (tmp_path / "images" / "class").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / "class" / f"{name}.png")
    (tmp_path / "images" / "class" / "d.png").write_bytes(b"nothing")
    source = open_source(tmp_path / "images")
    summary = describe_source(source, tmp_path / "d.zarr", score=plain_score)
    assert [s.key for s in summary.skipped] == ["class/d.png"]
    d = Descriptors.open(tmp_path / "d.zarr")
    found = propose_pairs(source, d, ProposalRule(5, min_similarity=0.0))
    assert not d.found.any()
    assert found.counts[0].images == 3
    assert all("d.png" not in row.image_a + row.image_b for row in found.rows)
