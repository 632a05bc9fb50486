"""Pairs `diffusion`: which views are of positives, how often, and what they are bit-equal to."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader

from semaug.artifacts.augment_table import AugmentTable, augment_columns
from semaug.artifacts.errors import ArtifactError, InvalidOption
from semaug.artifacts.schemas import Manifest, augment_row
from semaug.artifacts.sources import ArraySource, open_source
from semaug.artifacts.store import ArtifactWriter
from semaug.pairs_dataset import collate_pairs, make_pairs, pair_sheet
from semaug.pairs_dataset.device_views import DeviceViews, RawPairs
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.sources.diffusion import REAL, PositiveUse

COUNT, SIDE, K = 8, 24, 3


def write_positives(path, source, k=K, skip=(), noise=False) -> AugmentTable:
    """Positives of one colour, that of the real image's first pixel and 1, 2, ... more; or of ``noise``."""
    kept = [i for i in range(len(source)) if i not in skip]
    manifest = Manifest(
        kind="augment", items=len(kept) * k, shard_size=3 * k, inputs={"source": source.fingerprint},
        config={"k": k, "form": "images", "shape": [3, 16, 16], "class_names": []},
    )  # fmt: skip
    rng = np.random.default_rng(5)
    with ArtifactWriter.open(path, manifest) as writer:
        for shard in writer.pending():
            places = [divmod(p, k) for p in manifest.shard_range(shard)]
            rows = [augment_row(0, source.key(kept[i]), j) for i, j in places]
            values = np.stack(
                [np.full((16, 16, 3), source.read(kept[i])[0, 0, 0] + j + 1, np.uint8) for i, j in places]
            )
            values = rng.integers(0, 250, values.shape, dtype=np.uint8) if noise else values
            writer.write(shard, augment_columns(rows, values, [None] * len(rows)))
        writer.finish()
    return AugmentTable.open(path)


@pytest.fixture(scope="module")
def source() -> ArraySource:
    """Every image is of one colour: 10, 20, ... so that a view without colour changes names it."""
    return ArraySource(np.stack([np.full((SIDE, SIDE, 3), 10 * (i + 1), np.uint8) for i in range(COUNT)]))


@pytest.fixture(scope="module")
def table(source, tmp_path_factory) -> AugmentTable:
    return write_positives(tmp_path_factory.mktemp("augment") / "augment.zarr", source)


@pytest.fixture(scope="module")
def textured(tmp_path_factory) -> tuple[ArraySource, AugmentTable]:
    source = ArraySource(np.random.default_rng(1).integers(0, 250, (COUNT, SIDE, SIDE, 3), dtype=np.uint8))
    return source, write_positives(tmp_path_factory.mktemp("textured") / "augment.zarr", source, noise=True)


def build(source, table, **options):
    return make_pairs("diffusion", source, augment=table, **{"size": 16, **options})


def plain(source, table, **options):
    return build(source, table, preset="crop_flip", mean=(0.0,) * 3, std=(1.0,) * 3, **options)


def colour(view: torch.Tensor) -> int:
    """The value of a view of one colour that was not normalised."""
    assert view.max() - view.min() < 1e-3
    return round(float(view.mean()) * 255)


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True)) and one[-1] == other[-1]


def test_a_drawn_positive_is_the_second_view_of_its_own_image(source, table) -> None:
    pairs = plain(source, table)
    assert len(pairs) == COUNT
    for item in range(COUNT):
        first, second, index = pairs[item]
        assert index == item
        assert colour(first) == 10 * (item + 1)
        assert colour(second) == 10 * (item + 1) + 1 + pairs.number(item)


def test_every_positive_is_drawn_alike_and_in_no_order(source, table) -> None:
    pairs, counts, follows = build(source, table), Counter(), Counter()
    before = [0] * COUNT
    for epoch in range(400):
        pairs.set_epoch(epoch)
        for item in range(COUNT):
            number = pairs.number(item)
            counts[number] += 1
            follows[before[item], number] += 1
            before[item] = number
    assert stats.chisquare([counts[j] for j in range(K)]).pvalue > 1e-3
    assert stats.chisquare([follows[a, b] for a in range(K) for b in range(K)]).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_a_positive_stands_in_with_probability_alpha(source, table, alpha) -> None:
    pairs, made, epochs = build(source, table, alpha=alpha), 0, 400
    for epoch in range(epochs):
        pairs.set_epoch(epoch)
        made += sum(pairs.number(item) != REAL for item in range(COUNT))
    assert stats.binomtest(made, epochs * COUNT, alpha).pvalue > 1e-3


def test_raising_alpha_only_adds_positives(source, table) -> None:
    low, high = (build(source, table, alpha=a) for a in (0.3, 0.6))
    for epoch in range(50):
        low.set_epoch(epoch)
        high.set_epoch(epoch)
        for item in range(COUNT):
            assert low.number(item) in (REAL, high.number(item))


@pytest.mark.parametrize("options", [{}, {"preset": "byol", "local_views": 2, "local_size": 8}])
def test_alpha_0_is_plain_training_bit_for_bit(textured, options) -> None:
    source, table = textured
    options = {"size": 16, "seed": 3, **options}
    drawn = make_pairs("diffusion", source, augment=table, alpha=0.0, **options)
    enlarged = make_pairs("diffusion", source, augment=table, alpha=0.0, positives="enlarged", **options)
    standard = make_pairs("standard", source, **options)
    copies = make_pairs("duplicated", source, copies=K, **options)
    for epoch in (0, 2):
        for pairs in (drawn, enlarged, standard, copies):
            pairs.set_epoch(epoch)
        assert all(equal(drawn[i], standard[i]) for i in range(COUNT))
        assert all(equal(enlarged[i], copies[i]) for i in range(K * COUNT))


def test_the_real_view_is_that_of_plain_training_whatever_alpha(textured) -> None:
    source, table = textured
    pairs = build(source, table, preset="byol")
    standard = make_pairs("standard", source, size=16, preset="byol")
    for epoch in (0, 1):
        pairs.set_epoch(epoch)
        standard.set_epoch(epoch)
        for item in range(COUNT):
            assert torch.equal(pairs[item][0], standard[item][0])
            assert not torch.equal(pairs[item][1], standard[item][1])


def test_the_enlarged_set_shows_every_positive_of_every_image_once_an_epoch(source, table) -> None:
    pairs = plain(source, table, positives="enlarged")
    assert len(pairs) == K * COUNT
    for epoch in (0, 1):
        pairs.set_epoch(epoch)
        shown = Counter((colour(a), colour(b), i) for a, b, i in (pairs[k] for k in range(len(pairs))))
        assert shown == Counter((10 * (i + 1), 10 * (i + 1) + j + 1, i) for i in range(COUNT) for j in range(K))


def test_the_mixed_set_has_real_images_and_positives_as_images_of_their_own(textured) -> None:
    source, table = textured
    pairs = build(source, table, positives="mixed", preset="byol")
    standard = make_pairs("standard", source, size=16, preset="byol")
    assert len(pairs) == (1 + K) * COUNT
    assert all(equal(pairs[i], standard[i]) for i in range(COUNT))
    shown = build(source, table, positives="mixed", preset="identity")
    whole = make_pairs("standard", table.images, size=16, preset="identity")
    for copy in range(1, 1 + K):
        for item in range(COUNT):
            first, second, index = shown[copy * COUNT + item]
            assert index == item
            assert torch.equal(first, second)
            assert torch.equal(first, whole[item * K + copy - 1][0])
    assert not torch.equal(pairs[COUNT][0], pairs[COUNT][1])


def test_a_raw_positive_is_shown_whole_and_unaltered_in_every_epoch(textured) -> None:
    source, table = textured
    pairs = build(source, table, preset="byol", raw_positives=True, positives="enlarged")
    whole = make_pairs("standard", table.images, size=16, preset="identity")
    for epoch in range(2):
        pairs.set_epoch(epoch)
        for copy in range(K):
            assert torch.equal(pairs[copy * COUNT + 2][1], whole[2 * K + copy][0])
    assert pairs.config["raw_positives"] is True
    assert "raw_positives" not in build(source, table).config


@pytest.mark.parametrize(
    "options",
    [{}, {"alpha": 0.5}, {"positives": "enlarged"}, {"positives": "mixed"}, {"raw_positives": True, "alpha": 0.5}],
)
def test_batches_pickles_and_devices_make_the_views_of_single_items(textured, options) -> None:
    source, table = textured
    pairs = build(source, table, preset="byol", local_views=2, local_size=8, **options)
    pairs.set_epoch(1)
    singles = [pairs[i] for i in range(len(pairs))]
    again = pickle.loads(pickle.dumps(pairs))
    assert all(equal(again[i], singles[i]) for i in range(len(pairs)))
    loader = DataLoader(pairs, batch_size=5, collate_fn=collate_pairs)
    joined = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    for column, part in enumerate(joined[:-1]):
        assert torch.equal(part, torch.stack([s[column] for s in singles]))
    made = DeviceViews(pairs.views)(RawPairs(pairs).__getitems__(list(range(len(pairs)))))
    for column, part in enumerate(made[:-1]):
        assert torch.allclose(part, torch.stack([s[column] for s in singles]), atol=1e-4)
    assert made[-1].tolist() == [s[-1] for s in singles]


def test_images_without_positives_are_left_out(source, tmp_path) -> None:
    table = write_positives(tmp_path / "some.zarr", source, skip=(1, 5))
    pairs = plain(source, table)
    assert [pairs[i][2] for i in range(len(pairs))] == [0, 2, 3, 4, 6, 7]
    assert [colour(pairs[i][1]) - pairs.number(i) for i in range(2)] == [11, 31]


def test_a_run_records_the_positives_and_how_they_are_used(source, table) -> None:
    pairs = build(source, table, alpha=0.25, positives="enlarged")
    assert pairs.inputs() == {"source": source.fingerprint, "augment": table.digest}
    assert {name: pairs.config[name] for name in ("pairs", "positives", "alpha", "k", "copies")} == {
        "pairs": "diffusion", "positives": "enlarged", "alpha": 0.25, "k": K, "copies": K
    }  # fmt: skip


def test_a_contact_sheet_draws_crops_of_the_real_image_alone(source, table) -> None:
    sheet = pair_sheet({"standard": make_pairs("standard", source, size=16), "diffusion": plain(source, table)}, [0, 3])
    blue = (64, 150, 255)
    cells = np.asarray(sheet)[46:]  # below the header
    half = cells.shape[1] // 2
    assert (cells[:, :half] == blue).all(2).any()
    assert not (cells[:, half:] == blue).all(2).any()


def test_adainf_takes_the_artifact_as_generated_images(source, table, tmp_path) -> None:
    write_positives(tmp_path / "augment.zarr", source)
    pairs = make_pairs("adainf", source, size=16, generated=tmp_path / "augment.zarr", real_copies=2)
    assert len(pairs) == 2 * COUNT + K * COUNT
    assert pairs.inputs()["generated"] == open_source(tmp_path / "augment.zarr").fingerprint


def test_what_does_not_fit_is_refused_in_one_line(source, table) -> None:
    other = ArraySource(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ArtifactError, match="were generated of data"):
        build(other, table)
    with pytest.raises(InvalidOption, match="need generated positives; make them with `semaug diffaug augment`"):
        make_pairs("diffusion", source, size=16)
    with pytest.raises(InvalidOption, match="give --pairs diffusion"):
        make_pairs("standard", source, size=16, augment=table)
    with pytest.raises(InvalidOption, match="give --pairs diffusion"):
        make_pairs("synthetic", source, size=16, alpha=0.5)
    with pytest.raises(InvalidOption, match="no use of positives is called 'all'"):
        build(source, table, positives="all")
    with pytest.raises(InvalidOption, match=r"alpha is 1\.5"):
        build(source, table, alpha=1.5)
    with pytest.raises(InvalidOption, match="pairs no real view with a positive"):
        build(source, table, positives="mixed", alpha=0.5)
    with pytest.raises(InvalidOption, match="would be alike"):
        build(source, table, positives="mixed", raw_positives=True)
    with pytest.raises(InvalidOption, match="0 positives"):
        PositiveUse(0)


def test_positives_of_other_images_of_the_set_are_not_taken(source, tmp_path) -> None:
    table = write_positives(tmp_path / "one.zarr", source, skip=range(1, COUNT))
    assert len(build(source, table)) == 1
    moved = AugmentTable(("gone",), table.k, table.digest, table.source, table.manifest, table.images, None)
    with pytest.raises(NoPairs, match=f"none of {COUNT} items has a positive"):
        build(source, moved)
