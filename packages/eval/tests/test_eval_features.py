"""Embedding a source: order, preparation, skips, labels and class names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.progress import Progress
from semaug.artifacts.sources.array import ArraySource
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features, default_crop, embed, prepare
from semaug.eval.splits import match_classes, selection_split

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*rng.integers(20, 60, 2), 3), dtype=np.uint8) for _ in range(count)]


def channel_means(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return batch.mean((2, 3)), batch.std((2, 3))


class BrokenSource(ArraySource):
    """Image 3 cannot be decoded; image 5 has no label."""

    def read(self, index: int) -> np.ndarray:
        if index == 3:
            raise UnreadableImage("000003: truncated")
        return super().read(index)

    def label(self, index: int) -> int | None:
        return None if index == 5 else super().label(index)


def settings_of(**changes: object) -> dict:
    return {"input_size": 16, "mean": MEAN, "std": STD, **changes}


def test_features_are_of_the_prepared_and_normalised_images() -> None:
    pictures = images(7)
    found = embed(channel_means, ArraySource(pictures, labels=[0, 1, 2, 0, 1, 2, 0]), **settings_of(batch_size=3))
    for row, picture in enumerate(pictures):
        pixels = prepare(picture, 16, 1.0).astype(np.float64) / 255
        expected = (pixels.mean((0, 1)) - MEAN) / STD
        np.testing.assert_allclose(found.features[row], expected, atol=1e-5)
    assert found.projections is not None
    assert found.projections.shape == (7, 3)
    assert found.keys == tuple(f"{i:06d}" for i in range(7))
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_workers_and_batches_change_nothing(batch_size: int) -> None:
    source = ArraySource(images(70), labels=[i % 3 for i in range(70)])
    alone = embed(channel_means, source, **settings_of())
    threaded = embed(channel_means, source, **settings_of(workers=3, batch_size=batch_size))
    np.testing.assert_allclose(alone.features, threaded.features, atol=1e-6)
    assert alone.keys == threaded.keys


def test_unreadable_images_are_listed_and_missing_labels_are_minus_one() -> None:
    source = BrokenSource(images(8), labels=[0, 1] * 4)
    events: list[Progress] = []
    found = embed(channel_means, source, **settings_of(batch_size=4), on_progress=events.append)
    assert [skip.key for skip in found.skipped] == ["000003"]
    assert "000003" not in found.keys
    assert found.labels.tolist() == [0, 1, 0, 0, -1, 0, 1]
    assert len(found.labelled()) == 6
    assert events[-1].done == events[-1].total == 8


def test_nothing_readable_is_an_error() -> None:
    class Unreadable(ArraySource):
        spec = "photographs"

        def read(self, index: int) -> np.ndarray:
            raise UnreadableImage("broken")

    with pytest.raises(EvaluationError, match="none of 4 images of photographs"):
        embed(channel_means, Unreadable(images(4)), **settings_of())


def test_a_module_is_evaluated_in_evaluation_mode_and_left_as_it_was() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, None]:
            return self.norm(batch).mean((2, 3)), None

    model = Model().train()
    one = embed(model, ArraySource(images(6)), **settings_of(batch_size=1))
    many = embed(model, ArraySource(images(6)), **settings_of(batch_size=6))
    np.testing.assert_allclose(one.features, many.features, atol=1e-6)
    assert model.training
    assert int(model.norm.num_batches_tracked) == 0


def test_limit_keeps_a_seeded_subset_in_order() -> None:
    source = ArraySource(images(40), labels=[i // 20 for i in range(40)])
    found = embed(channel_means, source, **settings_of(limit=12))
    assert len(found) == 12
    assert list(found.keys) == sorted(found.keys)
    assert set(found.labels.tolist()) == {0, 1}
    assert found.keys == embed(channel_means, source, **settings_of(limit=12)).keys
    assert found.keys != embed(channel_means, source, **settings_of(limit=12, seed=1)).keys
    with pytest.raises(EvaluationError, match="limit of 0"):
        embed(channel_means, source, **settings_of(limit=0))


def resize_then_crop(picture: np.ndarray) -> np.ndarray:
    """The papers' two steps: short side to 256 (antialiased), then the 224 pixels in the middle."""
    height, width = picture.shape[:2]
    size = (256, int(256 * height / width)) if width < height else (int(256 * width / height), 256)
    resized = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return np.asarray(resized.crop((left, top, left + 224, top + 224)))


def test_preparation_equals_resizing_then_cropping() -> None:
    rows, columns = np.mgrid[0:300, 0:420]
    smooth = np.stack([rows * 255 / 299, columns * 255 / 419, (rows + columns) * 255 / 718], 2).astype(np.uint8)
    for picture in (smooth, smooth.transpose(1, 0, 2).copy()):
        difference = prepare(picture, 224, default_crop(224)).astype(int) - resize_then_crop(picture).astype(int)
        assert np.abs(difference).max() <= 2
        assert np.abs(difference).mean() < 0.5


def test_preparation_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    inside = prepare(stripes, 32, 1.0).astype(int)[:, 1:-1]  # the filter is cut at the border
    assert np.abs(inside - 127).max() <= 2


def test_an_image_of_the_input_size_is_used_as_it_is() -> None:
    picture = images(1)[0][:20, :20]
    np.testing.assert_array_equal(prepare(picture, 20, default_crop(20)), picture)
    assert default_crop(96) == 1.0
    assert default_crop(224) == 224 / 256


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (500, 1, 3), (3, 7, 3)])
def test_extreme_shapes_are_prepared(shape: tuple[int, int, int]) -> None:
    assert prepare(np.full(shape, 90, np.uint8), 16, 224 / 256).shape == (16, 16, 3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=4, max_size=60), st.integers(0, 1000))
def test_selection_split_parts_the_rows_and_keeps_every_class_to_fit(labels: list[int], seed: int) -> None:
    array = np.asarray(labels, dtype=np.int64)
    counts = np.bincount(array)
    if counts.max() < 2:
        return
    fit, selection = selection_split(array, seed=seed)
    assert sorted([*fit, *selection]) == list(range(len(labels)))
    assert set(array[fit]) == set(labels)
    for label, count in enumerate(counts):
        chosen = int((array[selection] == label).sum())
        assert chosen == (min(count - 1, max(1, round(0.2 * count))) if count else 0)


def test_selection_split_is_capped() -> None:
    fit, selection = selection_split(np.arange(1000) % 4, limit=50)
    assert len(selection) == 50
    assert len(fit) == 950


def test_classes_join_by_name() -> None:
    def of(labels: list[int], names: tuple[str, ...]) -> Features:
        count = len(labels)
        values = np.zeros((count, 2), np.float32)
        return Features(values, None, np.asarray(labels), tuple(map(str, range(count))), names)

    train, test = match_classes(of([0, 1], ("cat", "dog")), of([0, 1, 2, -1], ("ant", "dog", "cat")))
    assert train.class_names == test.class_names == ("cat", "dog", "ant")
    assert test.labels.tolist() == [2, 1, 0, -1]
    bare, other = match_classes(of([0, 1], ()), of([2], ()))
    assert bare.class_names == other.class_names == ("0", "1", "2")
    with pytest.raises(EvaluationError, match="give both names"):
        match_classes(of([0, 1], ("cat", "dog")), of([1], ()))


def test_rows_that_disagree_are_refused() -> None:
    with pytest.raises(EvaluationError, match="3 rows of features and 2 labels"):
        Features(np.zeros((3, 2), np.float32), None, np.zeros(2, np.int64), ("a", "b", "c"), ("x",))
    with pytest.raises(EvaluationError, match="label 1 with 1 class names"):
        Features(np.zeros((2, 2), np.float32), None, np.asarray([0, 1]), ("a", "b"), ("x",))


def test_embeds_real_photographs() -> None:
    root = Path(os.environ.get("SEMAUG_TEST_DATA", Path(__file__).parents[4] / "shared"))
    folder = root / "data" / "imagenet100"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder}; set SEMAUG_TEST_DATA")
    from semaug.artifacts.sources import open_source

    source = open_source(folder)
    found = embed(channel_means, source, **settings_of(input_size=64, limit=12, workers=2))
    assert found.features.shape == (12, 3)
    assert np.isfinite(found.features).all()
    assert len(np.unique(found.labels)) == 12  # one photograph a class
