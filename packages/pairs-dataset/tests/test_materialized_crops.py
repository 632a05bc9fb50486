"""Materialised folders: layout, losslessness, names, resume after kill -9, refusal, skips, and S5's composed crops."""

from __future__ import annotations

import json
import os
import random
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.errors import ArtifactLocked, ArtifactMismatch, UnreadableImage
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.masks import encode_mask
from semaug.artifacts.progress import Progress
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Guidance, QualityScore
from semaug.artifacts.sources import ArraySource
from semaug.artifacts.store import take_lock
from semaug.artifacts.verify import verify
from semaug.pairs_dataset import CropRule, make_pairs, materialize, materialize_crops
from semaug.pairs_dataset.materialize import file_names

SIDE, COUNT = 48, 10


def scene_source() -> ArraySource:
    images = np.random.default_rng(1).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    return ArraySource(images, [f"c{i % 2}/image {i}.jpg" for i in range(COUNT)], [i % 2 for i in range(COUNT)])


def scene_guidance(source: ArraySource) -> GuidanceTable:
    rows = [Guidance(source.key(0), SIDE, SIDE, fallback=True)]
    for i in range(1, COUNT):
        boxes = np.array([[4, 6, 20 + i, 30], [0, 0, 6, 6]], np.float32)
        rows.append(Guidance(source.key(i), SIDE, SIDE, boxes=boxes))
    return GuidanceTable.of(rows, digest="g", source=source.fingerprint)


def test_layout_records_and_pixels(tmp_path) -> None:
    source = scene_source()
    guidance = scene_guidance(source)
    scores = {source.key(3): QualityScore(SIDE, SIDE, 1.0, 2.0, 0.1, 0.2, 0.3, 0.25)}
    summary = materialize_crops(source, guidance, tmp_path / "sdi", quality=scores)
    assert not summary.skipped
    artifact = Artifact.open(tmp_path / "sdi/metadata.zarr", "materialized")
    crops = artifact.column("crop")
    for i in range(COUNT):
        top, left, h, w = crops[i]
        file = tmp_path / f"sdi/train/class{i % 2}/image {i}__sdi.png"
        assert np.array_equal(np.asarray(Image.open(file)), source.read(i)[top : top + h, left : left + w])
        assert (tmp_path / f"sdi/annotated/class{i % 2}/image {i}__sdi.jpg").exists()
    assert artifact.column("copied_whole").tolist() == [True] + [False] * (COUNT - 1)
    assert crops[0].tolist() == [0, 0, SIDE, SIDE]
    assert crops[3].tolist() == [3, 2, 30, 23]  # the larger box, widened by a tenth: 2.1 to 24.9 and 3.6 to 32.4
    assert artifact.column("quality")[3, 0] == np.float32(0.25)
    assert np.isnan(artifact.column("quality")[4]).all()
    report = json.loads((tmp_path / "sdi/report.json").read_text())
    assert (report["written"], report["copied_whole"], report["skipped"]) == (COUNT, 1, 0)
    assert verify(tmp_path / "sdi").problems == ()


def test_running_again_changes_nothing_and_another_setting_is_refused(tmp_path) -> None:
    source = scene_source()
    guidance, out = scene_guidance(source), tmp_path / "sdi"
    materialize_crops(source, guidance, out)
    before = {p: p.stat().st_mtime_ns for p in out.glob("train/*/*")}
    materialize_crops(source, guidance, out)
    assert before == {p: p.stat().st_mtime_ns for p in out.glob("train/*/*")}
    with pytest.raises(ArtifactMismatch, match=r"margin = 0\.1, this run has 0\.3"):
        materialize_crops(source, guidance, out, rule=CropRule(select="largest", margin=0.3))
    materialize_crops(source, guidance, out, rule=CropRule(select="largest", margin=0.3), overwrite=True)
    assert verify(out).problems == ()
    next(out.glob("train/*/*")).write_bytes(b"x")
    assert "has changed" in verify(out).problems[0]


@pytest.mark.parametrize("torn", ["ledger/000001.json", "shards/000001/crop/c/0/0"])
def test_what_a_power_cut_tears_is_made_again(tmp_path, torn) -> None:
    source, out = scene_source(), tmp_path / "sdi"
    materialize_crops(source, scene_guidance(source), out, shard_size=5)
    digest = verify(out).digest
    os.truncate(out / "metadata.zarr" / torn, 7)
    materialize_crops(source, scene_guidance(source), out, shard_size=5)
    assert verify(out).problems == ()
    assert verify(out).digest == digest


def test_overwriting_waits_for_nobody_and_leaves_no_file_of_before(tmp_path) -> None:
    source, out = scene_source(), tmp_path / "sdi"
    guidance = scene_guidance(source)
    materialize_crops(source, guidance, out)
    files = sorted(out.glob("train/*/*"))
    lock = take_lock(out / "metadata.zarr")
    with pytest.raises(ArtifactLocked):
        materialize_crops(source, guidance, out, rule=CropRule(margin=0.3), overwrite=True)
    os.close(lock)
    assert sorted(out.glob("train/*/*")) == files  # of the run that holds the lock
    stale = out / "train" / "gone" / "old__sdi.png"
    stale.parent.mkdir()
    stale.write_bytes(files[0].read_bytes())
    materialize_crops(source, guidance, out, overwrite=True)
    assert not stale.exists()
    assert verify(out).problems == ()


def test_overwriting_that_is_stopped_is_made_up_for(tmp_path, monkeypatch) -> None:
    source, out = scene_source(), tmp_path / "sdi"
    guidance = scene_guidance(source)
    materialize_crops(source, guidance, out)
    with monkeypatch.context() as patch:
        patch.setattr(materialize, "process_shards", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            materialize_crops(source, guidance, out, overwrite=True)
    materialize_crops(source, guidance, out)
    assert verify(out).problems == ()


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    source = scene_source()
    for overwrite in (False, True):
        with pytest.raises(ArtifactMismatch, match="choose another --out"):
            materialize_crops(source, scene_guidance(source), tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine/thesis.txt").exists()


def test_keys_that_share_a_stem_get_names_of_their_own() -> None:
    keys = ["c/a.jpg", "c/a.png", "c/deep/a.jpg", "c/A.jpg", "c/b.jpg", "c/" + "x" * 230 + ".jpg"]
    source = ArraySource(np.zeros((len(keys), 8, 8, 3), np.uint8), keys, [0] * len(keys), ["c"])
    names = file_names(source)
    assert len({n.casefold() for n in names}) == len(keys)
    assert names[4] == "c/b__sdi"
    assert max(len(n.rsplit("/")[-1].encode()) for n in names) < 200
    assert file_names(ArraySource(np.zeros((1, 8, 8, 3), np.uint8), ["train/12"])) == ["_/12__sdi"]


class _Broken(ArraySource):
    def read(self, index: int) -> np.ndarray:
        if index == 2:
            raise UnreadableImage("the file is truncated")
        return super().read(index)


def test_unreadable_and_unguided_images_are_listed(tmp_path) -> None:
    plain = scene_source()
    broken = _Broken([plain.read(i) for i in range(COUNT)], [plain.key(i) for i in range(COUNT)])
    broken.__dict__["fingerprint"] = "f"
    rows = [g for k, g in scene_guidance(plain).rows.items() if k != plain.key(5)]
    summary = materialize_crops(broken, GuidanceTable.of(rows, source="f"), tmp_path / "sdi")
    assert {s.key for s in summary.skipped} == {plain.key(2), plain.key(5)}
    assert "truncated" in (tmp_path / "sdi/skipped.csv").read_text()
    assert verify(tmp_path / "sdi").problems == ()


def test_masks_can_fill_the_background(tmp_path) -> None:
    source = scene_source()
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:30, 10:30] = True
    row = Guidance(source.key(1), SIDE, SIDE, "pixel", masks=(encode_mask(mask),))
    materialize_crops(source, GuidanceTable.of([row]), tmp_path / "sdi", mask_mode="bg_fill")
    pixels = np.asarray(Image.open(tmp_path / "sdi/train/class1/image 1__sdi.png"))
    assert np.array_equal(pixels[2:-2, 2:-2], source.read(1)[10:30, 10:30])
    assert len(np.unique(pixels[0].reshape(-1, 3), axis=0)) == 1


def test_composed_crops_have_the_distribution_of_online_ones(tmp_path) -> None:
    """S5: a view of a materialised crop, mapped back to the original, is a crop that `inside` would have drawn."""
    source = scene_source()
    guidance = scene_guidance(source)
    rule = CropRule(select="largest")
    materialize_crops(source, guidance, tmp_path / "sdi", rule=rule, annotate=False)
    online = make_pairs("guided", source, size=16, guidance=guidance, box_select="largest")
    offline = make_pairs("inflated", source, size=16, materialized=tmp_path / "sdi")
    regions = Artifact.open(tmp_path / "sdi/metadata.zarr").column("crop")
    areas: dict[str, list[float]] = {"online": [], "offline": []}
    for epoch in range(80):
        online.set_epoch(epoch)
        offline.set_epoch(epoch)
        for i in range(1, COUNT):
            top, left, h, w = regions[i]
            for crop in offline.plan(COUNT + i, h, w).crops:
                assert crop[0] + crop[2] <= h
                assert crop[1] + crop[3] <= w
                areas["offline"].append(crop[2] * crop[3] / (h * w))
            for crop in online.plan(i, SIDE, SIDE).crops:
                assert top <= crop[0]
                assert crop[0] + crop[2] <= top + h
                assert left <= crop[1]
                assert crop[1] + crop[3] <= left + w
                areas["online"].append(crop[2] * crop[3] / (h * w))
    quantiles = [np.quantile(areas[k], [0.1, 0.5, 0.9]) for k in areas]
    assert np.abs(quantiles[0] - quantiles[1]).max() < 0.05


def _run_slowly(out: Path, started: Any) -> None:
    def pause(event: Progress) -> None:
        started.set()
        time.sleep(0.01)

    source = scene_source()
    materialize_crops(source, scene_guidance(source), out, shard_size=2, on_progress=pause)


def _survives(tmp_path: Path, kills: int) -> None:
    source = scene_source()
    materialize_crops(source, scene_guidance(source), tmp_path / "whole", shard_size=2)
    expected, context, dice, hit = verify(tmp_path / "whole").digest, get_context("fork"), random.Random(0), 0
    for k in range(kills):
        out, started = tmp_path / f"killed{k}", context.Event()
        run = context.Process(target=_run_slowly, args=(out, started))
        run.start()
        started.wait(60)
        time.sleep(dice.uniform(0.0, 0.15))
        hit += run.is_alive()
        run.kill()
        run.join()
        materialize_crops(source, scene_guidance(source), out, shard_size=2)
        found = verify(out)
        assert (found.digest, found.problems) == (expected, ())
        assert not list(out.rglob("*.partial"))
    assert hit >= kills / 2  # most kills must have hit a run at work


forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 warns of any fork


@forks
def test_kill_at_any_moment_then_rerun(tmp_path) -> None:
    _survives(tmp_path, 5)


@forks
@pytest.mark.slow
def test_twenty_kills(tmp_path) -> None:
    _survives(tmp_path, 20)


def test_a_pool_writes_what_one_process_writes(tmp_path) -> None:
    source = scene_source()
    for workers in (1, 2):
        materialize_crops(source, scene_guidance(source), tmp_path / str(workers), shard_size=4, workers=workers)
    assert verify(tmp_path / "1").digest == verify(tmp_path / "2").digest
