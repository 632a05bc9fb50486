import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from pydantic import ValidationError

from semaug.artifacts import local_place, reader
from semaug.artifacts.errors import ArtifactError, ArtifactLocked, ArtifactMismatch, OutputError
from semaug.artifacts.files import require_space, write_atomic
from semaug.artifacts.ragged import pack_arrays, pack_strings
from semaug.artifacts.reader import Artifact, read_manifest
from semaug.artifacts.schemas import Manifest, ShardCosts, Skipped
from semaug.artifacts.store import ArtifactWriter
from semaug.artifacts.verify import verify


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


@pytest.fixture
def made(tmp_path):
    write_all(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def damage(path, position=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_is_written_is_read(made):
    artifact = Artifact.open(made, "features")
    assert artifact.keys == [f"k{i}" for i in range(10)]
    assert artifact.column("value").tolist() == [[i, i * i] for i in range(10)]
    assert artifact.column("flag").tolist() == [i % 2 == 0 for i in range(10)]
    assert artifact.column("nothing").shape == (10, 0)
    shard = artifact.shard(1)
    assert isinstance(shard["value"], np.memmap)
    assert set(shard) == set(columns(range(4)))
    with pytest.raises(KeyError):
        shard["absent"]


def test_zarr_reads_it_too(made):
    group = zarr.open_group(made, mode="r")
    assert group["shards/000002/value"][:].tolist() == [[8, 64], [9, 81]]
    assert group.attrs["semaug"]["kind"] == "features"


def test_digest_leaves_costs_and_times_out(tmp_path):
    digests = []
    for number in range(2):
        with ArtifactWriter.open(tmp_path / f"{number}.zarr", manifest(info={"spec": str(number)})) as writer:
            for shard in reversed(writer.pending()):
                costs = ShardCosts(seconds=number, peak_memory=number)
                writer.write(shard, columns(writer.manifest.shard_range(shard)), costs=costs)
            writer.finish()
        digests.append(verify(tmp_path / f"{number}.zarr").digest)
    assert digests[0] == digests[1]
    write_all(tmp_path / "other.zarr", seed=1)
    assert verify(tmp_path / "other.zarr").digest != digests[0]


def test_resume_writes_only_what_is_missing(tmp_path):
    path = tmp_path / "a.zarr"
    with ArtifactWriter.open(path, manifest()) as writer:
        writer.write(1, columns(range(4, 8)))
        with pytest.raises(ArtifactError, match="lacks 2 of 3"):
            writer.finish()
    with pytest.raises(ArtifactError, match="unfinished: 1 of 3"):
        Artifact.open(path)
    assert verify(path).problems == ("2 of 3 shards are missing; run the command again",)
    before = (path / "shards/000001/value/zarr.json").stat().st_ino
    with ArtifactWriter.open(path, manifest()) as writer:
        assert writer.pending() == [0, 2]
    write_all(path)
    assert (path / "shards/000001/value/zarr.json").stat().st_ino == before
    assert verify(path).problems == ()


@pytest.mark.parametrize(("change", "message"), [
    ({"config": {"scale": 3, "nested": {"a": (1, 2)}}}, "config.scale = 2, this run has 3"),
    ({"config": {"scale": 2, "nested": {"a": (1, 3)}}}, "config.nested.a"),
    ({"inputs": {"source": "f00"}}, "inputs.source = None, this run has 'f00'"),
    ({"seed": 7}, "seed = 0, this run has 7"),
    ({"kind": "quality"}, "kind = 'features'"),
])  # fmt: skip
def test_another_run_is_refused_naming_the_difference(made, change, message):
    with pytest.raises(ArtifactMismatch, match="--overwrite") as caught:
        ArtifactWriter.open(made, manifest(**change))
    assert message in str(caught.value)
    assert verify(made).problems == ()


def test_overwrite_starts_anew(made):
    with ArtifactWriter.open(made, manifest(seed=1), overwrite=True) as writer:
        assert writer.pending() == [0, 1, 2]
    assert [p.name for p in made.parent.iterdir()] == [made.name]


def test_overwrite_repairs_a_damaged_manifest(made):
    (made / "zarr.json").write_text("{")
    with pytest.raises(ArtifactError, match="--overwrite"):
        ArtifactWriter.open(made, manifest())
    with ArtifactWriter.open(made, manifest(), overwrite=True) as writer:
        assert len(writer.pending()) == 3


@pytest.mark.parametrize("file", ["zarr.json", "flag/zarr.json", "flag/c/0", "value/c/0/0"])
def test_a_shard_that_was_cut_short_is_made_again(made, file):
    digest, torn = verify(made).digest, made / "shards/000001" / file
    os.truncate(torn, torn.stat().st_size // 2)
    with ArtifactWriter.open(made, manifest()) as writer:
        assert writer.pending() == [1]
    write_all(made)
    assert verify(made).digest == digest


def test_a_manifest_that_was_cut_short_before_the_first_shard_is_written_again(made, tmp_path):
    with ArtifactWriter.open(tmp_path / "begun.zarr", manifest()):
        pass
    for path in (tmp_path / "begun.zarr", tmp_path / "only.zarr"):
        path.mkdir(exist_ok=True)
        (path / "zarr.json").write_text("")
        write_all(path)
        assert verify(path).digest == verify(made).digest


@pytest.mark.parametrize("name", ["folder", "other.zarr"])
def test_what_is_not_ours_is_never_removed(tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    if name.endswith(".zarr"):
        zarr.create_group(path, zarr_format=3, attributes={"mine": 1})
    (path / "precious.txt").write_text("x")
    with pytest.raises(ArtifactMismatch, match="not a semaug artifact"):
        ArtifactWriter.open(path, manifest(), overwrite=True)
    assert (path / "precious.txt").exists()


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "a.zarr"
    with ArtifactWriter.open(path, manifest()) as writer:
        for overwrite in (False, True):
            with pytest.raises(ArtifactLocked, match="another process"):
                ArtifactWriter.open(path, manifest(), overwrite=overwrite)
        assert writer.pending() == [0, 1, 2]
    write_all(path)


def test_leftovers_of_a_kill_are_removed(tmp_path):
    path = tmp_path / "a.zarr"
    with ArtifactWriter.open(path, manifest()) as writer:
        writer.write(0, columns(range(4)))
    torn = path / "shards" / "000001.0123.partial"
    shutil.copytree(path / "shards" / "000000", torn)
    shutil.copytree(path / "shards" / "000000", path / "shards" / "000002")  # whole, but without its marker
    for name in ("zarr.01.partial", "ledger/.000001.json.9.partial"):
        (path / name).write_text("{")
    (tmp_path / ".a.zarr.0123.trash").mkdir()
    write_all(path)
    assert verify(path).problems == ()
    assert Artifact.open(path).keys == [f"k{i}" for i in range(10)]
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".partial", ".trash")]


def test_a_folder_with_leftovers_only_is_resumed(tmp_path):
    """Killed between making the folder and writing its manifest."""
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".lock").touch()
    (tmp_path / "a.zarr" / "zarr.01.partial").touch()
    assert write_all(tmp_path / "a.zarr").manifest.items == 10


@pytest.mark.parametrize(("victim", "message"), [
    ("shards/000001/value/c/0/0", "shard 1 does not match its digest"),
    ("shards/000001/key/c/0", "shard 1 does not match its digest"),
])  # fmt: skip
def test_verify_sees_one_changed_bit(made, victim, message):
    damage(made / victim)
    assert message in verify(made).problems[0]


def test_verify_sees_a_short_and_a_missing_file(made):
    chunk = made / "shards/000000/value/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    shutil.rmtree(made / "shards/000002")
    short, missing = verify(made).problems
    assert "has 31 bytes, 32 expected" in short
    assert "000002 is missing" in missing
    with pytest.raises(ArtifactError, match="31 bytes"):
        Artifact.open(made).column("value")


def test_verify_sees_an_added_column(made):
    shutil.copytree(made / "shards/000000/value", made / "shards/000000/extra")
    assert "shard 0" in verify(made).problems[0]


def test_a_shard_whose_data_or_marker_is_lost_is_made_again(made):
    digest = verify(made).digest
    shutil.rmtree(made / "shards/000000")
    (made / "ledger/000001.json").write_text("{")
    with pytest.raises(ArtifactError, match="marker"):
        Artifact.open(made)
    with ArtifactWriter.open(made, manifest()) as writer:
        assert writer.pending() == [0, 1]
    write_all(made)
    assert verify(made).digest == digest


@pytest.mark.parametrize("text", ["", "{", "[]", '{"attributes": {}}', '{"attributes": {"semaug": 3}}'])
def test_damaged_manifests_are_one_line(made, text):
    (made / "zarr.json").write_text(text)
    with pytest.raises(ArtifactError, match="no semaug manifest") as caught:
        read_manifest(made)
    assert "\n" not in str(caught.value)


def change_manifest(path, **changes):
    meta = json.loads((path / "zarr.json").read_text())
    meta["attributes"]["semaug"] |= changes
    (path / "zarr.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(("changes", "message"), [
    ({"items": -1}, "damaged at items"),
    ({"surprise": 1}, "damaged at surprise"),
    ({"schema_version": 99}, "version 99, this semaug reads 1; upgrade"),
    ({"schema_version": 0}, "version 0, this semaug reads 1; run the command that made it again"),
    ({"schema_version": "x"}, "damaged at schema_version"),
])  # fmt: skip
def test_manifests_that_are_refused(made, changes, message):
    change_manifest(made, **changes)
    with pytest.raises(ArtifactError, match=message):
        Artifact.open(made)


def test_older_manifests_are_migrated_on_read(made, monkeypatch):
    monkeypatch.setattr(reader, "SCHEMA_VERSION", 3)
    monkeypatch.setitem(reader.MIGRATIONS, 1, lambda raw: raw | {"seed": raw["seed"] + 10})
    monkeypatch.setitem(reader.MIGRATIONS, 2, lambda raw: raw | {"seed": raw["seed"] * 2})
    assert (read_manifest(made).seed, read_manifest(made).schema_version) == (20, 3)


def test_another_kind_is_refused(made):
    with pytest.raises(ArtifactError, match="is a features artifact, a guidance artifact is needed"):
        Artifact.open(made, "guidance")


def test_skips_and_costs_are_listed(tmp_path):
    path = tmp_path / "a.zarr"
    with ArtifactWriter.open(path, manifest(items=4)) as writer:
        skips = [Skipped(key='odd, "name".jpg', reason="cannot be decoded: x")]
        writer.write(0, columns([0, 1, 2]), skipped=skips, costs=ShardCosts(seconds=2.0, peak_memory=5))
        summary = writer.finish({"note": "x"})
    assert (summary.costs.seconds_per_1000, summary.costs.peak_memory) == (500.0, 5)
    text = (path / "skipped.csv").read_text()
    assert text.splitlines() == ["key,reason", '"odd, ""name"".jpg",cannot be decoded: x']
    assert json.loads((path / "costs.json").read_text())["images"] == 4
    assert read_manifest(path).info == {"note": "x"}


def test_no_items_is_an_artifact_too(tmp_path):
    assert write_all(tmp_path / "a.zarr", items=0).costs.images == 0
    assert Artifact.open(tmp_path / "a.zarr").keys == []
    assert verify(tmp_path / "a.zarr").problems == ()


def test_schemas_are_strict():
    with pytest.raises(ValidationError, match="extra"):
        Manifest.model_validate({"kind": "index", "items": 1, "shard_size": 1, "colour": "red"})
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        manifest(shard_size=0)


def test_an_output_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        ArtifactWriter.open(tmp_path / "file" / "a.zarr", manifest())
    with pytest.raises(ArtifactMismatch, match="is a file"):
        ArtifactWriter.open(tmp_path / "file", manifest())


def test_a_folder_without_permission_cannot_be_written(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission denied"):
        ArtifactWriter.open(tmp_path / "a.zarr", manifest())


@pytest.mark.parametrize("place", ["write_columns", "write_atomic"])
def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch, place):
    """The system's error, raised where data or marker is written: shards that were done stay, the rerun resumes."""
    path = tmp_path / "a.zarr"
    with ArtifactWriter.open(path, manifest()) as writer:
        writer.write(0, columns(range(4)))

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            if place == "write_atomic":
                patch.setattr("semaug.artifacts.files.os.replace", full)
            else:
                patch.setattr(local_place, place, full)
            with pytest.raises(OutputError, match=r"no space left while writing .* it resumes"):
                writer.write(1, columns(range(4, 8)))
        assert writer.pending() == [1, 2]
    write_all(path)
    assert verify(path).problems == ()


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_really_full_disk(small_disk):
    path = small_disk / "a.zarr"
    big = {**columns(range(4)), "big": np.ones((4, 100_000), np.uint8)}
    with ArtifactWriter.open(path, manifest()) as writer:
        writer.write(0, big)
        writer.write(1, {**big, **pack_strings("key", ["a", "b", "c", "d"])})
        with pytest.raises(OutputError, match="no space left"):
            writer.write(2, big)
        assert writer.pending() == [2]
    assert verify(path).problems == ("1 of 3 shards are missing; run the command again",)


def test_space_is_checked_before(tmp_path):
    require_space(tmp_path / "not" / "yet", 1, "packing")
    with pytest.raises(OutputError, match=r"packing needs about 1,000,000,000,000\.0 MB"):
        require_space(tmp_path / "not" / "yet", 10**18, "packing")


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def lacking(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(local_place.fcntl, "flock", lacking)
    write_all(tmp_path / "a.zarr")
    assert verify(tmp_path / "a.zarr").problems == ()


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    monkeypatch.setattr("semaug.artifacts.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(OutputError):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_verify_checks_files_beside_the_artifact(tmp_path):
    from semaug.artifacts.files import hash_file

    (tmp_path / "crop.png").write_bytes(b"pixels")
    rows = {
        **pack_strings("key", ["a"]),
        **pack_strings("file", ["crop.png"]),
        **pack_strings("file_hash", [hash_file(tmp_path / "crop.png")]),
    }
    with ArtifactWriter.open(tmp_path / "metadata.zarr", manifest(kind="materialized", items=1)) as writer:
        writer.write(0, rows)
        writer.finish()
    assert verify(tmp_path).problems == ()
    (tmp_path / "crop.png").write_bytes(b"Pixels")
    assert "has changed" in verify(tmp_path).problems[0]
    Path(tmp_path / "crop.png").unlink()
    assert "is missing" in verify(tmp_path).problems[0]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
def test_peak_memory_leaves_out_the_process_that_started_this_one() -> None:

    ballast = np.ones(600_000_000, np.uint8)
    code = "import semaug.artifacts.shards as shards; print(shards.peak_memory())"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 10_000_000 < peak < ballast.nbytes
