"""Local views beside the two global ones: paired draws, sizes, guidance, batches, workers."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources import ArraySource, open_source
from semaug.pairs_dataset import PAIR_SOURCES, collate_pairs, make_pairs, materialize_crops
from semaug.pairs_dataset.sources import PairBatch

SIDE, COUNT = 40, 12
NOT_IMAGES_ALONE = ("inflated", "semantic", "synthetic", "diffusion", "adainf")
ONLINE = [name for name in PAIR_SOURCES if name not in NOT_IMAGES_ALONE]
LOCAL = {"local_views": 3, "local_size": 8}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def source() -> ArraySource:
    return ArraySource(np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8))


@pytest.fixture
def guidance(source) -> GuidanceTable:
    """A box of its own size an image; image 0 is a fallback."""
    rows = [Guidance(source.key(0), SIDE, SIDE, fallback=True)]
    for i in range(1, COUNT):
        box = [2 + i % 4, 3, 2 + i % 4 + 8 + i, 3 + 10 + i]
        rows.append(Guidance(source.key(i), SIDE, SIDE, boxes=np.array([box], np.float32)))
    return GuidanceTable.of(rows, digest="d")


@pytest.mark.parametrize("name", ONLINE)
def test_local_views_stand_before_the_index_and_change_no_global_view(name, source, guidance) -> None:
    alone = make_pairs(name, source, size=16, guidance=guidance)
    pairs = make_pairs(name, source, size=16, guidance=guidance, guided_locals=True, **LOCAL)
    for item in range(len(pairs)):
        *views, index = pairs[item]
        assert [tuple(v.shape) for v in views] == [(3, 16, 16)] * 2 + [(3, 8, 8)] * 3
        first, second, expected = alone[item]
        assert index == expected
        assert torch.equal(views[0], first)
        assert torch.equal(views[1], second)
        assert len({v.numpy().tobytes() for v in views}) == 5


def test_inflated_pairs_have_local_views_of_originals_and_crops(source, guidance, tmp_path) -> None:
    materialize_crops(source, guidance, tmp_path / "sdi")
    pairs = make_pairs("inflated", source, size=16, materialized=tmp_path / "sdi", **LOCAL)
    standard = make_pairs("standard", source, size=16, **LOCAL)
    assert all(torch.equal(a, b) for a, b in zip(pairs[3][:-1], standard[3][:-1], strict=True))
    *views, index = pairs[COUNT + 3]
    assert (len(views), index) == (5, 3)
    assert not torch.equal(views[4], standard[3][4])


def test_more_local_views_change_none_of_the_others(source) -> None:
    few, many = (make_pairs("standard", source, size=16, local_views=n, local_size=8) for n in (2, 6))
    assert all(torch.equal(a, b) for a, b in zip(few[5][:4], many[5][:4], strict=True))


def test_local_crops_take_their_share_of_the_image(source) -> None:
    pairs = make_pairs("standard", source, size=16, local_views=4, local_scale=(0.1, 0.2), scale=(0.5, 1.0))
    shares = []
    for epoch in range(40):
        pairs.set_epoch(epoch)
        shares += [
            (c[:, 2] * c[:, 3]) / 200**2 for i in range(COUNT) if (c := pairs.plan(i, 200, 200).crops) is not None
        ]
    shares = np.array(shares)
    assert shares.shape == (40 * COUNT, 6)
    assert shares[:, :2].min() > 0.48
    local = shares[:, 2:]
    assert 0.095 < local.min() < 0.105
    assert 0.195 < local.max() < 0.205
    assert abs(local.mean() - 0.15) < 0.003
    assert np.abs(np.corrcoef(local.T) - np.eye(4)).max() < 0.12


@pytest.mark.parametrize("crop", ["inside", "cover", "box_as_view"])
def test_guided_locals_lie_inside_the_widened_box_and_others_do_not(source, guidance, crop) -> None:
    options = {"size": 16, "guidance": guidance, "crop": crop, **LOCAL}
    guided, free = (make_pairs("guided", source, guided_locals=g, **options) for g in (True, False))
    outside = 0
    for epoch in range(5):
        guided.set_epoch(epoch)
        free.set_epoch(epoch)
        for i in range(1, COUNT):
            box = guidance.rows[source.key(i)].boxes[0]
            plan = guided.plan(i, SIDE, SIDE)
            assert (plan.chosen[2:] == 0).all()
            assert all(_within(c, box) for c in plan.crops[2:])
            loose = free.plan(i, SIDE, SIDE)
            assert (loose.chosen[2:] == -2).all()
            outside += sum(not _within(c, box) for c in loose.crops[2:])
            assert (plan.crops[:2] == loose.crops[:2]).all()
        assert (guided.plan(0, SIDE, SIDE).chosen == -2).all()
    assert outside > 50


def _within(crop, box, margin=0.1) -> bool:
    top, left, h, w = crop
    mx, my = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    across = np.floor(box[0] - mx) <= left and left + w <= np.ceil(box[2] + mx)
    return bool(across and np.floor(box[1] - my) <= top and top + h <= np.ceil(box[3] + my))


def test_guided_locals_follow_p_guided_also_where_one_global_view_is_guided(source, guidance) -> None:
    pairs = make_pairs("cross", source, size=16, guidance=guidance, p_guided=0.6, guided_locals=True, **LOCAL)
    guided = []
    for epoch in range(60):
        pairs.set_epoch(epoch)
        guided += [pairs.plan(i, SIDE, SIDE).chosen >= 0 for i in range(1, COUNT)]
    share = np.mean(guided, axis=0)
    assert share[0] == 0
    assert np.abs(share[1:] - 0.6).max() < 0.06


def test_all_views_hold_one_object_unless_drawn_per_view(source) -> None:
    boxes = np.array([[0, 0, 18, 18], [22, 22, 40, 40]], np.float32)
    table = GuidanceTable.of([Guidance(source.key(i), SIDE, SIDE, boxes=boxes) for i in range(COUNT)])
    one, several = (
        make_pairs("guided", source, size=16, guidance=table, guided_locals=True, box_scope=scope, **LOCAL)
        for scope in ("image", "view")
    )
    assert all(len(set(one.plan(i, SIDE, SIDE).chosen.tolist())) == 1 for i in range(COUNT))
    assert any(len(set(several.plan(i, SIDE, SIDE).chosen[2:].tolist())) == 2 for i in range(COUNT))


def test_masks_soften_the_background_of_guided_locals_alone(source) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:30, 12:20] = True
    row = Guidance(source.key(0), SIDE, SIDE, "pixel", np.array([[0, 0, 16, 40]], np.float32), (encode_mask(mask),))
    options = {"size": 16, "guidance": GuidanceTable.of([row]), "preset": "identity", "crop": "inside", "margin": 10.0}
    options |= {"tau_mask": 0.0, "mean": (0,) * 3, "std": (1,) * 3, "local_views": 1, "local_size": SIDE}
    plain, filled = (make_pairs("guided", source, mask_mode=m, guided_locals=True, **options)[0][2].numpy()
                     for m in ("crop_only", "bg_fill"))  # fmt: skip
    assert np.allclose(plain[:, mask], filled[:, mask], atol=1e-6)
    assert np.ptp(filled[0][~mask]) < 1e-3 < np.ptp(plain[0][~mask])
    loose = make_pairs("guided", source, mask_mode="bg_fill", **options)[0][2].numpy()
    assert np.array_equal(loose, plain)


def test_a_batch_is_two_buffers_handed_over_without_a_copy(source, guidance) -> None:
    pairs = make_pairs("guided", source, size=16, guidance=guidance, **LOCAL)
    batch = pairs.__getitems__([4, 1, 7])
    assert isinstance(batch, PairBatch)
    *views, index = collate_pairs(batch)
    assert index.tolist() == [4, 1, 7]
    homes = [v.untyped_storage().data_ptr() for v in views]
    assert (
        homes == [batch.views.untyped_storage().data_ptr()] * 2 + [batch.local_views.untyped_storage().data_ptr()] * 3
    )
    for k, i in enumerate((4, 1, 7)):
        assert all(torch.equal(v[k], w) for v, w in zip(views, pairs[i][:-1], strict=True))
    assert [v.shape for v in collate_pairs([pairs[4], pairs[1]])] == [(2, 3, 16, 16)] * 2 + [(2, 3, 8, 8)] * 3 + [(2,)]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 warns of any fork
def test_workers_give_the_same_local_views() -> None:
    pairs = make_pairs("standard", open_source("scenes:train?items=12"), size=16, **LOCAL)
    loaders = [DataLoader(pairs, batch_size=5, num_workers=n, collate_fn=collate_pairs) for n in (0, 2)]
    for here, there in zip(*loaders, strict=True):
        assert len(here) == 6
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    again = pickle.loads(pickle.dumps(pairs))
    assert all(torch.equal(a, b) for a, b in zip(again[3][:-1], pairs[3][:-1], strict=True))


def test_the_training_loader_gives_the_same_local_views_with_and_without_workers() -> None:
    batches = pytest.importorskip("semaug.ssl_methods.batches")
    pairs = make_pairs("standard", open_source("scenes:train?items=12"), size=16, **LOCAL)
    order = batches.BatchOrder(len(pairs), 4, seed=0)
    found = [
        [[v.clone() for v in batch] for batch in batches.run_loader(
            pairs, batches.RunSampler(order, 1, 5), workers=n, pin_memory=False)]
        for n in (0, 1)
    ]  # fmt: skip
    assert len(found[0]) == 4
    for here, there in zip(*found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_settings_are_in_the_config_only_where_there_are_local_views(source) -> None:
    plain = make_pairs("standard", source, size=32).config
    pairs = make_pairs("standard", source, size=32, preset="byol", local_views=2)
    assert "local" not in plain
    local = pairs.config["local"]
    assert (local["count"], local["size"], local["scale"], local["guided"]) == (2, 14, [0.05, 0.4], False)
    assert (local["recipe"]["blur_p"], local["recipe"]["solarise_p"]) == (0.5, 0.0)
    assert json.loads(json.dumps(pairs.config)) == pairs.config
    assert make_pairs("standard", source, size=224, local_views=1).config["local"]["size"] == 96


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_views": -1}, "local_views is -1"),
        ({"local_views": 2, "local_size": 1}, "local_size is 1"),
        ({"local_views": 2, "local_scale": (0.5, 0.2)}, "local_scale is 0.5 to 0.2"),
        ({"local_size": 8}, "give --local-views too"),
        ({"guided_locals": True}, "give --local-views too"),
    ],
)
def test_wrong_local_options_are_refused(source, options, message) -> None:
    with pytest.raises(InvalidOption, match=message):
        make_pairs("standard", source, size=16, **options)
