"""Pairs of two images: one draw of each, augmented pairs as their special case, guidance, multi-crop, the device."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from semaug.artifacts.errors import ArtifactError, InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.schemas import Guidance, SemanticPair
from semaug.artifacts.sources import ArraySource
from semaug.pairs_dataset import collate_pairs, make_pairs
from semaug.pairs_dataset.device_views import DeviceViews, RawPairs
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.pair_table import PairTable

COUNT = 12
LOCAL = {"local_views": 3, "local_size": 8}


class CountedSource(ArraySource):
    """Writes down which images are read."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.reads: list[int] = []

    def read(self, index: int):
        self.reads.append(index)
        return super().read(index)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    draws = np.random.default_rng(0)
    sizes = draws.integers(20, 60, (COUNT, 2))
    return [draws.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes.tolist()]


@pytest.fixture
def source(images) -> CountedSource:
    return CountedSource(images, labels=[i % 3 for i in range(COUNT)])


def table(pairs, source) -> PairTable:
    rows = [SemanticPair(f"pair {a} {b}", "class0", source.key(a), source.key(b)) for a, b in pairs]
    return PairTable.of(rows, source=source.fingerprint)


@pytest.fixture
def semantic(source) -> PairTable:
    return table([(i, (i + 3) % COUNT) for i in range(COUNT)], source)


@pytest.fixture
def guidance(source, images) -> GuidanceTable:
    rows = [Guidance(source.key(0), *images[0].shape[:2], fallback=True)]
    for i, image in enumerate(images[1:], 1):
        height, width = image.shape[:2]
        box = np.array([[0.2 * width, 0.3 * height, 0.7 * width, 0.9 * height]], np.float32)
        rows.append(Guidance(source.key(i), height, width, boxes=box))
    return GuidanceTable.of(rows, digest="d")


def test_the_views_are_of_a_and_of_b_and_nothing_else_is_read(source, semantic) -> None:
    pairs = make_pairs("semantic", source, semantic=semantic, size=16, transforms="identity")
    alone = make_pairs("standard", source, size=16, transforms="identity")
    for item in range(COUNT):
        source.reads.clear()
        view_a, view_b, index = pairs[item]
        assert sorted(source.reads) == sorted([item, (item + 3) % COUNT])
        assert torch.equal(view_a, alone[item][0])
        assert torch.equal(view_b, alone[(item + 3) % COUNT][0])
        assert index == item
    assert len(pairs) == len(semantic)


@pytest.mark.parametrize("guided", [False, True])
def test_with_b_equal_to_a_pairs_are_augmented_pairs_bit_for_bit(source, images, guidance, guided) -> None:
    pairs = table([(i, i) for i in range(COUNT)], source)
    renamed = ArraySource(images, keys=[row.pair_id for row in pairs.rows])
    boxes = GuidanceTable.of(
        [
            Guidance(row.pair_id, g.height, g.width, boxes=g.boxes, fallback=g.fallback)
            for row, g in zip(pairs.rows, guidance.rows.values(), strict=True)
        ]
    )
    options = {"size": 16, "preset": "byol", "rotation": (0.5, 20.0), "guided_locals": guided, **LOCAL}
    ours = make_pairs("semantic", source, semantic=pairs, guidance=guidance if guided else None, **options)
    augmented = make_pairs("guided" if guided else "standard", renamed, guidance=boxes if guided else None, **options)
    for epoch in range(3):
        ours.set_epoch(epoch)
        augmented.set_epoch(epoch)
        for item in range(COUNT):
            for a, b in zip(ours[item][:-1], augmented[item][:-1], strict=True):
                assert torch.equal(a, b)


def test_one_draw_decides_a_view_whatever_the_other_image_is(source) -> None:
    """SP and AP are paired: the view of a is the same in both."""
    rows = [SemanticPair("one", "class0", source.key(2), source.key(b)) for b in (2, 5)]
    augmented, semantic = (
        make_pairs("semantic", source, semantic=PairTable.of([row]), size=16, seed=4) for row in rows
    )
    assert torch.equal(augmented[0][0], semantic[0][0])
    assert not torch.equal(augmented[0][1], semantic[0][1])


def test_the_two_draws_are_uncorrelated_over_ten_thousand(source, semantic) -> None:
    pairs = make_pairs("semantic", source, semantic=semantic, size=16, rotation=(0.5, 20.0))
    raw, drawn, crops = RawPairs(pairs), [], []
    for epoch in range(-(-10_000 // COUNT)):
        raw.set_epoch(epoch)
        drawn.append(raw.__getitems__(range(COUNT)).drawn)
        crops += [pairs.plan(item, 50, 70).crops for item in range(COUNT)]
    columns = np.concatenate([torch.cat(drawn).numpy(), np.array(crops)], axis=2)
    first, second = columns[:, 0], columns[:, 1]
    varying = np.flatnonzero((first.std(0) > 0) & (second.std(0) > 0))
    assert len(varying) >= 14
    for i in varying:
        for j in varying:
            assert abs(np.corrcoef(first[:, i], second[:, j])[0, 1]) < 0.05, (i, j)


def test_local_views_come_from_both_images(source, semantic) -> None:
    flat = ArraySource([np.full((30, 30, 3), 20 * i, np.uint8) for i in range(COUNT)])
    pairs = make_pairs("semantic", flat, semantic=table([(1, 9)], flat), size=16, preset="crop_flip", **LOCAL)
    alone = make_pairs("standard", flat, size=16, preset="crop_flip")
    levels = [float(view.mean()) for view in pairs[0][:-1]]
    a, b = (float(alone[i][0].mean()) for i in (1, 9))
    assert np.allclose(levels, [a, b, a, b, a], atol=1e-5)
    without = make_pairs("semantic", flat, semantic=table([(1, 9)], flat), size=16, preset="crop_flip")
    assert all(torch.equal(x, y) for x, y in zip(pairs[0][:2], without[0][:2], strict=True))


def test_guided_views_are_cut_in_the_boxes_of_their_own_image(source, images, semantic, guidance) -> None:
    options = {"size": 16, "crop": "box_as_view", "transforms": "crop_only"}
    pairs = make_pairs("semantic", source, semantic=semantic, guidance=guidance, **options)
    alone = make_pairs("guided", source, guidance=guidance, **options)
    for item in range(1, COUNT - 3):
        assert torch.equal(pairs[item][0], alone[item][0])
        assert torch.equal(pairs[item][1], alone[item + 3][0])


def test_pairs_of_an_image_that_guidance_skipped_are_left_out(source, semantic, guidance) -> None:
    fewer = GuidanceTable.of([g for key, g in guidance.rows.items() if key != source.key(4)], digest="d")
    assert len(make_pairs("semantic", source, semantic=semantic, guidance=fewer, size=16)) == COUNT - 2
    with pytest.raises(NoPairs, match="none of 1 pairs"):
        make_pairs("semantic", source, semantic=table([(4, 5)], source), guidance=fewer, size=16)


@pytest.mark.parametrize("guided", [False, True])
def test_views_made_on_the_device_are_the_same(source, semantic, guidance, guided) -> None:
    table_ = guidance if guided else None
    pairs = make_pairs(
        "semantic", source, semantic=semantic, guidance=table_, size=24, preset="byol", rotation=(0.5, 30.0), **LOCAL
    )
    raw, make = RawPairs(pairs), DeviceViews(pairs.views)
    for epoch in range(2):
        raw.set_epoch(epoch)
        expected = collate_pairs(pairs.__getitems__(list(range(COUNT))))
        for found, view in zip(make(raw.__getitems__(list(range(COUNT)))), expected, strict=True):
            torch.testing.assert_close(found, view, atol=1e-4, rtol=0)


def test_workers_and_copies_draw_the_same_views(source, semantic) -> None:
    pairs = make_pairs("semantic", source, semantic=semantic, size=16, seed=3)
    pairs.set_epoch(2)
    expected = collate_pairs(pairs.__getitems__(list(range(COUNT))))
    copied = pickle.loads(pickle.dumps(pairs))
    loader = DataLoader(
        pairs, batch_size=COUNT, num_workers=1, collate_fn=collate_pairs, multiprocessing_context="spawn"
    )
    for batch in (collate_pairs(copied.__getitems__(list(range(COUNT)))), next(iter(loader))):
        assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))


@pytest.mark.parametrize("name", ["no_gray", "no_jitter", "no_blur", "no_flip", "no_rotation"])
def test_a_removed_transform_changes_only_views_that_drew_it(source, semantic, name) -> None:
    options = {"semantic": semantic, "size": 16, "rotation": (0.5, 20.0)}
    full, less = (make_pairs("semantic", source, transforms=t, **options) for t in ("full", name))
    same = []
    for epoch in range(8):
        batches = []
        for pairs in (full, less):
            pairs.set_epoch(epoch)
            batches.append(RawPairs(pairs).__getitems__(range(COUNT)))
        assert torch.equal(batches[0].crops, batches[1].crops)
        untouched = (batches[0].drawn == batches[1].drawn).all(-1)
        for item, view in untouched.nonzero().tolist():
            assert torch.equal(full[item][view], less[item][view])
        same.append(untouched.float().mean())
    assert 0.05 < np.mean(same) < 0.95


def test_what_does_not_fit_is_refused_in_one_line(source, semantic) -> None:
    with pytest.raises(InvalidOption, match="semaug pairs build"):
        make_pairs("semantic", source, size=16)
    with pytest.raises(InvalidOption, match="'standard'"):
        make_pairs("standard", source, semantic=semantic, size=16)
    with pytest.raises(InvalidOption, match=r"1 images of the pairs, 'gone.jpg' first"):
        make_pairs(
            "semantic", source, size=16,
            semantic=PairTable.of([SemanticPair("x", "class0", source.key(0), "gone.jpg")]),
        )  # fmt: skip
    row = SemanticPair("x", "class0", source.key(0), source.key(3), verdict="reject")
    with pytest.raises(InvalidOption, match="1 of 1 pairs were rejected"):
        make_pairs("semantic", source, size=16, semantic=PairTable.of([row]))
    with pytest.raises(ArtifactError, match="made of images"):
        make_pairs("semantic", source, size=16, semantic=PairTable.of(semantic.rows, source="0" * 32))


def test_the_pairs_are_part_of_what_a_run_is_made_from(source, semantic) -> None:
    pairs = make_pairs("semantic", source, semantic=semantic, size=16)
    assert pairs.inputs() == {"source": source.fingerprint, "pairs": semantic.digest}
    assert pairs.config["form"] == "semantic"
