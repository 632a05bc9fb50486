"""What is not held in memory for sets of many millions: keys of a pack, pairs of a fingerprint."""

from __future__ import annotations

import numpy as np
import pytest

from semaug.artifacts.index import fingerprint_of_index, index_source
from semaug.artifacts.pack import pack_images
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest
from semaug.artifacts.sources import open_source, packed
from semaug.artifacts.sources.base import fingerprint_of
from semaug.artifacts.store import ArtifactWriter


def test_keys_of_a_large_pack_are_read_one_by_one(tmp_path, monkeypatch):
    pack_images(open_source("scenes:train?items=11"), tmp_path / "a.zarr", size=16, shard_size=4)
    held = open_source(str(tmp_path / "a.zarr"))
    monkeypatch.setattr(packed, "_MOST_KEYS", 3)
    large = packed.PackedSource.open(tmp_path / "a.zarr")
    assert [large.key(i) for i in (10, 0, *range(11))] == [held.key(i) for i in (10, 0, *range(11))]
    assert "keys" not in vars(large.artifact)
    with pytest.raises(IndexError, match="image 11 of 11"):
        large.key(11)


@pytest.mark.parametrize("keys", [["a/1", "a/2", "b/1", "b/10", "b/2"], ["b", "a", "é", "c", "A"]])
def test_the_fingerprint_of_an_index_is_that_of_its_pairs_whatever_their_order(tmp_path, keys):
    contents = np.random.default_rng(0).integers(0, 256, (len(keys), 16), np.uint8)
    manifest = Manifest(kind="index", items=len(keys), shard_size=2, config={}, inputs={})
    with ArtifactWriter.open(tmp_path / "a.zarr", manifest) as writer:
        for shard in writer.pending():
            span = manifest.shard_range(shard)
            rows = {
                **pack_strings("key", keys[span.start : span.stop]),
                "content_hash": contents[span.start : span.stop],
            }
            writer.write(shard, rows)
        writer.finish()
    wanted = fingerprint_of(zip(keys, map(bytes, contents), strict=True))
    assert fingerprint_of_index(Artifact.open(tmp_path / "a.zarr")) == wanted


def test_an_index_and_its_source_have_one_fingerprint(tmp_path):
    source = open_source("scenes:train?items=5")
    index_source(source, tmp_path / "a.zarr")
    assert fingerprint_of_index(Artifact.open(tmp_path / "a.zarr")) == source.fingerprint
