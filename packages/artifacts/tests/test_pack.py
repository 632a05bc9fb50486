import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts import pack
from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, InvalidOption, OutputError, SourceError, WorkerDied
from semaug.artifacts.index import index_source
from semaug.artifacts.pack import pack_images
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import ArraySource, PackedSource, ScenesSource, labels_of, open_source
from semaug.artifacts.testing import READABLE, UNREADABLE, ramp, write_difficult_folder, write_image_folder
from semaug.artifacts.verify import verify


def same(a, b):
    return all(np.array_equal(a.read(i), b.read(i)) for i in range(len(a)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_image_folder(tmp_path_factory.mktemp("images"), 12)


@pytest.mark.parametrize("layout", ["raw", "jpeg"])
@pytest.mark.parametrize("side", [None, 40])
def test_pack_keeps_everything(tmp_path, layout, side):
    origin = open_source(write_image_folder(tmp_path / "set", 10, side=side))
    pack_images(origin, tmp_path / "p.zarr", format=layout, shard_size=4)
    packed = open_source(tmp_path / "p.zarr")
    assert isinstance(packed, PackedSource)
    assert same(origin, packed)  # PNG files are kept as they are, so the jpeg layout loses nothing here
    assert [packed.key(i) for i in range(10)] == [origin.key(i) for i in range(10)]
    assert labels_of(packed).tolist() == labels_of(origin).tolist()
    assert (packed.class_names, packed.fingerprint) == (origin.class_names, origin.fingerprint)
    assert verify(tmp_path / "p.zarr").problems == ()


def test_reads_are_copies(tmp_path, folder):
    pack_images(open_source(folder), tmp_path / "p.zarr", format="raw")
    packed = open_source(tmp_path / "p.zarr")
    packed.read(0)[:] = 0
    assert packed.read(0).any()
    with pytest.raises(IndexError):
        packed.read(12)


def test_auto_takes_pixels_where_all_are_small_and_alike(tmp_path, folder):
    alike = open_source(write_image_folder(tmp_path / "alike", 5, side=32))
    assert pack_images(alike, tmp_path / "a.zarr").manifest.config["format"] == "raw"
    assert Artifact.open(tmp_path / "a.zarr").shard(0)["pixels"].shape == (5, 32, 32, 3)
    assert pack_images(open_source(folder), tmp_path / "b.zarr").manifest.config["format"] == "jpeg"
    large = ArraySource(np.zeros((2, 300, 300, 3), np.uint8))
    assert pack_images(large, tmp_path / "c.zarr").manifest.config["format"] == "jpeg"


def test_jpeg_files_are_kept_byte_for_byte(tmp_path):
    (tmp_path / "set").mkdir()
    Image.fromarray(ramp(30, 40)).save(tmp_path / "set" / "a.jpg", quality=30)
    source = open_source(tmp_path / "set")
    pack_images(source, tmp_path / "p.zarr", format="jpeg", quality=95)
    assert open_source(tmp_path / "p.zarr").encoded(0) == (tmp_path / "set" / "a.jpg").read_bytes()


@pytest.mark.parametrize("layout", ["raw", "jpeg"])
def test_size_moves_the_short_side_of_every_image(tmp_path, folder, layout):
    origin = open_source(folder)
    pack_images(origin, tmp_path / "p.zarr", size=30, format=layout)
    packed = open_source(tmp_path / "p.zarr")
    for i in range(len(origin)):
        height, width = origin.read(i).shape[:2]
        expected = (round(height * 30 / min(height, width)), round(width * 30 / min(height, width)), 3)
        assert packed.read(i).shape == expected
    assert packed.fingerprint == origin.fingerprint


def test_difficult_files_are_packed_or_listed(tmp_path):
    source = open_source(write_difficult_folder(tmp_path / "zoo"))
    summary = pack_images(source, tmp_path / "p.zarr", shard_size=3)
    assert sorted(s.key for s in summary.skipped) == sorted(UNREADABLE)
    packed = open_source(tmp_path / "p.zarr")
    assert sorted(packed.key(i) for i in range(len(packed))) == sorted(READABLE)
    by_key = {source.key(i): i for i in range(len(source))}
    assert all(np.array_equal(packed.read(i), source.read(by_key[packed.key(i)])) for i in range(len(packed)))
    assert len((tmp_path / "p.zarr" / "skipped.csv").read_text().splitlines()) == len(UNREADABLE) + 1


def test_a_shard_of_nothing_but_unreadable_files(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    Image.fromarray(ramp(8, 8)).save(tmp_path / "d.png")
    pack_images(open_source(tmp_path), tmp_path / "p.zarr", shard_size=2, format="raw")
    packed = open_source(tmp_path / "p.zarr")
    assert [packed.key(i) for i in range(len(packed))] == ["d.png"]
    assert packed.read(0).shape == (8, 8, 3)


def test_one_image_only(tmp_path):
    pack_images(ArraySource(ramp(9, 7)[None]), tmp_path / "p.zarr")
    assert np.array_equal(open_source(tmp_path / "p.zarr").read(0), ramp(9, 7))


def test_packing_a_pack_keeps_the_first_fingerprint(tmp_path, folder):
    origin = open_source(folder)
    pack_images(origin, tmp_path / "p.zarr", size=40, format="raw")
    pack_images(open_source(tmp_path / "p.zarr"), tmp_path / "q.zarr", size=20)
    assert open_source(tmp_path / "q.zarr").fingerprint == origin.fingerprint


@pytest.mark.parametrize(("options", "message"), [
    ({"size": 0}, "size 0"), ({"format": "webp"}, "'webp' is none of auto"), ({"quality": 101}, "quality 101"),
    ({"shard_size": 0}, "shard size 0"),
])  # fmt: skip
def test_options_are_checked(tmp_path, folder, options, message):
    with pytest.raises(InvalidOption, match=message):
        pack_images(open_source(folder), tmp_path / "p.zarr", **options)
    assert not (tmp_path / "p.zarr").exists()


def test_another_size_is_refused(tmp_path, folder):
    pack_images(open_source(folder), tmp_path / "p.zarr", size=20)
    with pytest.raises(ArtifactMismatch, match=r"config\.size = 20, this run has 30"):
        pack_images(open_source(folder), tmp_path / "p.zarr", size=30)


def test_space_is_estimated_before_writing(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10_000})()
    monkeypatch.setattr("semaug.artifacts.files.shutil.disk_usage", lambda _: usage)
    images = ArraySource(np.zeros((40, 32, 32, 3), np.uint8))
    with pytest.raises(OutputError, match=r"packing 40 images needs about 0\.1 MB"):
        pack_images(images, tmp_path / "p.zarr", format="raw")


def test_the_pool_writes_the_same_bytes(tmp_path):
    source = ScenesSource("train", 40)
    events = []
    here = pack_images(source, tmp_path / "a.zarr", shard_size=8, size=48, on_progress=events.append)
    there_events = []
    pack_images(source, tmp_path / "b.zarr", shard_size=8, size=48, workers=2, on_progress=there_events.append)
    assert here.manifest.shards == 5
    assert verify(tmp_path / "a.zarr").digest == verify(tmp_path / "b.zarr").digest
    for file in (tmp_path / "a.zarr" / "shards").rglob("*"):
        twin = tmp_path / "b.zarr" / file.relative_to(tmp_path / "a.zarr")
        assert file.is_dir() or file.read_bytes() == twin.read_bytes()
    for ticks in (events, there_events):
        assert [e.done for e in ticks] == sorted(e.done for e in ticks)
        assert (ticks[0].done, ticks[-1].done, ticks[-1].total) == (0, 40, 40)


def test_a_worker_that_is_killed_is_named_and_the_rerun_resumes(tmp_path):
    source = ScenesSource("train", 120)

    def kill_one(event):
        if event.done >= 16:
            for child in multiprocessing.active_children()[:1]:
                os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(WorkerDied, match="fewer --workers, it resumes"):
        pack_images(source, tmp_path / "a.zarr", shard_size=8, workers=2, on_progress=kill_one)
    pack_images(source, tmp_path / "a.zarr", shard_size=8)
    pack_images(source, tmp_path / "b.zarr", shard_size=8)
    assert verify(tmp_path / "a.zarr") == replace(verify(tmp_path / "b.zarr"), path=tmp_path / "a.zarr")


CHILD = """
import resource, sys
from semaug.artifacts.pack import pack_images
from semaug.artifacts.sources import open_source
if __name__ == "__main__":
    source = open_source(sys.argv[1])
    print("start", flush=True)
    pack_images(source, sys.argv[2], format="raw", shard_size=int(sys.argv[3]), workers=int(sys.argv[4]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "pack_child.py"
    path.write_text(CHILD)
    return path


def start(script, spec, out, shard_size, workers=1):
    command = [sys.executable, str(script), spec, str(out), str(shard_size), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_runs(script, tmp_path, kills, workers):
    """Kill packs at random moments, rerun each; returns how many were cut off in the middle."""
    spec, rng, cut = "scenes:train?items=80&seed=3", random.Random(0), 0
    began = time.perf_counter()
    pack_images(open_source(spec), tmp_path / "whole.zarr", format="raw", shard_size=4)
    whole, duration = verify(tmp_path / "whole.zarr"), time.perf_counter() - began
    for number in range(kills):
        out = tmp_path / f"{number}.zarr"
        with start(script, spec, out, 4, workers) as child:
            assert child.stdout.readline() == "start\n"
            time.sleep(rng.uniform(0, duration * (1.5 if workers > 1 else 0.9)))
            child.kill()
        done = len(list(out.glob("ledger/*.json")))
        cut += done < 20
        summary = pack_images(open_source(spec), out, format="raw", shard_size=4)
        assert verify(out) == replace(whole, path=out)
        assert summary.skipped == ()
        assert not list(out.rglob("*.partial"))
    return cut


def test_a_kill_at_any_moment_loses_nothing(script, tmp_path):
    assert killed_runs(script, tmp_path, 5, 1) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_twenty_kills_lose_nothing(script, tmp_path, workers):
    assert killed_runs(script, tmp_path, 20, workers) >= 8


def test_memory_does_not_grow_with_the_images(script, tmp_path):
    peaks = []
    for items in (60, 300):
        with start(script, f"scenes:train?items={items}", tmp_path / f"{items}.zarr", 16) as child:
            peaks.append(int(child.communicate()[0].splitlines()[1]) / 1024)
    written = sum(p.stat().st_size for p in (tmp_path / "300.zarr").rglob("0")) / 2**20
    assert written > 17
    assert peaks[1] - peaks[0] < 9  # MiB


def test_index_gives_the_folder_with_its_fingerprint(tmp_path, folder):
    source = open_source(folder)
    summary = index_source(source, tmp_path / "i.zarr", workers=2)
    index = open_source(tmp_path / "i.zarr")
    assert "fingerprint" in index.__dict__  # nothing is read to know it
    assert index.fingerprint == source.fingerprint == summary.manifest.info["fingerprint"]
    assert same(index, source)
    assert [index.key(i) for i in range(12)] == [source.key(i) for i in range(12)]
    assert labels_of(index).tolist() == labels_of(source).tolist()
    assert index.class_names == source.class_names
    sizes = Artifact.open(tmp_path / "i.zarr").column("size").tolist()
    assert sizes == [list(source.read(i).shape[:2]) for i in range(12)]


def test_index_lists_what_cannot_be_read_and_keeps_it(tmp_path):
    source = open_source(write_difficult_folder(tmp_path / "zoo"))
    summary = index_source(source, tmp_path / "i.zarr")
    assert sorted(s.key for s in summary.skipped) == sorted(UNREADABLE)
    index = open_source(tmp_path / "i.zarr")
    assert len(index) == len(source)
    assert index.fingerprint == source.fingerprint


def test_a_file_that_changed_since_the_index_is_refused(tmp_path):
    write_image_folder(tmp_path / "set", 4)
    index_source(open_source(tmp_path / "set"), tmp_path / "i.zarr")
    index = open_source(tmp_path / "i.zarr")
    (tmp_path / "set" / index.key(0)).write_bytes(b"shorter")
    with pytest.raises(SourceError, match=r"7 bytes, .* when it was indexed"):
        index.read(0)
    with pytest.raises(ArtifactMismatch, match="listing"):
        index_source(open_source(tmp_path / "set"), tmp_path / "i.zarr")


def test_an_index_whose_folder_is_gone_says_so(tmp_path):
    write_image_folder(tmp_path / "set", 4)
    index_source(open_source(tmp_path / "set"), tmp_path / "i.zarr")
    (tmp_path / "set").rename(tmp_path / "moved")
    with pytest.raises(SourceError, match="is not there"):
        open_source(tmp_path / "i.zarr")


def test_scenes_can_be_indexed(tmp_path):
    index_source(ScenesSource("test", 7), tmp_path / "i.zarr")
    index = open_source(tmp_path / "i.zarr")
    assert same(index, ScenesSource("test", 7))


def test_other_artifacts_hold_no_images(tmp_path, folder):
    from semaug.artifacts.ragged import pack_strings
    from semaug.artifacts.schemas import Manifest
    from semaug.artifacts.store import ArtifactWriter

    with ArtifactWriter.open(tmp_path / "q.zarr", Manifest(kind="quality", items=1, shard_size=1)) as writer:
        writer.write(0, pack_strings("key", ["a"]))
        writer.finish()
    with pytest.raises(ArtifactError, match="quality artifact and holds no images"):
        open_source(tmp_path / "q.zarr")


def test_estimates_are_near_what_is_written(tmp_path, folder):
    plan = pack._plan(open_source(folder), 40, "jpeg", 90)
    pack_images(open_source(folder), tmp_path / "p.zarr", size=40, format="jpeg", quality=90)
    written = Artifact.open(tmp_path / "p.zarr").shard(0)["encoded"].nbytes
    assert written == pytest.approx(plan.item_bytes * 12, rel=0.05)
    costs = json.loads(Path(tmp_path / "p.zarr" / "costs.json").read_text())
    assert costs["seconds"] > 0
    assert costs["peak_memory"] > 10**7
