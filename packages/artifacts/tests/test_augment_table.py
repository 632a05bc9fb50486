"""Augment artifacts: what is kept of generated positives, and what they are read as."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from semaug.artifacts.augment_table import AugmentTable, augment_columns
from semaug.artifacts.describe import describe
from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.schemas import Manifest, augment_row
from semaug.artifacts.sources import labels_of, open_source
from semaug.artifacts.store import ArtifactWriter
from semaug.artifacts.verify import verify

ORIGINS = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/é.jpg", "c/1.jpg"]


def write(path, form="images", k=3, shard=2):
    """Positive j of item i is of the value 10 * i + j."""
    shape = (8, 8, 3) if form == "images" else (4,)
    manifest = Manifest(
        kind="augment", items=len(ORIGINS) * k, shard_size=shard * k, inputs={"source": "f" * 32, "run": "r" * 32},
        config={"k": k, "form": form, "shape": list(shape), "class_names": ["a", "b", "c"]},
    )  # fmt: skip
    with ArtifactWriter.open(path, manifest) as writer:
        for number in writer.pending():
            places = [divmod(place, k) for place in manifest.shard_range(number)]
            rows = [augment_row(0, ORIGINS[i], j) for i, j in places]
            values = np.stack([np.full(shape, 10 * i + j) for i, j in places])
            columns = augment_columns(
                rows, values.astype(np.uint8 if form == "images" else np.float32), [i % 3 for i, _ in places]
            )
            writer.write(number, columns)
        writer.finish()
    return path


def test_images_are_a_source_of_their_own_with_the_labels_of_their_origins(tmp_path) -> None:
    path = write(tmp_path / "augment.zarr")
    source = open_source(path)
    assert len(source) == 15
    assert source.key(4) == "a/2.jpg/1"
    assert source.read(4).shape == (8, 8, 3)
    assert (source.read(14) == 42).all()
    assert labels_of(source).tolist() == [i % 3 for i in range(5) for _ in range(3)]
    assert source.class_names == ("a", "b", "c")
    assert source.fingerprint != "f" * 32
    assert describe(path)["rows"] == 15
    assert verify(path).problems == ()


def test_the_table_finds_the_positives_of_an_item(tmp_path) -> None:
    table = AugmentTable.open(write(tmp_path / "augment.zarr"))
    assert (table.form, table.k, len(table), table.origins) == ("images", 3, 15, tuple(ORIGINS))
    for i, origin in enumerate(ORIGINS):
        first = table.places()[origin]
        assert [int(table.require_images().read(first + j)[0, 0, 0]) for j in range(3)] == [
            10 * i + j for j in range(3)
        ]
    table.require_source("f" * 32)
    with pytest.raises(ArtifactError, match=r"generated of data f+, these are e+; run `semaug diffaug augment`"):
        table.require_source("e" * 32)
    with pytest.raises(ArtifactError, match="rows are needed"):
        table.require_rows()


def test_rows_are_read_one_by_one_and_together_also_after_pickling(tmp_path) -> None:
    path = write(tmp_path / "augment.zarr", "rows")
    table = AugmentTable.open(path)
    rows = table.require_rows()
    assert (table.form, len(rows), rows.features) == ("rows", 15, 4)
    order = np.array([14, 0, 7, 7, 3])
    again = pickle.loads(pickle.dumps(rows))
    for found in (rows.take(order), again.take(order), np.stack([again.read(i) for i in order])):
        assert found.dtype == np.float32
        assert found[:, 0].tolist() == [42, 0, 21, 21, 10]
    with pytest.raises(IndexError, match="row 15 of 15"):
        rows.read(15)
    with pytest.raises(ArtifactError, match="images are needed"):
        table.require_images()
    with pytest.raises(ArtifactError, match="holds rows of a table"):
        open_source(path)
    assert rows.fingerprint == again.fingerprint != AugmentTable.open(write(tmp_path / "i.zarr")).images.fingerprint


def test_noise_belongs_to_the_seed_the_item_and_the_number_alone() -> None:
    seeds = {augment_row(s, key, n).seed for s in (0, 1) for key in ("a", "b") for n in range(3)}
    assert len(seeds) == 12
    assert all(0 <= s < 2**63 for s in seeds)
    assert augment_row(1, "b", 2).seed in seeds
