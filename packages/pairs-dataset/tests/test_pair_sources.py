"""Pair sources: pairing of variants, determinism over workers and epochs, batches, controls, forms."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from semaug.artifacts.errors import ArtifactError, InvalidOption, UnreadableImage
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources import ArraySource, open_source
from semaug.pairs_dataset import NEEDS_GUIDANCE, PAIR_SOURCES, VARIANTS, collate_pairs, make_pairs, materialize_crops
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.objects import object_rows, shuffled_rows
from semaug.pairs_dataset.sources import PairBatch

SIDE, COUNT = 40, 12


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def source() -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    return ArraySource(images, labels=[i % 3 for i in range(COUNT)])


@pytest.fixture
def guidance(source) -> GuidanceTable:
    """A box of its own size an image; image 0 is a fallback."""
    rows = [Guidance(source.key(0), SIDE, SIDE, fallback=True)]
    for i in range(1, COUNT):
        box = [2 + i % 4, 3, 2 + i % 4 + 8 + i, 3 + 10 + i]
        rows.append(Guidance(source.key(i), SIDE, SIDE, boxes=np.array([box], np.float32)))
    return GuidanceTable.of(rows, digest="d")


def build(name, source, guidance, **options):
    table = guidance if name in NEEDS_GUIDANCE else None
    return make_pairs(name, source, size=16, guidance=table, **options)


NOT_IMAGES_ALONE = ("inflated", "semantic", "synthetic", "diffusion", "adainf")
ONLINE = [name for name in PAIR_SOURCES if name not in NOT_IMAGES_ALONE]


@pytest.mark.parametrize("name", ONLINE)
def test_items_are_two_normalised_views_and_the_index(name, source, guidance) -> None:
    pairs = build(name, source, guidance, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert len(pairs) == COUNT * (2 if name == "duplicated" else 1)
    view_1, view_2, index = pairs[5]
    assert view_1.shape == view_2.shape == (3, 16, 16)
    assert view_1.dtype == torch.float32
    assert index == 5
    assert view_1.abs().max() <= 1 + 1e-5
    assert not torch.equal(view_1, view_2)
    assert len(list(DataLoader(pairs, batch_size=5))) == -(-len(pairs) // 5)


@pytest.mark.parametrize("name", ONLINE)
def test_views_depend_on_seed_and_epoch_and_on_nothing_else(name, source, guidance) -> None:
    pairs, again = build(name, source, guidance), build(name, source, guidance)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(pairs, again, strict=True))
    first = pairs[3][0]
    pairs.set_epoch(1)
    assert not torch.equal(first, pairs[3][0])
    pairs.set_epoch(0)
    assert torch.equal(first, pairs[3][0])
    assert not torch.equal(first, build(name, source, guidance, seed=1)[3][0])


def test_a_fallback_image_and_unguided_views_are_bit_identical_to_standard(source, guidance) -> None:
    standard, guided = build("standard", source, None), build("guided", source, guidance)
    assert all(torch.equal(a, b) for a, b in zip(standard[0][:2], guided[0][:2], strict=True))
    assert not torch.equal(standard[1][0], guided[1][0])
    never = build("guided", source, guidance, p_guided=0.0)
    assert all(torch.equal(standard[i][v], never[i][v]) for i in range(COUNT) for v in (0, 1))
    cross = build("cross", source, guidance)
    assert all(torch.equal(standard[i][0], cross[i][0]) for i in range(COUNT))
    assert all(torch.equal(guided[i][1], cross[i][1]) for i in range(COUNT))


def test_a_box_of_the_whole_image_without_margin_is_standard(source) -> None:
    whole = [
        Guidance(source.key(i), SIDE, SIDE, boxes=np.array([[0, 0, SIDE, SIDE]], np.float32)) for i in range(COUNT)
    ]
    guided = build("guided", source, GuidanceTable.of(whole), margin=0.0)
    standard = build("standard", source, None)
    assert all(torch.equal(standard[i][v], guided[i][v]) for i in range(COUNT) for v in (0, 1))


def test_guided_views_are_cut_inside_the_expanded_box(source, guidance) -> None:
    pairs = build("guided", source, guidance)
    for epoch in range(5):
        pairs.set_epoch(epoch)
        for i in range(1, COUNT):
            x0, y0, x1, y1 = guidance.rows[source.key(i)].boxes[0]
            mx, my = 0.1 * (x1 - x0), 0.1 * (y1 - y0)
            for top, left, h, w in pairs.plan(i, SIDE, SIDE).crops:
                assert np.floor(x0 - mx) <= left
                assert left + w <= np.ceil(x1 + mx)
                assert np.floor(y0 - my) <= top
                assert top + h <= np.ceil(y1 + my)


def test_p_guided_is_the_share_of_guided_views(source, guidance) -> None:
    pairs = build("guided", source, guidance, p_guided=0.7)
    guided = []
    for epoch in range(60):
        pairs.set_epoch(epoch)
        guided += [pairs.plan(i, SIDE, SIDE).chosen >= 0 for i in range(1, COUNT)]
    share = np.mean(guided, axis=0)
    assert np.abs(share - 0.7).max() < 0.06
    assert abs(np.corrcoef(np.array(guided, float).T)[0, 1]) < 0.15


def test_both_views_hold_one_object_unless_drawn_per_view(source) -> None:
    boxes = np.array([[0, 0, 18, 18], [22, 22, 40, 40]], np.float32)
    table = GuidanceTable.of([Guidance(source.key(i), SIDE, SIDE, boxes=boxes) for i in range(COUNT)])
    for scope, expected in (("image", 0.0), ("view", 0.5)):
        pairs, differ = build("guided", source, table, box_scope=scope), []
        for epoch in range(25):
            pairs.set_epoch(epoch)
            differ += [len(set(pairs.plan(i, SIDE, SIDE).chosen.tolist())) - 1 for i in range(COUNT)]
        assert abs(np.mean(differ) - expected) < 0.1
    assert {tuple(build("guided", source, table, box_select="union").plan(0, SIDE, SIDE).chosen)} == {(-1, -1)}


def test_the_copies_of_a_duplicated_set_differ_and_the_first_is_standard(source) -> None:
    pairs, standard = build("duplicated", source, None, copies=3), build("standard", source, None)
    assert len(pairs) == 3 * COUNT
    assert sorted(pairs[i][2] for i in range(3 * COUNT)) == sorted(list(range(COUNT)) * 3)
    assert torch.equal(pairs[2][0], standard[2][0])
    assert not torch.equal(pairs[2][0], pairs[2 + COUNT][0])
    assert not torch.equal(pairs[2 + COUNT][0], pairs[2 + 2 * COUNT][0])


def test_controls_keep_the_sizes_and_drop_the_meaning(source, guidance) -> None:
    options = {"crop": "box_as_view"}
    guided, moved = (build(n, source, guidance, **options) for n in ("guided", "random_box"))
    sizes = [p.plan(3, SIDE, SIDE).crops[0, 2:] for p in (guided, moved)]
    assert np.abs(sizes[0] - sizes[1]).max() <= 1
    assert (moved.plan(3, SIDE, SIDE).crops[0] == moved.plan(3, SIDE, SIDE).crops[1]).all()
    corners = set()
    for epoch in range(20):
        moved.set_epoch(epoch)
        corners.add(tuple(moved.plan(3, SIDE, SIDE).crops[0, :2].tolist()))
    assert len(corners) > 10
    centre = build("center", source, None, **options)
    assert centre.plan(7, SIDE, 80).crops[0].tolist() == [10, 20, 20, 40]


def test_shuffled_boxes_are_another_images_and_each_is_used_once(source, guidance) -> None:
    rows = object_rows([source.key(i) for i in range(COUNT)], guidance)
    shuffled = shuffled_rows(rows, seed=0)
    assert len(shuffled.row(0)[0]) == 0
    originals = [tuple(rows.row(i)[0][0]) for i in range(1, COUNT)]
    found = [tuple(shuffled.row(i)[0][0]) for i in range(1, COUNT)]
    assert sorted(originals) == sorted(found)
    assert all(a != b for a, b in zip(originals, found, strict=True))


def test_guidance_scales_with_the_image(source) -> None:
    table = GuidanceTable.of([Guidance(source.key(0), 400, 800, boxes=np.array([[200, 100, 600, 300]], np.float32))])
    pairs = build("guided", source, table, crop="box_as_view")
    assert len(pairs) == 1
    assert pairs.plan(0, SIDE, SIDE).crops[0].tolist() == [10, 10, 20, 20]


def test_masks_guide_by_their_tight_box_and_may_soften_the_background(source) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:30, 12:20] = True
    boxes = np.array([[0, 0, 16, 40]], np.float32)
    rows = {s: Guidance(source.key(0), SIDE, SIDE, s, boxes, (encode_mask(mask),)) for s in ("pixel", "hybrid")}
    for scale, expected in (("pixel", [10, 12, 20, 8]), ("hybrid", [10, 12, 20, 4])):
        pairs = build("guided", source, GuidanceTable.of([rows[scale]]), crop="box_as_view")
        assert pairs.plan(0, SIDE, SIDE).crops[0].tolist() == expected
    bare = tuple(
        make_pairs(
            "guided", source, preset="identity", size=SIDE, guidance=GuidanceTable.of([rows["pixel"]]), crop="inside",
            margin=10.0, mask_mode=mode, mean=(0,) * 3, std=(1,) * 3, tau_mask=0.0,
        )[0][0].numpy() * 255
        for mode in ("crop_only", "bg_fill", "bg_blur")
    )  # fmt: skip
    original = source.read(0).transpose(2, 0, 1)
    assert np.allclose(bare[0], original, atol=1e-3)
    for softened in bare[1:]:
        assert np.allclose(softened[:, mask], original[:, mask], atol=1e-3)
        assert not np.allclose(softened[:, ~mask], original[:, ~mask], atol=5)
    assert np.ptp(bare[1][0][~mask]) < 0.01


def test_a_batch_is_one_buffer_and_equals_its_items(source, guidance) -> None:
    pairs = build("guided", source, guidance)
    batch = pairs.__getitems__([4, 1, 7])
    assert isinstance(batch, PairBatch)
    view_1, view_2, index = collate_pairs(batch)
    assert index.tolist() == [4, 1, 7]
    assert view_1.untyped_storage().data_ptr() == batch.views.untyped_storage().data_ptr()
    for k, i in enumerate((4, 1, 7)):
        assert torch.equal(view_1[k], pairs[i][0])
        assert torch.equal(view_2[k], pairs[i][1])
    plain = collate_pairs([pairs[4], pairs[1]])
    assert torch.equal(plain[0], view_1[:2])


def _all(loader) -> list[torch.Tensor]:
    return [torch.cat(parts) for parts in zip(*[(a, b, i.float()) for a, b, i in loader], strict=True)]


@pytest.mark.parametrize(("context", "workers", "collate"), [("fork", 2, collate_pairs), ("spawn", 1, None)])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 warns of any fork
def test_workers_give_the_same_views_and_see_the_epoch(context, workers, collate) -> None:
    source = open_source("scenes:train?items=12")
    pairs = make_pairs("standard", source, size=16)
    loader = DataLoader(
        pairs,
        batch_size=5,
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=True,
        collate_fn=collate,
    )
    for epoch in (0, 1):
        pairs.set_epoch(epoch)
        here = _all(DataLoader(pairs, batch_size=5))
        there = _all(loader)
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert not torch.equal(pairs[0][0], make_pairs("standard", source, size=16)[0][0])
    del loader


def test_a_pickled_source_draws_the_same(source, guidance) -> None:
    pairs = build("guided", source, guidance)
    pairs.set_epoch(3)
    again = pickle.loads(pickle.dumps(pairs))
    assert again.epoch == 3
    assert torch.equal(pairs[5][0], again[5][0])


def test_config_is_json_and_tells_variants_apart(source, guidance) -> None:
    texts = {json.dumps(build(n, source, guidance).config, sort_keys=True) for n in ONLINE}
    assert len(texts) == len(ONLINE)
    config = build("guided", source, guidance, box_scale=(0.3, 1.0)).config
    assert config["crop"]["box_scale"] == [0.3, 1.0]
    assert build("guided", source, guidance).inputs() == {"source": source.fingerprint, "guidance": "d"}


def test_inflated_pairs_are_originals_and_their_crops(source, guidance, tmp_path) -> None:
    materialize_crops(source, guidance, tmp_path / "sdi")
    pairs = make_pairs("inflated", source, size=16, materialized=tmp_path / "sdi")
    standard = build("standard", source, None)
    assert len(pairs) == 2 * COUNT
    assert torch.equal(pairs[4][0], standard[4][0])
    assert pairs[COUNT + 4][2] == 4
    assert not torch.equal(pairs[COUNT + 4][0], pairs[4][0])
    pairs.set_epoch(1)
    assert not torch.equal(pairs[4][0], standard[4][0])
    other = ArraySource(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ArtifactError, match="views materialize"):
        make_pairs("inflated", other, size=16, materialized=tmp_path / "sdi")


class _Broken(ArraySource):
    def read(self, index: int) -> np.ndarray:
        if index == 2:
            raise UnreadableImage("the file is truncated")
        return super().read(index)


def test_unreadable_images_fail_clearly_and_those_guidance_skipped_are_left_out(source) -> None:
    broken = _Broken([source.read(i) for i in range(4)])
    with pytest.raises(UnreadableImage, match=r"000002.*semaug data pack"):
        make_pairs("standard", broken, size=16)[2]
    table = GuidanceTable.of([Guidance(broken.key(i), SIDE, SIDE, fallback=True) for i in (0, 1, 3)])
    pairs = make_pairs("standard", broken, size=16, guidance=table)
    assert [pairs[i][2] for i in range(len(pairs))] == [0, 1, 3]


def test_wrong_options_are_refused(source, guidance) -> None:
    with pytest.raises(InvalidOption, match="random_box"):
        make_pairs("randombox", source)
    with pytest.raises(InvalidOption, match="guide extract"):
        make_pairs("guided", source)
    with pytest.raises(InvalidOption, match="views materialize"):
        make_pairs("inflated", source)
    with pytest.raises(NoPairs):
        make_pairs("guided", source, guidance=GuidanceTable.of([]))
    with pytest.raises(IndexError):
        build("standard", source, None)[COUNT]
    for options in (
        {"p_guided": 1.2},
        {"guided_views": "three"},
        {"box_scope": "x"},
        {"mask_mode": "x"},
        {"copies": 0},
    ):
        with pytest.raises(InvalidOption):
            build("guided" if "copies" not in options else "duplicated", source, guidance, **options)
    for options in ({"size": 1}, {"std": (0, 1, 1)}):
        with pytest.raises(InvalidOption):
            make_pairs("standard", source, **options)


def test_variants_name_pair_sources() -> None:
    assert list(VARIANTS) == [f"V{i}" for i in range(7)]
    assert {v.pairs for v in VARIANTS.values()} <= set(PAIR_SOURCES)
    assert VARIANTS["V0"].oracle is None
    assert VARIANTS["V6"].oracle == "annotations"


@pytest.mark.parametrize("size", [(30, 90), (90, 30), (41, 40)])
def test_views_without_a_crop_are_the_whole_image_or_the_whole_box(size) -> None:
    height, width = size
    source = ArraySource(np.zeros((1, height, width, 3), np.uint8))
    table = GuidanceTable.of([Guidance(source.key(0), height, width, boxes=np.array([[4, 6, 20, 12]], np.float32))])
    whole, box = [0, 0, height, width], [6, 4, 6, 16]
    for name, mode, expected in (("standard", "inside", whole), ("guided", "inside", box), ("guided", "cover", whole)):
        pairs = make_pairs(name, source, size=16, without=("crop",), guidance=table, crop=mode, margin=0.0)
        for epoch in range(20):
            pairs.set_epoch(epoch)
            assert pairs.plan(0, height, width).crops.tolist() == [expected, expected]


def test_one_image_with_boxes_cannot_be_shuffled(source, guidance) -> None:
    rows = object_rows([source.key(0), source.key(1)], guidance)
    with pytest.raises(InvalidOption, match="1 of 2 images has boxes"):
        shuffled_rows(rows, seed=0)


def test_guidance_of_other_images_is_refused(source, guidance) -> None:
    other = GuidanceTable.of(list(guidance.rows.values()), source="another")
    with pytest.raises(ArtifactError, match="made on images another"):
        make_pairs("guided", source, size=16, guidance=other)


@pytest.mark.parametrize("name", ["standard", "duplicated", "guided", "cross", "center", "random_box", "shuffled_box"])
def test_centre_suppression_moves_the_crops_of_every_source_and_is_part_of_its_config(name, source, guidance) -> None:
    plain, suppressed = build(name, source, guidance), build(name, source, guidance, centre_beta=0.3)
    assert "centre_beta" not in plain.config["crop"]
    assert suppressed.config["crop"] == plain.config["crop"] | {"centre_beta": 0.3}
    plans = [[p.plan(i, 200, 200).crops for i in range(COUNT)] for p in (plain, suppressed)]
    before, after = (np.concatenate(p) for p in plans)
    assert np.array_equal(before[:, 2:], after[:, 2:])
    assert (before[:, :2] != after[:, :2]).mean() > 0.5


def test_self_guided_pairs_are_standard_until_they_are_given_boxes(source, guidance) -> None:
    first, standard, guided = (build(name, source, guidance) for name in ("self", "standard", "guided"))
    second = first.guided_by(guidance)
    second.set_epoch(3)
    assert first.epoch == 0
    for pairs, other in ((first, standard), (second, guided)):
        other.set_epoch(pairs.epoch)
        assert all(torch.equal(a, b) for i in range(COUNT) for a, b in zip(pairs[i][:2], other[i][:2], strict=True))
    assert second.config == first.config
    assert not torch.equal(second[2][0], pickle.loads(pickle.dumps(first))[2][0])


def test_self_guided_pairs_keep_images_that_have_no_boxes_and_refuse_those_of_others(source, guidance) -> None:
    first = build("self", source, guidance)
    some = GuidanceTable({k: v for k, v in guidance.rows.items() if k != source.key(5)}, "d", source.fingerprint)
    second = first.guided_by(some)
    assert len(second) == COUNT
    assert torch.equal(second[5][0], first[5][0])
    with pytest.raises(ArtifactError, match="the guidance was made on images aa"):
        first.guided_by(GuidanceTable({}, "d", "aa"))
