"""The command line on artifacts in an S3 store: what comes out is what comes out on a disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto", reason="needs moto[server], a development dependency")

from semaug.artifacts.testing_s3 import s3_store

IMAGES = "scenes:train?items=12"
PACK = ("--size", "48", "--shard-size", "4", "--format", "raw")


@pytest.fixture(scope="module")
def store():
    with s3_store() as server:
        yield server


@pytest.fixture(autouse=True)
def bucket(store, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMAUG_CACHE", str(tmp_path / "cache"))
    store.clear()
    return f"s3://bucket/{tmp_path.name}"


def done(semaug, *words):
    found = semaug(*words)
    assert found.code == 0, found.err
    return found


def digest(semaug, path):
    found = done(semaug, "data", "verify", path, "--json").json
    assert found["ok"]
    return found["digest"]


def test_what_belongs_on_a_disk_is_refused_a_url(semaug, bucket, tmp_path):
    found = semaug("pretrain", "simclr", IMAGES, "--out", f"{bucket}/run")
    assert found.code == 2
    assert f"{bucket}/run is in an object store, which takes artifacts alone" in found.err
    found = semaug("views", "materialize", IMAGES, "--guidance", "s3://bucket/g.zarr", "--out", f"{bucket}/crops")
    assert found.code == 2
    assert not list(Path().glob("s3:*"))


def test_trouble_is_one_line(semaug, bucket):
    assert semaug("data", "verify", "s3://absent/a.zarr").refuses("no bucket 'absent'", "AWS_ENDPOINT_URL")
    assert semaug("data", "verify", f"{bucket}/a.zarr").refuses("is not a semaug artifact", "check the path")
    assert semaug("data", "info", f"{bucket}/photos").refuses("is not a semaug artifact")


def test_pack_and_verify(semaug, bucket, tmp_path):
    for root in (bucket, tmp_path):
        done(semaug, "data", "pack", "scenes:train?items=6", "--out", f"{root}/images.zarr", *PACK)
    assert digest(semaug, f"{bucket}/images.zarr") == digest(semaug, tmp_path / "images.zarr")
    described = done(semaug, "data", "info", f"{bucket}/images.zarr", "--json").json
    assert described["path"] == f"{bucket}/images.zarr"
    assert semaug("data", "pack", "scenes:train?items=7", "--out", f"{bucket}/images.zarr", *PACK).refuses(
        f"{bucket}/images.zarr was made with", "--overwrite"
    )


def chain(semaug, root, run, *how):
    """Pack, score, extract, propose, train, embed; the digests of all."""
    images, out = f"{root}/images.zarr", {n: f"{root}/{n}.zarr" for n in ("quality", "guidance", "pairs", "features")}
    done(semaug, *how, "data", "pack", IMAGES, "--out", images, *PACK)
    done(semaug, *how, "quality", "score", images, "--out", out["quality"], "--shard-size", "4")
    done(
        semaug, *how, "guide", "extract", images, "--quality", out["quality"], "--out", out["guidance"],
        "--shard-size", "4",
    )  # fmt: skip
    done(semaug, *how, "pairs", "propose", images, "--guidance", out["guidance"], "--out", out["pairs"])
    done(
        semaug, "pretrain", "simclr", images, "--pairs", "guided", "--guidance", out["guidance"], "--backbone",
        "small-cnn", "--size", "32", "--batch-size", "4", "--steps", "3", "--threads", "1", "--out", run,
    )  # fmt: skip
    done(semaug, "eval", "embed", run, "--images", images, "--out", out["features"])
    return {name: digest(semaug, path) for name, path in {"images": images, **out, "run": run}.items()}


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_the_whole_way_gives_what_a_disk_gives(semaug, bucket, tmp_path, how):
    there = chain(semaug, bucket, tmp_path / "there", *how)
    assert there == chain(semaug, tmp_path, tmp_path / "here")


def command(*words):
    """Run a command in a process of its own, which ends what Ray started."""
    code = "from semaug.cli.main import main; main()"
    ended = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_ray_actors_write_into_a_store(semaug, bucket, tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    how = ("--shard-size", "4", "--engine", "ray", "--workers", "2")
    done(semaug, "data", "pack", IMAGES, "--out", f"{bucket}/images.zarr", *PACK)
    command("guide", "extract", f"{bucket}/images.zarr", "--out", f"{bucket}/ray.zarr", *how)
    done(semaug, "guide", "extract", f"{bucket}/images.zarr", "--out", tmp_path / "g.zarr", "--shard-size", "4")
    assert digest(semaug, f"{bucket}/ray.zarr") == digest(semaug, tmp_path / "g.zarr")
