"""Columns of several shards as one mapped array."""

from __future__ import annotations

import gc
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from semaug.artifacts.joined import MappedRows, join_column, release_rows
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest
from semaug.artifacts.store import ArtifactWriter


def store(path: Path, values: np.ndarray, sizes: list[int], shard_size: int) -> Artifact:
    """Shards that hold ``sizes`` rows each, as if the rest of a shard could not be read."""
    manifest = Manifest(kind="features", items=shard_size * len(sizes), shard_size=shard_size)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    with ArtifactWriter.open(path, manifest) as writer:
        for shard, (start, stop) in enumerate(pairwise(starts)):
            keys = pack_strings("key", [str(row) for row in range(start, stop)])
            writer.write(shard, {"feature": values[start:stop], **keys})
        writer.finish()
    return Artifact.open(path)


@pytest.mark.parametrize(
    "sizes",
    [[1024, 2048, 5], [1000, 1024, 300], [3], [1024, 0, 17], [0, 7, 0]],
    ids=["whole pages", "copied", "one shard", "an empty shard", "mostly empty"],
)
def test_all_rows_in_order(tmp_path: Path, sizes: list[int]) -> None:
    values = np.random.default_rng(0).random((sum(sizes), 3), dtype=np.float32)
    rows = join_column(store(tmp_path / "a.zarr", values, sizes, 2048), "feature")
    assert isinstance(rows, MappedRows)
    np.testing.assert_array_equal(rows, values)
    rows.release(0, len(rows))
    np.testing.assert_array_equal(rows, values)


def test_no_rows_keep_their_width(tmp_path: Path) -> None:
    rows = join_column(store(tmp_path / "a.zarr", np.zeros((0, 3), np.float32), [0, 0], 4), "feature")
    assert rows.shape == (0, 3)


def test_parts_outlive_the_whole_and_releasing_them_does_nothing(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((3000, 4), dtype=np.float32)
    rows = join_column(store(tmp_path / "a.zarr", values, [1024, 1024, 952], 1024), "feature")
    part, chosen = rows[1000:1100], rows[np.array([5, 2999])]
    del rows
    gc.collect()
    for view in (part, chosen):
        release_rows(view, 0, len(view))
    np.testing.assert_array_equal(part, values[1000:1100])
    np.testing.assert_array_equal(chosen, values[[5, 2999]])


def test_writing_to_the_map_does_not_reach_the_files(tmp_path: Path) -> None:
    values = np.ones((1500, 2), np.float32)
    artifact = store(tmp_path / "a.zarr", values, [1024, 476], 1024)
    join_column(artifact, "feature")[:] = 7
    np.testing.assert_array_equal(join_column(artifact, "feature"), values)


def test_memory_is_given_back(tmp_path: Path) -> None:
    """64 MB are summed 4 MB at a time; what stays resident is a few megabytes."""
    values = np.random.default_rng(2).random((16 * 4096, 256), dtype=np.float32)
    store(tmp_path / "a.zarr", values, [4096] * 16, 4096)
    code = f"""
import numpy as np
from semaug.artifacts.joined import join_column
from semaug.artifacts.reader import Artifact
from semaug.artifacts.shards import peak_memory
rows = join_column(Artifact.open({str(tmp_path / "a.zarr")!r}), "feature")
before, total = peak_memory(), 0.0
for start in range(0, len(rows), 4096):
    total += float(rows[start:start + 4096].sum(dtype=np.float64))
    rows.release(start, start + 4096)
print(peak_memory() - before, total)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, total = done.stdout.split()
    assert float(total) == pytest.approx(float(values.sum(dtype=np.float64)), rel=1e-9)
    assert int(grown) < 16e6
