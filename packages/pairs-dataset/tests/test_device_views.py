"""Views made by one batched pass against those of the CPU path: the same draws, the same pixels but for rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources import open_source
from semaug.pairs_dataset import collate_pairs, make_pairs, materialize_crops
from semaug.pairs_dataset.device_views import DeviceViews, RawPairs

COUNT = 24
TOLERANCE = 1e-4  # of normalised values, which span about 4.6


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Photographs in miniature, every one of its own size: smooth shapes under some noise."""
    folder, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(COUNT):
        height, width = draws.integers(9, 90, 2)
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x * draws.uniform(0.05, 0.4) + y * draws.uniform(0.05, 0.4) + c) for c in range(3)]
        pixels = np.stack(waves, 2) * 90 + 128 + draws.normal(0, 12, (height, width, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return open_source(str(folder))


@pytest.fixture(scope="module")
def guidance(source):
    rows = [Guidance(source.key(0), *source.read(0).shape[:2], fallback=True)]
    for i in range(1, COUNT):
        height, width = source.read(i).shape[:2]
        box = [width * 0.1, height * 0.2, width * 0.8, height * 0.9]
        rows.append(Guidance(source.key(i), height, width, boxes=np.array([box], np.float32)))
    return GuidanceTable.of(rows, digest="d", source=source.fingerprint)


def both(pairs, epochs=3):
    """Views of some epochs by the CPU path and by the batched pass, as (views, index) of each."""
    raw, make = RawPairs(pairs), DeviceViews(pairs.views)
    items = list(range(len(pairs)))
    for epoch in range(epochs):
        raw.set_epoch(epoch)
        yield collate_pairs(pairs.__getitems__(items)), make(raw.__getitems__(items))


@pytest.mark.parametrize("preset", ["symmetric", "byol", "asymmetric_cifar", "vicreg_cifar", "identity", "crop_flip"])
@pytest.mark.parametrize("size", [16, 40])
def test_views_equal_those_of_the_cpu_path(source, preset, size):
    pairs = make_pairs("standard", source, size=size, preset=preset, seed=5)
    for expected, found in both(pairs):
        assert torch.equal(found[-1], expected[-1])
        assert len(found) == len(expected) == 3
        for a, b in zip(found, expected[:-1], strict=False):
            torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


def test_rotated_views_too(source):
    pairs = make_pairs("standard", source, size=24, preset="byol", rotation=(0.7, 40.0), seed=3)
    for expected, found in both(pairs, epochs=2):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["guided", "cross", "random_box", "duplicated", "center"])
def test_every_form_of_pairs_and_local_views_too(source, guidance, name):
    local = {"local_views": 3, "local_size": 12, "guided_locals": name == "guided"}
    pairs = make_pairs(name, source, size=24, guidance=guidance, preset="byol", **local)
    for expected, found in both(pairs, epochs=2):
        assert [tuple(v.shape[1:]) for v in found[:-1]] == [(3, 24, 24)] * 2 + [(3, 12, 12)] * 3
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


def test_inflated_pairs_read_crops_where_the_cpu_path_does(source, guidance, tmp_path):
    materialize_crops(source, guidance, tmp_path / "sdi")
    pairs = make_pairs("inflated", source, size=16, materialized=tmp_path / "sdi")
    for expected, found in both(pairs, epochs=1):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


def test_crop_boxes_are_the_same_integers(source):
    pairs = make_pairs("standard", source, size=16, seed=1)
    batch = RawPairs(pairs).__getitems__(range(COUNT))
    for item in range(COUNT):
        height, width = source.read(item).shape[:2]
        crops = pairs.plan(item, height, width).crops
        top, left = crops[:, 0].min(), crops[:, 1].min()
        assert np.array_equal(batch.crops[item].numpy(), crops - np.array([top, left, 0, 0]))


def test_a_batch_depends_on_no_other_item_and_on_no_worker(source):
    pairs = make_pairs("standard", source, size=16, preset="byol", seed=2)
    make, raw = DeviceViews(pairs.views), RawPairs(pairs)
    whole = make(raw.__getitems__(range(COUNT)))
    alone = make(raw[7])
    torch.testing.assert_close(alone[0][0], whole[0][7], atol=1e-6, rtol=0)
    loader = DataLoader(
        raw, batch_size=COUNT, num_workers=1, collate_fn=RawPairs.collate, multiprocessing_context="forkserver"
    )
    (batch,) = loader
    for a, b in zip(make(batch.to("cpu")), whole, strict=True):
        assert torch.equal(a, b)


def test_altered_backgrounds_stay_with_the_cpu_path(source, guidance):
    pairs = make_pairs("guided", source, size=16, guidance=guidance, mask_mode="bg_blur")
    with pytest.raises(InvalidOption, match=r"mask_mode 'bg_blur' .* take --views cpu"):
        RawPairs(pairs)
