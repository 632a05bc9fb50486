"""Scoring a source into an artifact, reading it, and scoring anew without images."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from semaug.artifacts.errors import ArtifactError, ArtifactMismatch
from semaug.artifacts.pack import pack_images
from semaug.artifacts.sources import ArraySource, open_source
from semaug.artifacts.verify import verify
from semaug.quality_policy import (
    QualityTable,
    Scoring,
    SoftPolicy,
    ThresholdPolicy,
    Weights,
    image_statistics,
    quality_report,
    score_source,
    write_csv,
)
from semaug.quality_policy.table import ScoreWork

DATASET = Scoring(resolution="dataset", clarity="dataset", diversity="dataset")


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 1 + 25 * (i + 1), (60 + 10 * i, 80, 3), dtype=np.uint8) for i in range(10)]


@pytest.fixture
def source(images):
    return ArraySource(images)


def test_table_equals_scoring_each_image(images, source, tmp_path):
    summary = score_source(source, tmp_path / "q.zarr", shard_size=3)
    table = QualityTable.open(tmp_path / "q.zarr")
    assert summary.manifest.shards == 4
    assert list(table.keys) == [source.key(i) for i in range(len(images))]
    for i, image in enumerate(images):
        assert table.get(source.key(i)) == Scoring().score(image_statistics(image))
    assert table.get("absent.jpg") is None
    assert verify(tmp_path / "q.zarr").problems == ()
    table.require_source(source)
    with pytest.raises(ArtifactError, match="semaug quality score"):
        table.require_source(ArraySource([images[0]]))


def test_workers_and_shards_do_not_change_the_scores(images, tmp_path):
    from PIL import Image

    for i, image in enumerate(images[:6]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    folder = open_source(tmp_path)
    alone = score_source(folder, tmp_path.parent / "a.zarr", shard_size=2, workers=1)
    pool = score_source(folder, tmp_path.parent / "b.zarr", shard_size=2, workers=2)
    assert QualityTable.open(alone.path).digest == QualityTable.open(pool.path).digest


def test_rescoring_equals_scoring_anew_and_reads_no_image(source, tmp_path, monkeypatch):
    other = Scoring(Weights(0.2, 0.4, 0.4), "lin224", "log1e4", entropy_floor=2.0)
    score_source(source, tmp_path / "a.zarr")
    score_source(source, tmp_path / "b.zarr", scoring=other)
    monkeypatch.setattr(ArraySource, "read", lambda *_: pytest.fail("an image was read"))
    again = QualityTable.open(tmp_path / "a.zarr").rescored(other)
    anew = QualityTable.open(tmp_path / "b.zarr")
    np.testing.assert_array_equal(again.components.quality, anew.components.quality)
    assert not np.array_equal(again.components.quality, QualityTable.open(tmp_path / "a.zarr").components.quality)


def test_dataset_ranges_are_stored_and_used(source, tmp_path):
    summary = score_source(source, tmp_path / "q.zarr", scoring=DATASET, shard_size=4)
    table = QualityTable.open(tmp_path / "q.zarr")
    ranges = summary.manifest.info["ranges"]
    assert ranges["clarity"] == list(np.percentile(table.raw.laplacian_variance, [5, 95]))
    assert table.scoring.ranges["clarity"].low == ranges["clarity"][0]
    assert table.components.quality.min() >= 0
    assert table.components.clarity.max() == 1.0
    absolute = score_source(source, tmp_path / "abs.zarr")
    again = QualityTable.open(absolute.path).rescored(DATASET)
    np.testing.assert_allclose(again.components.quality, table.components.quality, rtol=1e-12)


def test_another_scoring_is_refused_and_overwrite_starts_anew(source, tmp_path):
    score_source(source, tmp_path / "q.zarr")
    with pytest.raises(ArtifactMismatch, match="scoring"):
        score_source(source, tmp_path / "q.zarr", scoring=DATASET)
    score_source(source, tmp_path / "q.zarr", scoring=DATASET, overwrite=True)
    assert QualityTable.open(tmp_path / "q.zarr").scoring.clarity == "dataset"


def test_a_stopped_run_resumes_to_the_same_digest(source, tmp_path, monkeypatch):
    whole = score_source(source, tmp_path / "whole.zarr", shard_size=3)
    run = ScoreWork.run

    def stop_at_the_third(self, indices, tick):
        if indices.start == 6:
            raise KeyboardInterrupt
        return run(self, indices, tick)

    monkeypatch.setattr(ScoreWork, "run", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        score_source(source, tmp_path / "q.zarr", shard_size=3)
    done = []
    monkeypatch.setattr(ScoreWork, "run", lambda self, i, t: (done.append(i.start), run(self, i, t))[1])
    score_source(source, tmp_path / "q.zarr", shard_size=3)
    assert done == [6, 9]
    assert QualityTable.open(tmp_path / "q.zarr").digest == QualityTable.open(whole.path).digest


def test_unreadable_images_are_skipped_and_counted(images, tmp_path):
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(images[:3]):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"not an image")
    summary = score_source(open_source(folder), tmp_path / "q.zarr")
    report = quality_report(QualityTable.open(tmp_path / "q.zarr"), ThresholdPolicy())
    assert [s.key for s in summary.skipped] == ["bad.png"]
    assert (report["n"], report["skipped"]) == (3, 1)
    assert sum(report["routing"].values()) == 3


def test_only_unreadable_images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"")
    score_source(open_source(folder), tmp_path / "q.zarr", scoring=DATASET)
    report = quality_report(QualityTable.open(tmp_path / "q.zarr"), ThresholdPolicy())
    assert report["n"] == 0
    assert report["routing"] == {"object": 0, "pixel": 0, "hybrid": 0}


def test_report_and_csv_agree_with_the_table(source, tmp_path):
    score_source(source, tmp_path / "q.zarr")
    table, policy = QualityTable.open(tmp_path / "q.zarr"), SoftPolicy(seed=1)
    report = quality_report(table, policy)
    assert report["quantiles"]["quality"]["0.5"] == float(np.median(table.components.quality))
    text = io.StringIO()
    write_csv(table, policy, text)
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [row["key"] for row in rows] == list(table.keys)
    assert [float(row["quality"]) for row in rows] == table.components.quality.tolist()
    assert [row["route"] for row in rows] == table.routes(policy)
    assert {s: [row["route"] for row in rows].count(s) for s in report["routing"]} == report["routing"]


def test_scores_of_a_resized_pack_do_not_pass_for_those_of_the_originals(source, tmp_path):
    for name, size in (("same", None), ("small", 16)):
        pack_images(source, tmp_path / f"{name}.zarr", size=size, format="raw")
    pack_images(open_source(tmp_path / "small.zarr"), tmp_path / "again.zarr", format="raw")
    same, small, again = (open_source(tmp_path / f"{name}.zarr") for name in ("same", "small", "again"))
    score_source(small, tmp_path / "q.zarr")
    table = QualityTable.open(tmp_path / "q.zarr")
    table.require_source(small)
    table.require_source(again)
    for other in (source, same):
        with pytest.raises(ArtifactError, match="resized to"):
            table.require_source(other)
        with pytest.raises(ArtifactMismatch, match=r"inputs\.pixels"):
            score_source(other, tmp_path / "q.zarr")
    score_source(source, tmp_path / "whole.zarr")
    QualityTable.open(tmp_path / "whole.zarr").require_source(same)
