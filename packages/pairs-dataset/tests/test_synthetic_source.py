"""Pairs `synthetic` and `adainf`: the modes, the picks, the controls, and what they refuse."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader

from semaug.artifacts.errors import ArtifactError, InvalidOption
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.schemas import Manifest, SyntheticRow, plan_slots, synthetic_key
from semaug.artifacts.sources import ArraySource, labels_of, open_source
from semaug.artifacts.sources.base import fingerprint_of
from semaug.artifacts.store import ArtifactWriter
from semaug.artifacts.synthetic_table import SimilarityTable, SyntheticTable, synthetic_columns
from semaug.pairs_dataset import collate_pairs, make_pairs
from semaug.pairs_dataset.device_views import DeviceViews, RawPairs
from semaug.pairs_dataset.sources.synthetic import MODES, REAL, usage_mode

COUNT, SIDE = 8, 24
ALONE = [name for name in MODES if name not in ("g-pool", "h-distinct")]


@pytest.fixture(scope="module")
def source() -> ArraySource:
    """Every image is of one colour: 10, 20, ... so that a view without colour changes names it."""
    images = np.stack([np.full((SIDE, SIDE, 3), 10 * (i + 1), np.uint8) for i in range(COUNT)])
    return ArraySource(images, labels=[i % 2 for i in range(COUNT)])


def write_synthetic(path, source, per_image=1, layout="raw", skip=(), shard_size=4) -> SyntheticTable:
    """Synthetic images of one colour: that of the real image, and 1, 2, ... more."""
    slots = plan_slots(per_image - 1, 0)
    manifest = Manifest(
        kind="synthetic", items=len(source), shard_size=shard_size, inputs={"source": source.fingerprint},
        config={"class_names": list(source.class_names)},
    )  # fmt: skip
    with ArtifactWriter.open(path, manifest) as writer:
        for shard in writer.pending():
            rows, images, labels = [], [], []
            for i in manifest.shard_range(shard):
                for number, slot in enumerate(slots if i not in skip else ()):
                    key = source.key(i)
                    rows.append(SyntheticRow(synthetic_key(key, number), key, slot, "a photo", i))
                    images.append(source.read(i)[:20, :16] + np.uint8(number + 1))
                    labels.append(source.label(i))
            writer.write(shard, synthetic_columns(rows, images, labels, layout))
        writer.finish()
    return SyntheticTable.open(path)


@pytest.fixture(scope="module")
def three(source, tmp_path_factory) -> SyntheticTable:
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "three.zarr", source, 3)


@pytest.fixture(scope="module")
def one(source, tmp_path_factory) -> SyntheticTable:
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "one.zarr", source, 1)


def build(source, table, mode, **options):
    return make_pairs("synthetic", source, synthetic=table, mode=mode, **{"size": 16, **options})


def colour(view: torch.Tensor) -> int:
    """The value of a view of one colour that was not normalised."""
    assert view.max() - view.min() < 1e-3
    return round(float(view.mean()) * 255)


def plain(source, table, mode, **options):
    return build(source, table, mode, preset="crop_flip", mean=(0.0,) * 3, std=(1.0,) * 3, **options)


PICTURES = {
    "a": "xs", "b": "xs", "c": "xs", "d": "xxs", "e": "xx", "f": "ss", "g": "xx", "h": "ss", "mix": "xx",
}  # fmt: skip


@pytest.mark.parametrize("mode", PICTURES)
def test_the_views_of_a_mode_show_the_pictures_of_its_streams(source, one, mode) -> None:
    pairs = plain(source, one, mode)
    for item in range(COUNT):
        *views, index = pairs[item]
        assert index == item
        real = 10 * (item + 1)
        assert [colour(v) for v in views] == [real if letter == "x" else real + 1 for letter in PICTURES[mode]]
    if mode == "mix":
        assert len(pairs) == 2 * COUNT
        for item in range(COUNT):
            assert [colour(v) for v in pairs[COUNT + item][:2]] == [10 * (item + 1) + 1] * 2
            assert pairs[COUNT + item][2] == item
    else:
        assert len(pairs) == COUNT


def textured(tmp_path) -> tuple[ArraySource, SyntheticTable]:
    images = np.random.default_rng(1).integers(0, 250, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    source = ArraySource(images)
    return source, write_synthetic(tmp_path / "textured.zarr", source, 2)


def test_mode_e_is_standard_bit_for_bit_and_every_augmented_real_view_too(tmp_path) -> None:
    source, table = textured(tmp_path)
    standard = make_pairs("standard", source, size=16, seed=3, preset="byol")
    for mode, views in (("e", (0, 1)), ("a", (0,)), ("b", (0,)), ("d", (0, 1)), ("g", (1,)), ("mix", (0, 1))):
        pairs = build(source, table, mode, seed=3, preset="byol")
        for epoch in (0, 2):
            standard.set_epoch(epoch)
            pairs.set_epoch(epoch)
            for item in range(COUNT):
                ours, theirs = pairs[item], standard[item]
                assert all(torch.equal(ours[v], theirs[v]) for v in views), mode


def test_views_without_augmentation_are_the_resized_image_in_every_epoch(tmp_path) -> None:
    source, table = textured(tmp_path)
    whole = make_pairs("standard", source, size=16, preset="identity")
    for mode, view in (("c", 0), ("g", 0)):
        pairs = build(source, table, mode)
        for epoch in range(3):
            pairs.set_epoch(epoch)
            assert torch.equal(pairs[2][view], whole[2][0])
    fixed, moving = build(source, table, "h"), []
    for epoch in range(6):
        fixed.set_epoch(epoch)
        moving.append(fixed[2])
    assert len({m[0].sum().item() for m in moving}) <= 2  # one of the two synthetic images, as it is
    assert len({m[1].sum().item() for m in moving}) == 6


def test_the_synthetic_image_is_drawn_uniformly_and_anew_every_epoch(source, three) -> None:
    pairs = build(source, three, "a")
    counts: Counter[int] = Counter()
    for epoch in range(400):
        pairs.set_epoch(epoch)
        for item in range(COUNT):
            real, synthetic = pairs.pictures(item)
            assert real == REAL
            assert synthetic // 3 == item
            counts[synthetic % 3] += 1
    assert stats.chisquare([counts[k] for k in range(3)]).pvalue > 1e-3
    again = build(source, three, "a", seed=1)
    again.set_epoch(399)
    assert [again.pictures(i) for i in range(COUNT)] != [pairs.pictures(i) for i in range(COUNT)]


def test_one_synthetic_image_is_always_taken(source, one) -> None:
    pairs = build(source, one, "f")
    for epoch in range(5):
        pairs.set_epoch(epoch)
        assert [pairs.pictures(i) for i in range(COUNT)] == [[i, i] for i in range(COUNT)]


def test_direct_generation_pairs_are_distinct_images_of_one_caption_in_every_order(source, three) -> None:
    pairs = build(source, three, "direct")
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(300):
        pairs.set_epoch(epoch)
        for item in range(COUNT):
            first, second = pairs.pictures(item)
            assert first != second
            assert first // 3 == second // 3 == item
            seen[first % 3, second % 3] += 1
    assert len(seen) == 6
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3
    triples = build(source, three, "direct", direct_views=3)
    assert [sorted(triples.pictures(i)) for i in (0, 4)] == [[0, 1, 2], [12, 13, 14]]
    views = collate_pairs(triples.__getitems__([0, 1]))
    assert [tuple(v.shape) for v in views] == [(2, 3, 16, 16)] * 3 + [(2,)]


def test_either_reading_of_g_shows_one_picture_a_pair_half_the_time_real(source, three) -> None:
    pairs, real = build(source, three, "g-pool"), 0
    for epoch in range(200):
        pairs.set_epoch(epoch)
        for item in range(COUNT):
            first, second = pairs.pictures(item)
            assert first == second
            real += first == REAL
    assert stats.binomtest(real, 200 * COUNT).pvalue > 1e-3


def similarity(table: SyntheticTable, path, cosines) -> SimilarityTable:
    manifest = Manifest(kind="similarity", items=len(table), shard_size=64, inputs={"synthetic": table.digest})
    with ArtifactWriter.open(path, manifest) as writer:
        columns = {**pack_strings("key", [r.key for r in table.rows]), "cosine": np.array(cosines, np.float32)}
        writer.write(0, columns)
        writer.finish()
    return SimilarityTable.open(path)


def test_the_real_image_replaces_those_below_the_threshold_and_equality_is_kept(source, one, tmp_path) -> None:
    cosines = [0.5, 0.7, 0.69999, 0.9, -1.0, 1.0, 0.7, 0.0]  # 0.7 is less than 0.7 once it was a float32
    found = similarity(one, tmp_path / "s.zarr", cosines)
    pairs = plain(source, one, "a", similarity=found, min_similarity=0.7)
    shown = [colour(pairs[i][1]) - 10 * (i + 1) for i in range(COUNT)]
    assert shown == [0, 1, 0, 1, 0, 1, 1, 0]
    assert pairs.config["replaced"] == 4
    assert pairs.inputs()["similarity"] == found.digest
    everything = plain(source, one, "a", similarity=found, min_similarity=1.1)
    standard = make_pairs("standard", source, size=16, preset="crop_flip", mean=(0.0,) * 3, std=(1.0,) * 3)
    assert all(torch.equal(a, b) for i in range(COUNT) for a, b in zip(everything[i][:2], standard[i][:2], strict=True))


@pytest.mark.parametrize("mode", [*ALONE, "direct", "g-pool"])
def test_batches_workers_pickles_and_devices_make_the_views_of_single_items(tmp_path, mode) -> None:
    source, table = textured(tmp_path)
    pairs = build(source, table, mode, preset="byol", local_views=2, local_size=8)
    singles = [pairs[i] for i in range(len(pairs))]
    again = pickle.loads(pickle.dumps(pairs))
    assert all(torch.equal(a, b) for a, b in zip(again[3][:-1], singles[3][:-1], strict=True))
    loader = DataLoader(pairs, batch_size=4, collate_fn=collate_pairs)
    joined = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    for column, part in enumerate(joined[:-1]):
        assert torch.equal(part, torch.stack([s[column] for s in singles]))
    raw = RawPairs(pairs)
    made = DeviceViews(pairs.views)(raw.__getitems__(list(range(4))))
    for column, part in enumerate(made[:-1]):
        assert torch.allclose(part, torch.stack([s[column] for s in singles[:4]]), atol=1e-4)


def test_images_without_a_synthetic_one_are_left_out(source, tmp_path) -> None:
    table = write_synthetic(tmp_path / "some.zarr", source, 1, skip=(1, 5))
    pairs = plain(source, table, "a")
    assert len(pairs) == COUNT - 2
    assert [pairs[i][2] for i in range(len(pairs))] == [0, 2, 3, 4, 6, 7]
    assert [colour(pairs[i][1]) for i in range(2)] == [11, 31]


def test_what_does_not_fit_is_refused_in_one_line(source, one, three, tmp_path) -> None:
    other = ArraySource(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ArtifactError, match="were made of images"):
        build(other, one, "a")
    with pytest.raises(InvalidOption, match=r"takes 2 synthetic images.*has 1; generate more"):
        build(source, one, "direct")
    with pytest.raises(InvalidOption, match="no mode is called 'z'"):
        build(source, one, "z")
    with pytest.raises(InvalidOption, match="direct_views 3 is for mode 'direct'"):
        build(source, one, "a", direct_views=3)
    with pytest.raises(InvalidOption, match="need synthetic images"):
        make_pairs("synthetic", source, size=16)
    with pytest.raises(InvalidOption, match="give --pairs synthetic"):
        make_pairs("standard", source, size=16, synthetic=one)
    with pytest.raises(InvalidOption, match="go together"):
        build(source, one, "a", min_similarity=0.5)
    with pytest.raises(ArtifactError, match="was measured on synthetic images"):
        build(source, three, "a", similarity=similarity(one, tmp_path / "s.zarr", [0.0] * COUNT), min_similarity=0.5)
    with pytest.raises(InvalidOption, match="need generated images"):
        make_pairs("adainf", source, size=16)
    with pytest.raises(InvalidOption, match="give --pairs adainf"):
        make_pairs("standard", source, size=16, real_copies=3)


def test_the_table_of_modes_says_what_each_costs() -> None:
    assert {name: mode.compute for name, mode in MODES.items() if mode.compute != 1} == {"d": 1.5}
    assert usage_mode("direct", 4).compute == 2
    assert [len(MODES[name].items) for name in ("a", "mix")] == [1, 2]


@pytest.mark.parametrize("layout", ["raw", "jpeg"])
def test_synthetic_images_are_a_source_of_their_own(source, tmp_path, layout) -> None:
    table = write_synthetic(tmp_path / "s.zarr", source, 2, layout, skip=(7,))
    images = open_source(tmp_path / "s.zarr")
    assert len(images) == 2 * (COUNT - 1)
    assert images.key(3) == f"{source.key(1)}/1"
    assert images.label(3) == source.label(1)
    assert tuple(images.class_names) == tuple(source.class_names)
    assert images.read(3).shape == (20, 16, 3)
    assert abs(int(images.read(3)[0, 0, 0]) - 22) <= (0 if layout == "raw" else 3)
    assert images.fingerprint != source.fingerprint
    assert images.fingerprint == fingerprint_of((images.key(i), images.content_hash(i)) for i in range(len(images)))
    assert pickle.loads(pickle.dumps(images)).fingerprint == images.fingerprint
    assert table.by_origin()[source.key(0)] == [0, 1]


def test_inflation_has_every_real_image_k_times_and_every_generated_one_once(source, one) -> None:
    pairs = make_pairs("adainf", source, size=16, generated=one.images, real_copies=3, preset="adainf_symmetric")
    assert len(pairs) == 3 * COUNT + COUNT
    indices = Counter(pairs[i][2] for i in range(len(pairs)))
    assert indices == {**dict.fromkeys(range(COUNT), 3), **dict.fromkeys(range(COUNT, 2 * COUNT), 1)}
    assert labels_of(pairs.source).tolist() == [i % 2 for i in range(COUNT)] + [-1] * COUNT
    assert set(pairs.inputs()) == {"source", "generated"}
    assert pairs.inputs()["source"] == source.fingerprint


def test_copies_of_a_real_image_differ_and_the_first_is_standard(tmp_path) -> None:
    source, table = textured(tmp_path)
    pairs = make_pairs("adainf", source, size=16, generated=table.images, real_copies=2)
    standard = make_pairs("standard", source, size=16)
    assert all(torch.equal(pairs[i][v], standard[i][v]) for i in range(COUNT) for v in (0, 1))
    assert not torch.equal(pairs[0][0], pairs[COUNT][0])
    alone = make_pairs("standard", table.images, size=16, preset="identity")
    shown = make_pairs("adainf", source, size=16, generated=table.images, real_copies=2, preset="identity")
    assert torch.equal(shown[2 * COUNT + 3][0], alone[3][0])
