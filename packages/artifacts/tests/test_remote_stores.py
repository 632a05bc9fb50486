import numpy as np
import pytest
import zarr
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from semaug.artifacts.pack import pack_images
from semaug.artifacts.ragged import pack_arrays, pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest
from semaug.artifacts.sources import open_source
from semaug.artifacts.store import ArtifactWriter
from semaug.artifacts.verify import verify

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto", reason="needs moto[server], a development dependency")

from semaug.artifacts.testing_s3 import s3_store


@pytest.fixture(scope="module")
def server():
    with s3_store() as store:
        yield store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMAUG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["s3", "memory"])
def root(request, tmp_path):
    if request.param == "s3":
        request.getfixturevalue("server").clear()
        return f"s3://bucket/{tmp_path.name}"
    return f"memory://{tmp_path.name}"


@pytest.fixture
def bucket(server, tmp_path):
    server.clear()
    return f"s3://bucket/{tmp_path.name}"


def manifest(**changes):
    given = {"kind": "features", "items": 10, "shard_size": 4, "config": {"scale": 2, "nested": {"a": (1, 2)}}}
    return Manifest.model_validate(given | changes)


def columns(indices):
    return {
        **pack_strings("key", [f"k{i}" for i in indices]),
        "value": np.array([[i, i * i] for i in indices], np.float32),
        **pack_arrays("ragged", [np.arange(i, dtype=np.int32) for i in indices], np.zeros(0, np.int32)),
        "nothing": np.zeros((len(indices), 0), np.uint8),
        "flag": np.array([i % 2 == 0 for i in indices]),
    }


def write_all(path, **changes):
    with ArtifactWriter.open(path, manifest(**changes)) as writer:
        for shard in writer.pending():
            writer.write(shard, columns(writer.manifest.shard_range(shard)))
        return writer.finish()


def test_what_is_written_is_read(root, tmp_path):
    place = f"{root}/a.zarr"
    summary = write_all(place)
    assert str(summary.path) == place
    artifact = Artifact.open(place, "features")
    assert artifact.keys == [f"k{i}" for i in range(10)]
    assert artifact.column("value").tolist() == [[i, i * i] for i in range(10)]
    assert artifact.column("flag").tolist() == [i % 2 == 0 for i in range(10)]
    assert artifact.column("nothing").shape == (10, 0)
    shard = artifact.shard(1)
    assert isinstance(shard["value"], np.memmap)
    assert set(shard) == set(columns(range(4)))
    with pytest.raises(KeyError):
        shard["absent"]
    local = write_all(tmp_path / "local.zarr")
    assert verify(place).digest == verify(local.path).digest
    assert verify(place).problems == ()


def test_zarr_reads_it_too(bucket):
    write_all(f"{bucket}/a.zarr")
    store = FsspecStore.from_url(f"{bucket}/a.zarr", read_only=True)
    group = zarr.open_group(store, mode="r")
    assert group["shards/000002/value"][:].tolist() == [[8, 64], [9, 81]]
    assert group.attrs["semaug"]["kind"] == "features"
    sync(store.fs._s3creator.__aexit__(None, None, None))  # which zarr leaves open


def test_a_pack_is_read_as_where_it_came_from(root, tmp_path):
    scenes = open_source("scenes:train?items=7")
    pack_images(scenes, f"{root}/images.zarr", shard_size=3, format="raw")
    packed = open_source(f"{root}/images.zarr")
    assert [packed.key(i) for i in range(7)] == [scenes.key(i) for i in range(7)]
    assert all(np.array_equal(packed.read(i), scenes.read(i)) for i in range(7))
    assert packed.fingerprint == scenes.fingerprint
    pack_images(scenes, tmp_path / "images.zarr", shard_size=3, format="raw")
    assert verify(f"{root}/images.zarr").digest == verify(tmp_path / "images.zarr").digest
