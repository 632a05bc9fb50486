"""Self-localisation: heat maps to boxes, by hand and by brute force; guidance by one and by several processes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption, MissingWeights, UnreadableImage
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import ArraySource
from semaug.oracles.catalogue import OracleSpec, open_detector
from semaug.oracles.errors import OracleError
from semaug.oracles.extract import extract_guidance
from semaug.oracles.self_localisation import (
    SelfLocaliser,
    heat_maps,
    hot_boxes,
    weights_digest,
    write_self_guidance,
)
from semaug.ssl_methods import build_encoder, save_encoder
from semaug.ssl_methods.periods import Ranks


@pytest.fixture
def encoder():
    return build_encoder("small-cnn", input_size=32, seed=3).eval()


@pytest.fixture
def source() -> ArraySource:
    """Grey images, each with a bright square of its own."""
    images = np.random.default_rng(0).integers(90, 110, (30, 48, 64, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        image[i : i + 16, 2 * i % 40 : 2 * i % 40 + 20] = 250
    return ArraySource(images)


def one_hot(row: int, column: int) -> torch.Tensor:
    maps = torch.zeros(1, 3, 4, 5)
    maps[0, 1, row, column] = 7.0
    return maps


def test_one_hot_cell_is_its_own_box() -> None:
    for row, column in ((0, 0), (2, 3), (3, 4)):
        found = hot_boxes(heat_maps(one_hot(row, column)).numpy())
        assert found.tolist() == [[column / 5, row / 4, (column + 1) / 5, (row + 1) / 4]]


def test_a_map_without_contrast_is_the_whole_image() -> None:
    for value in (0.0, 3.5, -1.0):
        assert hot_boxes(heat_maps(torch.full((1, 2, 4, 5), value)).numpy()).tolist() == [[0, 0, 1, 1]]


def test_heat_is_the_positive_part_summed_over_channels_between_its_extremes() -> None:
    maps = torch.tensor([[[[4.0, -9.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]], dtype=torch.float64)
    assert heat_maps(maps).tolist() == [[[1.0, 0.25], [0.5, 0.0]]]
    scaled = heat_maps(maps * 1e-20)
    assert torch.allclose(scaled, heat_maps(maps))


def test_the_threshold_is_exclusive_and_a_higher_one_gives_a_smaller_box() -> None:
    heat = np.array([[[0.0, 0.1, 0.2, 1.0]]])
    assert hot_boxes(heat, 0.1).tolist() == [[0.5, 0, 1, 1]]
    assert hot_boxes(heat, 0.0).tolist() == [[0.25, 0, 1, 1]]
    assert hot_boxes(heat, 0.5).tolist() == [[0.75, 0, 1, 1]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_maps_that_are_not_finite_are_an_error(bad) -> None:
    maps = one_hot(1, 1)
    maps[0, 0, 3, 3] = bad
    with pytest.raises(OracleError, match="not finite: it has diverged; lower the learning rate"):
        heat_maps(maps)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.99))
@settings(max_examples=100, deadline=None)
def test_boxes_are_the_tightest_that_hold_all_hot_cells(seed, height, width, threshold) -> None:
    heat = np.random.default_rng(seed).random((3, height, width)) ** 4
    heat[np.arange(3), seed % height, seed % width] = 1.0
    for found, one in zip(hot_boxes(heat, threshold), heat, strict=True):
        ys, xs = np.nonzero(one > threshold)
        assert found.tolist() == [xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height]


class _BrightCells(torch.nn.Module):
    """Maps of 4 x 8 cells: their mean brightness."""

    def spatial_maps(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, (4, 8)) - images.amin()


def bright(encoder):
    encoder.backbone = _BrightCells()
    return encoder


def test_boxes_are_in_the_pixels_of_each_image(encoder) -> None:
    tall, wide = np.zeros((120, 40, 3), np.uint8), np.zeros((32, 400, 3), np.uint8)
    tall[30:60, 10:20] = 255
    wide[24:32, 100:200] = 255
    found = SelfLocaliser(bright(encoder), 0.3).detect([tall, wide])
    assert [boxes.dtype for boxes in found] == [np.float32] * 2
    assert found[0].tolist() == [[10, 30, 20, 60]]
    assert found[1].tolist() == [[100, 24, 200, 32]]
    assert SelfLocaliser(bright(encoder)).detect([]) == []


def test_boxes_do_not_depend_on_the_batch(encoder, source) -> None:
    localiser = SelfLocaliser(encoder)
    images = [source.read(i) for i in range(len(source))]
    together = np.concatenate(localiser.detect(images))
    alone = np.concatenate([localiser.detect([image])[0] for image in images])
    assert np.array_equal(together, alone)
    assert len(np.unique(together, axis=0)) > 3


def test_unfit_encoders_and_thresholds_are_refused(encoder) -> None:
    with pytest.raises(InvalidOption, match=r"threshold of self-localisation is 1\.0; give 0 or more and less than 1"):
        SelfLocaliser(encoder, 1.0)
    encoder.backbone = torch.nn.Flatten()
    with pytest.raises(InvalidOption, match="backbone 'small-cnn' has no spatial maps to find objects in; choose"):
        SelfLocaliser(encoder)


def test_a_run_is_a_detector_of_the_catalogue(encoder, source, tmp_path) -> None:
    run = tmp_path / "run"
    save_encoder(run, encoder, method="simclr", seed=3, steps=0)
    spec = OracleSpec.parse("self", [f"encoder={run}", "threshold=0.2"])
    images = [source.read(i) for i in range(4)]
    expected = SelfLocaliser(encoder, 0.2).detect(images)
    assert np.array_equal(np.concatenate(open_detector(spec).detect(images)), np.concatenate(expected))
    before = spec.identity()
    (run / "metrics.csv").write_text("step")
    assert spec.identity() == before
    extract_guidance(source, tmp_path / "g.zarr", detector=spec, granularity="object")
    table = GuidanceTable.open(tmp_path / "g.zarr")
    assert np.array_equal(table.rows[source.key(2)].boxes, expected[2])
    with pytest.raises(MissingWeights, match=r"holds no encoder\.json"):
        open_detector(OracleSpec.parse(f"self?encoder={tmp_path}"))
    with pytest.raises(InvalidOption, match="self needs the option 'encoder'"):
        open_detector(OracleSpec.parse("self"))


def write(source, out, encoder, ranks=None, **changes):
    return write_self_guidance(
        source, out, SelfLocaliser(encoder), ranks or Ranks(), weights=weights_digest(encoder), shard_size=8, **changes
    )


def test_guidance_is_what_the_localiser_finds(encoder, source, tmp_path) -> None:
    digest = write(source, tmp_path / "g.zarr", encoder, readers=3)
    table = GuidanceTable.open(tmp_path / "g.zarr")
    assert table.digest == digest
    table.require_source(source.fingerprint)
    found = SelfLocaliser(encoder).detect([source.read(i) for i in range(len(source))])
    for i, boxes in enumerate(found):
        row = table.rows[source.key(i)]
        assert np.array_equal(row.boxes, boxes)
        assert (row.height, row.width, row.scale, row.fallback) == (48, 64, "object", False)


def test_guidance_goes_on_from_its_shards_and_gives_way_to_other_weights(encoder, source, tmp_path) -> None:
    out, whole = tmp_path / "g.zarr", write(source, tmp_path / "whole.zarr", encoder)

    def stop(event):
        if event.done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(source, out, encoder, on_progress=stop)
    assert len(Artifact.open(out, partial=True).markers) == 1
    seen = []
    assert write(source, out, encoder, on_progress=seen.append) == whole
    assert seen[-1].total == 22
    assert write(source, out, encoder, on_progress=seen.append) == whole
    other = build_encoder("small-cnn", input_size=32, seed=4).eval()
    assert write(source, out, other) == write(source, tmp_path / "other.zarr", other) != whole


def test_several_processes_share_the_shards(encoder, source, tmp_path) -> None:
    barrier = threading.Barrier(2)
    done: dict[int, list] = {0: [], 1: []}
    digests = {}

    def rank(number):
        ranks = Ranks(number, 2, lambda: barrier.wait(60) and None)
        digests[number] = write(source, tmp_path / "g.zarr", encoder, ranks, on_progress=done[number].append)

    threads = [threading.Thread(target=rank, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests[0] == digests[1] == write(source, tmp_path / "one.zarr", encoder)
    assert [events[-1].done for events in done.values()] == [16, 14]


class _OneBroken(ArraySource):
    def read(self, index):
        if index == 5:
            raise UnreadableImage("broken")
        return super().read(index)


def test_an_unreadable_image_is_left_out(encoder, tmp_path) -> None:
    source = _OneBroken(np.zeros((9, 20, 20, 3), np.uint8))
    source.fingerprint = "ab"
    write(source, tmp_path / "g.zarr", encoder)
    table = GuidanceTable.open(tmp_path / "g.zarr")
    assert len(table) == 8
    assert table.get(source.key(5)) is None
    assert [s.key for s in Artifact.open(tmp_path / "g.zarr").skipped] == [source.key(5)]
