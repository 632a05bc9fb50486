"""Agreement between the guidance of real and synthetic images: closed forms, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semaug.artifacts.errors import ArtifactError, InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.schemas import Guidance, Manifest, Slot, SyntheticRow, synthetic_key
from semaug.artifacts.sources import ArraySource
from semaug.artifacts.store import ArtifactWriter
from semaug.artifacts.synthetic_table import SyntheticTable, synthetic_columns
from semaug.studies.synthesis import compare_guidance, overlap_of

COUNT = 5


@pytest.fixture
def source() -> ArraySource:
    return ArraySource(np.random.default_rng(0).integers(0, 256, (COUNT, 20, 40, 3), dtype=np.uint8))


@pytest.fixture
def table(source: ArraySource, tmp_path: Path) -> SyntheticTable:
    manifest = Manifest(kind="synthetic", items=COUNT, shard_size=8, inputs={"source": source.fingerprint})
    keys = [source.key(i) for i in range(COUNT)]
    rows = [SyntheticRow(synthetic_key(k, 0), k, Slot(), "a photo", i) for i, k in enumerate(keys)]
    images = [np.full((16, 16, 3), i, np.uint8) for i in range(COUNT)]
    with ArtifactWriter.open(tmp_path / "s.zarr", manifest) as writer:
        writer.write(0, synthetic_columns(rows, images, [None] * COUNT, "raw"))
        writer.finish()
    return SyntheticTable.open(tmp_path / "s.zarr")


def guided(keys: list[str], height: int, width: int, boxes: list[list[float] | None], source: str) -> GuidanceTable:
    rows = [
        Guidance(key, height, width, fallback=True)
        if box is None
        else Guidance(key, height, width, boxes=np.array([box], np.float32))
        for key, box in zip(keys, boxes, strict=True)
    ]
    return GuidanceTable.of(rows, source=source)


def test_boxes_are_compared_in_shares_of_their_images(source, table) -> None:
    real = guided(
        [source.key(i) for i in range(COUNT)], 20, 40,
        [[0, 0, 20, 10], [0, 0, 40, 20], [0, 0, 20, 20], [0, 0, 4, 4], None], source.fingerprint,
    )  # fmt: skip
    synthetic = guided(
        [row.key for row in table.rows], 16, 16,
        [[0, 0, 8, 8], [0, 0, 8, 16], [8, 0, 16, 16], None, None], table.images.fingerprint,
    )  # fmt: skip
    cosines = {row.key: c for row, c in zip(table.rows, (0.9, 0.8, 0.2, 0.1, 0.0), strict=True)}
    found = compare_guidance(table, real, synthetic, cosines)
    assert (found.images, found.empty) == (4, 1)
    assert found.overlap == pytest.approx((1 + 0.5 + 0 + 0) / 4)  # the same, half of it, beside it, vanished
    assert found.kept == pytest.approx(3 / 4)
    assert found.size_ratio == pytest.approx(1.0)  # of 1, 0.5 and 1
    ranks = np.corrcoef([4, 3, 1.5, 1.5], [4, 3, 2, 1])[0, 1]
    assert found.similarity_correlation == pytest.approx(ranks)
    assert compare_guidance(table, real, synthetic).similarity_correlation is None


def test_guidance_of_other_images_and_no_boxes_at_all_are_refused(source, table) -> None:
    keys, made = [source.key(i) for i in range(COUNT)], [row.key for row in table.rows]
    none = [None] * COUNT
    real = guided(keys, 20, 40, none, source.fingerprint)
    with pytest.raises(ArtifactError, match="the guidance was made on images"):
        compare_guidance(table, real, guided(made, 16, 16, none, source.fingerprint))
    with pytest.raises(InvalidOption, match=r"neither .* any box"):
        compare_guidance(table, real, guided(made, 16, 16, none, table.images.fingerprint))


def test_overlap_is_symmetric_and_between_nothing_and_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        corners = rng.random((2, 2, 2))
        a, b = (np.concatenate([c.min(axis=0), c.max(axis=0)]) for c in corners)
        assert 0 <= overlap_of(a, b) <= 1
        assert overlap_of(a, b) == pytest.approx(overlap_of(b, a))
        assert overlap_of(a, a) == pytest.approx(1)
