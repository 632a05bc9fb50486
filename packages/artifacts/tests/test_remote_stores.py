import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from semaug.artifacts.describe import describe
from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, InvalidOption, SourceError, StoreError
from semaug.artifacts.files import require_space
from semaug.artifacts.object_cache import ObjectCache, Wanted
from semaug.artifacts.pack import pack_images
from semaug.artifacts.places import RemotePath, as_path
from semaug.artifacts.ragged import pack_arrays, pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest
from semaug.artifacts.sources import open_source
from semaug.artifacts.sources.base import Source
from semaug.artifacts.sources.packed import require_random_reads
from semaug.artifacts.store import ArtifactWriter
from semaug.artifacts.tables import is_table
from semaug.artifacts.verify import verify

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto", reason="needs moto[server], a development dependency")

from semaug.artifacts.testing_s3 import environment, forget_connections, s3_store


@pytest.fixture(scope="module")
def server():
    with s3_store() as store:
        yield store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMAUG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
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


class Noise(Source):
    """Small images that cost nothing to make."""

    class_names = ("even", "odd")

    def __init__(self, count: int, side: int = 8) -> None:
        self.spec, self._count, self._side = f"noise {count}", count, side

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        return f"{index:06d}.png"

    def read(self, index: int):
        return np.random.default_rng(index).integers(0, 256, (self._side, self._side, 3), dtype=np.uint8)

    def label(self, index: int) -> int:
        return index % 2


def read_all(path):
    source = open_source(path)
    return [(source.key(i), source.label(i), source.read(i)) for i in range(len(source))]


def test_a_pack_is_read_as_where_it_came_from(root, tmp_path):
    noise = Noise(7)
    pack_images(noise, f"{root}/images.zarr", shard_size=3)
    packed = open_source(f"{root}/images.zarr")
    assert [packed.key(i) for i in range(7)] == [noise.key(i) for i in range(7)]
    assert all(np.array_equal(packed.read(i), noise.read(i)) for i in range(7))
    assert packed.fingerprint == noise.fingerprint
    pack_images(noise, tmp_path / "images.zarr", shard_size=3)
    assert verify(f"{root}/images.zarr").digest == verify(tmp_path / "images.zarr").digest
    assert len(pickle.loads(pickle.dumps(packed))) == 7
    found, here = describe(f"{root}/images.zarr"), describe(str(tmp_path / "images.zarr"))
    assert {k: v for k, v in found.items() if k not in ("path", "created")} == {
        k: v for k, v in here.items() if k not in ("path", "created")
    }


def test_resume_writes_only_what_is_missing(root):
    place = f"{root}/a.zarr"
    with ArtifactWriter.open(place, manifest()) as writer:
        writer.write(1, columns(range(4, 8)))
        with pytest.raises(ArtifactError, match="lacks 2 of 3"):
            writer.finish()
    with pytest.raises(ArtifactError, match="unfinished: 1 of 3"):
        Artifact.open(place)
    assert verify(place).problems == ("2 of 3 shards are missing; run the command again",)
    with ArtifactWriter.open(place, manifest()) as writer:
        assert writer.pending() == [0, 2]
    write_all(place)
    assert verify(place).problems == ()


def test_another_run_is_refused_and_overwrite_starts_anew(root):
    place = f"{root}/a.zarr"
    write_all(place)
    with pytest.raises(ArtifactMismatch, match=r"seed = 0, this run has 7.*--overwrite") as caught:
        ArtifactWriter.open(place, manifest(seed=7))
    assert place in str(caught.value)
    assert verify(place).problems == ()
    with ArtifactWriter.open(place, manifest(seed=7), overwrite=True) as writer:
        assert writer.pending() == [0, 1, 2]


def test_what_is_not_ours_is_left_alone(root):
    (as_path(root) / "notes" / "a.txt").write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(ArtifactMismatch, match="is not a semaug artifact"):
            ArtifactWriter.open(f"{root}/notes", manifest(), overwrite=overwrite)
    assert (as_path(root) / "notes" / "a.txt").read_bytes() == b"mine"


def test_a_run_whose_artifact_was_begun_anew_stops(root):
    place = f"{root}/a.zarr"
    first = ArtifactWriter.open(place, manifest())
    first.write(0, columns(range(4)))
    ArtifactWriter.open(place, manifest(seed=7), overwrite=True)
    with pytest.raises(ArtifactMismatch, match="begun anew by another run"):
        first.write(1, columns(range(4, 8)))
    write_all(place, seed=7)
    assert verify(place).problems == ()


def test_two_runs_of_one_artifact_agree(root):
    place = f"{root}/a.zarr"
    writers = [ArtifactWriter.open(place, manifest()) for _ in range(2)]
    for shard in range(3):
        for writer in writers:
            writer.write(shard, columns(writer.manifest.shard_range(shard)))
    assert [writer.finish({"note": 1}).manifest.created for writer in writers] == [writers[0].manifest.created] * 2
    assert verify(place).problems == ()


def test_requests_grow_with_shards_and_not_with_images(bucket, server):
    """A guard against reading or writing image by image."""
    asked = {}
    for images, shard_size in ((8, 4), (64, 32), (64, 16)):
        place = f"{bucket}/{images}-{shard_size}.zarr"
        server.clear()
        pack_images(Noise(images), place, shard_size=shard_size)
        wrote = server.methods()
        server.clear()
        read_all(place)
        first = server.methods()
        server.clear()
        read_all(place)
        asked[images, shard_size] = (wrote, first, server.methods())
    assert asked[8, 4] == asked[64, 32]  # two shards each
    wrote, first, again = asked[64, 32]
    more_wrote, more_first, more_again = asked[64, 16]  # four shards
    assert more_wrote["PUT"] - wrote["PUT"] == 2 * 12  # a group, two files of each of five columns, less one, a marker
    assert more_first["GET"] - first["GET"] == 2 * 2  # keys and pixels: other columns are the same in all shards
    assert again == more_again == {"GET": 3}  # the manifest and two listings: all else is on this machine


def kill_at(server, part):
    """Have the store kill -9 whoever writes an object whose name holds ``part``, before it takes the object."""
    killed = []

    def kill(method, path):
        if method == "PUT" and part in path and child is not None and not killed:
            killed.append(path)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()

    child = None

    def run(place):
        nonlocal child
        server.on_request = kill
        code = (
            f"from semaug.artifacts.pack import pack_images; from semaug.artifacts.sources import open_source; "
            f"pack_images(open_source('scenes:train?items=6'), {place!r}, size=8, shard_size=2, format='raw')"
        )
        child = subprocess.Popen([sys.executable, "-c", code])
        try:
            child.wait(120)
        finally:
            server.on_request = None
        assert child.returncode == -signal.SIGKILL
        assert killed

    return run


@pytest.mark.parametrize("part", [
    "shards/000001/pixels/c",
    pytest.param("ledger/000001", marks=pytest.mark.slow),
    pytest.param("a.zarr/zarr.json", marks=pytest.mark.slow),
    pytest.param("costs.json", marks=pytest.mark.slow),
])  # fmt: skip
def test_killed_in_mid_write_and_run_again(bucket, server, tmp_path, part):
    kill_at(server, part)(f"{bucket}/a.zarr")
    options = {"size": 8, "shard_size": 2, "format": "raw"}
    scenes = open_source("scenes:train?items=6")
    pack_images(scenes, f"{bucket}/a.zarr", **options)
    pack_images(scenes, tmp_path / "a.zarr", **options)
    assert verify(f"{bucket}/a.zarr") == replace(verify(tmp_path / "a.zarr"), path=as_path(f"{bucket}/a.zarr"))


def test_a_missing_object_is_named(root):
    place = as_path(f"{root}/a.zarr")
    write_all(place)
    (place / "shards/000001/value/c/0/0").unlink()
    chunk = f"{place}/shards/000001/value/c/0/0"
    assert verify(place).problems == (
        f"shard 1: {chunk} has 0 bytes, 32 expected; make the artifact again with --overwrite",
    )
    with pytest.raises(ArtifactError, match=f"{chunk} has 0 bytes"):
        Artifact.open(place).column("value")
    for name in place.joinpath("shards/000001").find():
        place.filesystem().rm_file(name)
    assert len(verify(place).problems) == 1
    with pytest.raises(ArtifactError, match=r"000001 is missing; run the command"):
        Artifact.open(place).shard(1)
    assert ArtifactWriter.open(place, manifest()).pending() == [1]


def test_an_altered_object_is_noticed(root):
    """By verify whatever it is; by readers as soon as they open the artifact, since the cache goes by the etag."""
    place = as_path(f"{root}/a.zarr")
    write_all(place)
    before = Artifact.open(place).shard(0)["value"].copy()
    chunk = place / "shards/000000/value/c/0/0"
    chunk.write_bytes(np.full_like(before, 5).tobytes())
    assert verify(place).problems == ("shard 0 does not match its digest; make the artifact again with --overwrite",)
    assert (Artifact.open(place).shard(0)["value"] == 5).all()
    chunk.write_bytes(b"short")
    with pytest.raises(ArtifactError, match="has 5 bytes, 32 expected"):
        Artifact.open(place).shard(0)["value"]


def test_an_object_that_changes_after_it_was_listed_is_not_kept(bucket):
    place = as_path(f"{bucket}/a.zarr")
    write_all(place)
    artifact = Artifact.open(place)
    artifact.files.size("anything")  # lists the objects
    chunk = place / "shards/000000/value/c/0/0"
    before = chunk.read_bytes()
    chunk.write_bytes(bytes(len(before)))
    with pytest.raises(ArtifactError, match="was changed while it was read"):
        artifact.shard(0)["value"]
    chunk.write_bytes(before)
    assert Artifact.open(place).shard(0)["value"].tobytes() == before


def test_trouble_with_a_store_is_one_line_with_the_remedy(bucket, server):
    with pytest.raises(StoreError, match=r"there is no bucket 'absent' .*AWS_ENDPOINT_URL"):
        open_source("s3://absent/a.zarr")
    with pytest.raises(StoreError, match="there is no bucket 'absent'"):
        write_all("s3://absent/a.zarr")
    with pytest.raises(ArtifactError, match=r"is not a semaug artifact \(no zarr.json\); check the path"):
        open_source(f"{bucket}/absent.zarr")
    with pytest.raises(SourceError, match="images are read packed"):
        open_source(f"{bucket}/photos")
    with pytest.raises(InvalidOption, match="nosuch:// is no store that fsspec knows"):
        open_source("nosuch://place/a.zarr")
    with pytest.raises(InvalidOption, match="a pattern"):
        open_source(f"{bucket}/*.zarr")


def test_no_credentials(bucket, server, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    forget_connections()
    with pytest.raises(StoreError, match="needs credentials and none were found; set AWS_ACCESS_KEY_ID"):
        open_source(f"{bucket}/a.zarr")
    forget_connections()


def test_a_store_that_does_not_answer_is_given_up(server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with environment(f"http://127.0.0.1:{closed.getsockname()[1]}"):
            started = time.monotonic()
            with pytest.raises(StoreError, match=r"does not answer at http://127.0.0.1:.*check AWS_ENDPOINT_URL"):
                write_all("s3://bucket/a.zarr")
    assert time.monotonic() - started < 60


def in_child(place, queue):
    try:
        queue.put([int(image.sum()) for _, _, image in read_all(place)])
    except BaseException as error:
        queue.put(repr(error))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_children_open_connections_of_their_own(bucket, method):
    place = f"{bucket}/a.zarr"
    pack_images(Noise(4), place, shard_size=2)
    read_all(place)
    pack_images(Noise(6), f"{bucket}/b.zarr", shard_size=2)  # not in the cache
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=in_child, args=(f"{bucket}/b.zarr", queue))
    child.start()
    assert queue.get(timeout=120) == [int(Noise(6).read(i).sum()) for i in range(6)]
    child.join(60)


def used(folder):
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_the_cache_keeps_to_its_limit(bucket, cache, monkeypatch):
    """In order a store of any size is read; at random one that does not fit is refused."""
    noise = Noise(12, side=360)  # 389 kB an image
    pack_images(noise, f"{bucket}/big.zarr", shard_size=1, format="raw")
    monkeypatch.setenv("SEMAUG_CACHE_GB", "0.002")
    source = open_source(f"{bucket}/big.zarr")
    for index in range(12):
        assert np.array_equal(source.read(index), noise.read(index))
        assert used(cache) <= 2_000_000
    with pytest.raises(StoreError, match=r"random order and its 0.0047 GB do not fit .*set SEMAUG_CACHE_GB"):
        require_random_reads(source)
    with pytest.raises(StoreError, match="is read in random order"):
        sum(source.read(index).size for index in (0, 5, 1, 6, 2, 7, 0, 5, 1, 6, 2, 7))
    require_random_reads(Noise(1))
    monkeypatch.setenv("SEMAUG_CACHE_GB", "0.0001")
    with pytest.raises(StoreError, match=r"do not fit into .* are allowed; set SEMAUG_CACHE_GB"):
        open_source(f"{bucket}/big.zarr").read(0)
    monkeypatch.setenv("SEMAUG_CACHE_GB", "much")
    with pytest.raises(InvalidOption, match="SEMAUG_CACHE_GB is 'much'"):
        open_source(f"{bucket}/big.zarr")


def test_the_cache_fetches_once_and_keeps_what_is_in_use(tmp_path):
    cache, fetched = ObjectCache(tmp_path, 1000), []

    def fetch(path):
        fetched.append(path)
        time.sleep(0.05)
        path.write_bytes(b"x" * 400)

    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: cache.open(Wanted("aa01", 400), fetch), range(4)))
    assert len(fetched) == 1
    assert {file.read() for file in files} == {b"x" * 400}
    cache.open(Wanted("bb02", 400), fetch).close()
    kept = cache.open(Wanted("cc03", 400), fetch)  # drops bb02, which nobody has open
    assert cache.lacks([Wanted(n, 400) for n in ("aa01", "bb02", "cc03")]) == [False, True, False]
    with pytest.raises(StoreError, match="are in use"):
        cache.open(Wanted("dd04", 400), fetch)
    for file in (*files, kept):
        file.close()
    cache.open(Wanted("dd04", 400), fetch).close()
    with pytest.raises(StoreError, match="came with 400"):
        cache.open(Wanted("ee05", 300), fetch)
    assert not list((tmp_path / "partial").iterdir())


def test_what_a_killed_process_left_in_the_cache_goes(tmp_path):
    (tmp_path / "partial").mkdir()
    old, new = tmp_path / "partial" / "old", tmp_path / "partial" / "new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    ObjectCache(tmp_path, 1000).open(Wanted("aa01", 3), lambda path: path.write_bytes(b"abc")).close()
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize(("text", "expected"), [
    ("s3://b/k.zarr", "s3://b/k.zarr"),
    (Path("s3://b/k.zarr"), "s3://b/k.zarr"),
    ("memory://a", "memory://a"),
    ("file:///tmp/a.zarr", "/tmp/a.zarr"),
    (Path("file:///tmp/a.zarr"), "/tmp/a.zarr"),
    ("a:b", "a:b"),
    ("hf:/data/x", "hf:/data/x"),
    ("scenes:train?items=2", "scenes:train?items=2"),
    ("/tmp/s3://x", "/tmp/s3:/x"),
])  # fmt: skip
def test_what_is_a_url(text, expected):
    place = as_path(text)
    assert str(place) == expected
    assert isinstance(place, RemotePath) == ("://" in expected)
    assert as_path(Path(place)) == place
    if isinstance(place, RemotePath):
        assert pickle.loads(pickle.dumps(place)) == place
        assert (
            str(place.with_name("x").parent / "y" / "z") == f"{str(place).rpartition('/')[0]}/y/z"
            or place.parent == place
        )


def test_other_verbs_paths_are_no_stores(bucket, tmp_path):
    write_all(f"{bucket}/a.zarr")
    assert not is_table(f"{bucket}/a.zarr")
    require_space(f"{bucket}/x.zarr", 1 << 60, "anything")
