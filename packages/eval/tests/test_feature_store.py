"""Features on the disk: the same numbers as in memory, resumed after a kill, refused where they are others'."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from semaug.artifacts.describe import describe
from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, OutputError, UnreadableImage
from semaug.artifacts.progress import Progress
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import open_source
from semaug.artifacts.sources.array import ArraySource
from semaug.artifacts.verify import verify
from semaug.eval.errors import EvaluationError
from semaug.eval.feature_store import (
    FeatureWork,
    copy_features,
    export_npy,
    export_parquet,
    labels_digest,
    open_features,
    write_features,
)
from semaug.eval.features import Preparation, embed

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SCENES = "scenes:train?items=70"


def encode(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pooled = torch.nn.functional.adaptive_avg_pool2d(batch, 3).flatten(1)
    return pooled, batch.mean((2, 3))


def work(encoder: str = "digest", size: int = 32) -> FeatureWork:
    return FeatureWork(encode, encoder, Preparation.of(size, MEAN, STD), 27, 3)


class Broken(ArraySource):
    """Every third image cannot be decoded."""

    spec = "photographs"

    @property
    def fingerprint(self) -> str:
        return "of the files"

    def read(self, index: int) -> np.ndarray:
        if index % 3 == 0:
            raise UnreadableImage(f"{index}: truncated")
        return super().read(index)


def pictures(count: int, side: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("shard_size", [4096, 16])
def test_what_is_read_back_is_what_embedding_gives(tmp_path: Path, shard_size: int) -> None:
    source = open_source(SCENES)
    events: list[Progress] = []
    summary = write_features(
        work(), source, tmp_path / "f.zarr", shard_size=shard_size, workers=2, on_progress=events.append
    )
    found, wanted = (
        open_features(tmp_path / "f.zarr", "digest"),
        embed(encode, source, input_size=32, mean=MEAN, std=STD),
    )
    np.testing.assert_allclose(found.features, wanted.features, atol=1e-6)
    np.testing.assert_allclose(found.projections, wanted.projections, atol=1e-6)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    assert (found.keys, found.class_names, found.notes) == (wanted.keys, wanted.class_names, wanted.notes)
    assert events[-1].done == events[-1].total == summary.costs.images == 70
    assert (summary.costs.seconds > 0, summary.costs.peak_memory > 10**7) == (True, True)
    checked = verify(tmp_path / "f.zarr")
    assert (checked.kind, checked.items, checked.problems) == ("features", 70, ())
    assert describe(tmp_path / "f.zarr")["columns"]["feature"] == f"float32 ({min(70, shard_size)}, 27)"


def test_unreadable_images_have_no_row_and_small_ones_a_note(tmp_path: Path) -> None:
    source = Broken(pictures(20), labels=[i % 2 for i in range(20)])
    summary = write_features(work(), source, tmp_path / "f.zarr", shard_size=4)
    found = open_features(tmp_path / "f.zarr")
    assert len(found) == 13
    assert [s.key for s in found.skipped] == [s.key for s in summary.skipped] == [f"{i:06d}" for i in range(0, 20, 3)]
    assert found.labels.tolist() == [i % 2 for i in range(20) if i % 3]
    assert found.notes == ("13 of 13 images are smaller than the encoder's 32 pixels and were enlarged",)
    large = embed(encode, ArraySource(pictures(3, 32)), input_size=32, mean=MEAN, std=STD)
    assert large.notes == ()


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    class Nothing(Broken):
        def read(self, index: int) -> np.ndarray:
            raise UnreadableImage("broken")

    with pytest.raises(EvaluationError, match="none of 4 images of photographs"):
        write_features(work(), Nothing(pictures(4)), tmp_path / "f.zarr")
    with pytest.raises(ArtifactError, match="holds no row"):
        open_features(tmp_path / "f.zarr")


def test_kills_leave_the_undisturbed_digest(tmp_path: Path) -> None:
    """Each process but the last kills itself at its fifth batch; a shard is two batches, and there are six."""
    script = tmp_path / "embed.py"
    script.write_text(f"""
import os, signal, sys
from semaug.artifacts.sources import open_source
from semaug.eval.feature_store import FeatureWork, write_features
from semaug.eval.features import Preparation
source = open_source("scenes:train?items=46")
source.fingerprint
def run(out, left):
    def encode(batch):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch.mean((2, 3)), None
    work = FeatureWork(encode, "digest", Preparation.of(32, {MEAN}, {STD}), 3)
    write_features(work, source, out, shard_size=8, batch_size=4, workers=1)
for out, left in (("whole.zarr", 0), ("killed.zarr", 5), ("killed.zarr", 5), ("killed.zarr", 0)):
    child = os.fork()
    if not child:
        run(out, left)
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    print(ended, len(os.listdir(out + "/ledger")))
""")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    (whole, _), (first, kept), (second, more), (last, _) = (map(int, row.split()) for row in done.stdout.splitlines())
    assert (whole, first, second, last) == (0, 9, 9, 0), done.stderr
    assert 0 < kept < more < 6
    wanted, found = verify(tmp_path / "whole.zarr"), verify(tmp_path / "killed.zarr")
    assert wanted.digest == found.digest
    assert found.problems == ()
    assert not list((tmp_path / "killed.zarr").rglob("*.partial"))


def test_a_rerun_computes_nothing_again(tmp_path: Path) -> None:
    source = open_source(SCENES)
    first = write_features(work(), source, tmp_path / "f.zarr")

    def never(batch: torch.Tensor) -> tuple[torch.Tensor, None]:
        raise AssertionError("embedded again")

    again = FeatureWork(never, "digest", work().preparation, 27, 3)
    assert write_features(again, source, tmp_path / "f.zarr").manifest == first.manifest


@pytest.mark.parametrize(
    ("other", "difference"),
    [(work("another"), "inputs.encoder"), (work(size=24), "config.input_size")],
    ids=["encoder", "preparation"],
)
def test_features_made_otherwise_are_refused(tmp_path: Path, other: FeatureWork, difference: str) -> None:
    source = open_source(SCENES)
    write_features(work(), source, tmp_path / "f.zarr")
    with pytest.raises(ArtifactMismatch, match=difference):
        write_features(other, source, tmp_path / "f.zarr")
    write_features(other, source, tmp_path / "f.zarr", overwrite=True)
    assert len(open_features(tmp_path / "f.zarr", other.encoder)) == 70


def test_another_source_and_other_labels_are_refused(tmp_path: Path) -> None:
    images = pictures(6)
    write_features(work(), ArraySource(images, labels=[0, 1] * 3), tmp_path / "f.zarr")
    with pytest.raises(ArtifactMismatch, match=r"inputs\.labels"):
        write_features(work(), ArraySource(images, labels=[1, 0] * 3), tmp_path / "f.zarr")
    with pytest.raises(ArtifactMismatch, match=r"inputs\.source"):
        write_features(work(), ArraySource(images + 1, labels=[0, 1] * 3), tmp_path / "f.zarr")


def test_labels_of_other_names_are_other_labels() -> None:
    images = pictures(2)
    cats, dogs = (ArraySource(images, labels=[0, 1], class_names=names) for names in (("cat", "dog"), ("dog", "cat")))
    assert labels_digest(cats) != labels_digest(dogs)


def test_another_encoders_features_are_refused_on_reading(tmp_path: Path) -> None:
    write_features(work(), open_source(SCENES), tmp_path / "f.zarr")
    with pytest.raises(ArtifactError, match=r"of the encoder digest, this run's is other; give the images"):
        open_features(tmp_path / "f.zarr", "other")


def test_no_room_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(OutputError, match="needs about"):
        write_features(work(), open_source(SCENES), tmp_path / "f.zarr")


def test_a_copy_has_the_same_digest(tmp_path: Path) -> None:
    write_features(work(), open_source(SCENES), tmp_path / "f.zarr", shard_size=16)
    artifact = Artifact.open(tmp_path / "f.zarr")
    copy_features(artifact, tmp_path / "g.zarr")
    assert verify(tmp_path / "g.zarr").digest == artifact.digest


@pytest.mark.parametrize("layout", ["npy", "parquet"])
def test_twins_hold_the_same(tmp_path: Path, layout: str) -> None:
    source = Broken(pictures(20), labels=[i % 2 for i in range(20)])
    write_features(work(), source, tmp_path / "f.zarr", shard_size=4)
    wanted, out = open_features(tmp_path / "f.zarr"), tmp_path / f"out.{layout}"
    if layout == "npy":
        export_npy(tmp_path / "f.zarr", out)
        found = {name: np.load(out / f"{name}.npy") for name in ("features", "projections", "labels")}
        keys, record = json.loads((out / "keys.json").read_bytes()), json.loads((out / "features.json").read_bytes())
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        export_parquet(tmp_path / "f.zarr", out)
        table = parquet.read_table(out)
        found = {name: np.stack(table[name].to_numpy()) for name in ("features", "projections")}
        found["labels"], keys = table["label"].to_numpy(), table["key"].to_pylist()
        record = json.loads(table.schema.metadata[b"semaug"])
        assert table["class"].to_pylist() == [wanted.class_names[i] for i in wanted.labels]
    np.testing.assert_array_equal(found["features"], wanted.features)
    np.testing.assert_array_equal(found["projections"], wanted.projections)
    np.testing.assert_array_equal(found["labels"], wanted.labels)
    assert tuple(keys) == wanted.keys
    assert (record["encoder"], record["rows"], record["input_size"]) == ("digest", 13, 32)


@pytest.mark.parametrize("layout", ["npy", "parquet"])
def test_twins_are_written_once_and_nothing_else_is_overwritten(tmp_path: Path, layout: str) -> None:
    if layout == "parquet":
        pytest.importorskip("pyarrow")
    export = export_npy if layout == "npy" else export_parquet
    for name, encoder in (("f", "one"), ("g", "two")):
        write_features(work(encoder), ArraySource(pictures(6)), tmp_path / f"{name}.zarr")
    out = export(tmp_path / "f.zarr", tmp_path / "out")
    stamp = out.stat().st_mtime_ns
    assert export(tmp_path / "f.zarr", out).stat().st_mtime_ns == stamp
    with pytest.raises(ArtifactMismatch, match="holds features with digest"):
        export(tmp_path / "g.zarr", out)
    export(tmp_path / "g.zarr", out, overwrite=True)
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ArtifactMismatch, match="holds something else"):
        export(tmp_path / "f.zarr", tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine").read_text() == "precious"
