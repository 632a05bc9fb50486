"""Extraction: the same artifact whatever the workers and the interruptions, bad input, bounded memory."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, InvalidOption, MissingWeights
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.progress import Progress
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import ArraySource, open_source
from semaug.artifacts.verify import verify
from semaug.oracles.catalogue import OracleSpec
from semaug.oracles.extract import costs_per_1000, extract_guidance, report_guidance
from semaug.oracles.grabcut import GrabCutSegmenter
from semaug.oracles.saliency import SaliencyDetector
from semaug.quality_policy.policies import make_policy
from semaug.quality_policy.table import QualityTable, score_source

SLOW_PLUGIN = """
import time
from semaug.oracles.saliency import SaliencyDetector

class Slow(SaliencyDetector):
    def detect(self, images):
        time.sleep(0.03 * len(images))
        return super().detect(images)
"""
EXTRACT = """
import sys
from semaug.artifacts.sources import open_source
from semaug.oracles.catalogue import OracleSpec
from semaug.oracles.extract import extract_guidance
if __name__ == "__main__":
    folder, out, plugin = sys.argv[1:]
    extract_guidance(open_source(folder), out, detector=OracleSpec(plugin + ":Slow"), granularity="hybrid",
                     batch_size=2, shard_size=3)
"""


def scene(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.normal(80, 10, (height, width, 3))
    y, x = rng.integers(4, height // 2), rng.integers(4, width // 2)
    image[y : y + 16, x : x + 20] += rng.uniform(60, 120, 3)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs")
    for i in range(24):
        Image.fromarray(scene(i)).save(path / f"{i:02d}.png")
    return path


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "slow.py"
    path.write_text(SLOW_PLUGIN)
    return path


def digest(path: Path) -> str:
    checked = verify(path)
    assert checked.problems == ()
    return checked.digest


def test_guidance_is_what_the_oracles_say_of_each_image(folder: Path, tmp_path: Path) -> None:
    source = open_source(str(folder))
    extract_guidance(source, tmp_path / "g.zarr", granularity="hybrid", batch_size=5, shard_size=7)
    table = GuidanceTable.open(tmp_path / "g.zarr")
    table.require_source(source.fingerprint)
    assert len(table) == 24
    for i in range(24):
        image = source.read(i)
        row = table.get(source.key(i))
        assert row is not None
        boxes = SaliencyDetector().detect([image])[0]
        masks = GrabCutSegmenter().segment([image], [boxes])[0]
        kept = [b for b, m in zip(boxes, masks, strict=True) if m.any()]
        np.testing.assert_array_equal(row.boxes, np.array(kept, np.float32) if kept else boxes)


def test_two_workers_write_the_bytes_of_one(folder: Path, tmp_path: Path) -> None:
    source = open_source(str(folder))
    for workers in (1, 2):
        extract_guidance(source, tmp_path / f"{workers}.zarr", granularity="hybrid", shard_size=5, workers=workers)
    first, second = tmp_path / "1.zarr", tmp_path / "2.zarr"
    files = sorted(p.relative_to(first) for p in (first / "shards").rglob("*") if p.is_file())
    assert len(files) > 20
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert digest(first) == digest(second)


def kill_and_resume(folder: Path, plugin: Path, out: Path, moments: list[float]) -> int:
    """Start, kill at each moment, and run to the end; returns how many runs were killed in their work."""
    killed = 0
    script = out.with_name("extract.py")
    script.write_text(EXTRACT)
    command = [sys.executable, str(script), str(folder), str(out), str(plugin)]
    for moment in moments:
        process = subprocess.Popen(command, start_new_session=True)
        while not (out / "ledger").exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moment)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    subprocess.run(command, check=True)
    return killed


def check_kills(folder: Path, plugin: Path, tmp_path: Path, count: int) -> None:
    source, detector = open_source(str(folder)), OracleSpec(f"{plugin}:Slow")
    extract_guidance(
        source, tmp_path / "whole.zarr", detector=detector, granularity="hybrid", batch_size=2, shard_size=3
    )
    draw = random.Random(count)
    moments = [draw.uniform(0.0, 0.6) for _ in range(count)]
    killed = kill_and_resume(folder, plugin, tmp_path / "killed.zarr", moments)
    assert killed >= 1
    assert digest(tmp_path / "killed.zarr") == digest(tmp_path / "whole.zarr")
    assert not list((tmp_path / "killed.zarr").rglob("*.partial"))


def test_five_kills_do_not_change_the_digest(folder: Path, plugin: Path, tmp_path: Path) -> None:
    check_kills(folder, plugin, tmp_path, 5)


@pytest.mark.slow
def test_twenty_kills_do_not_change_the_digest(folder: Path, plugin: Path, tmp_path: Path) -> None:
    for round_ in range(4):  # an artifact is finished after a few runs; kill four of them five times each
        (tmp_path / str(round_)).mkdir()
        check_kills(folder, plugin, tmp_path / str(round_), 5)


def test_another_setting_is_refused_by_name_and_the_same_resumes(folder: Path, tmp_path: Path) -> None:
    source = open_source(str(folder))
    events: list[Progress] = []
    extract_guidance(source, tmp_path / "g.zarr", granularity="object", on_progress=events.append)
    assert events[-1].done == events[-1].total == 24
    before = digest(tmp_path / "g.zarr")
    extract_guidance(source, tmp_path / "g.zarr", granularity="object", batch_size=3)
    assert digest(tmp_path / "g.zarr") == before
    with pytest.raises(ArtifactMismatch, match=r"max_boxes = None, this run has 1"):
        extract_guidance(source, tmp_path / "g.zarr", granularity="object", max_boxes=1)
    detector = OracleSpec.parse("saliency?side=64")
    with pytest.raises(ArtifactMismatch, match="side"):
        extract_guidance(source, tmp_path / "g.zarr", granularity="object", detector=detector)


def zoo(folder: Path) -> None:
    """Readable oddities, and files that are no images."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 50, 3)).astype(np.uint8))
    picture.save(folder / "plain.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    picture.convert("L").save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 65536, (30, 30)).astype(np.uint16)).save(folder / "deep.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (5000, 1)).save(folder / "line.png")
    picture.save(folder / "ünï côde.png")
    rotated = picture.getexif()
    rotated[0x0112] = 6
    picture.save(folder / "rotated.jpg", exif=rotated)
    whole = (folder / "plain.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")


@pytest.mark.parametrize("granularity", ["object", "pixel", "hybrid"])
def test_odd_files_are_read_and_broken_ones_listed(granularity: str, tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    zoo(tmp_path / "zoo")
    source = open_source(str(tmp_path / "zoo"))
    summary = extract_guidance(source, tmp_path / "g.zarr", granularity=granularity, batch_size=3, shard_size=4)  # type: ignore[arg-type]
    assert {s.key for s in summary.skipped} == {"truncated.jpg", "empty.jpg", "text.jpg"}
    assert len((tmp_path / "g.zarr" / "skipped.csv").read_text().splitlines()) == 4
    table = GuidanceTable.open(tmp_path / "g.zarr")
    assert len(table) == 10
    sizes = {k: (r.height, r.width) for k, r in table.rows.items()}
    assert sizes["rotated.jpg"] == (50, 40)
    assert sizes["line.png"] == (1, 5000)
    assert table.rows["dot.png"].fallback
    assert digest(tmp_path / "g.zarr")


def test_report_counts_what_the_table_holds(folder: Path, tmp_path: Path) -> None:
    extract_guidance(open_source(str(folder)), tmp_path / "g.zarr", granularity="hybrid", shard_size=5)
    report, rows = report_guidance(tmp_path / "g.zarr"), GuidanceTable.open(tmp_path / "g.zarr").rows.values()
    assert report.images == 24
    assert report.boxes == sum(len(r.boxes) for r in rows)
    assert report.masks == sum(len(r.masks) for r in rows)
    assert report.scales == {s: sum(r.scale == s for r in rows) for s in ("object", "pixel", "hybrid")}
    assert report.fallback == sum(r.fallback for r in rows)
    costs = costs_per_1000(tmp_path / "g.zarr")
    assert 0 < costs["seconds"] < 1000
    assert costs["peak_memory_mb"] > 10


def test_loading_a_model_is_not_counted_with_the_images(tmp_path: Path) -> None:
    plugin = tmp_path / "heavy.py"
    plugin.write_text(SLOW_PLUGIN.replace("def detect", "def __init__(self):\n        super().__init__()\n"
                                          "        time.sleep(0.5)\n\n    def detect"))  # fmt: skip
    source = ArraySource([scene(0)])
    extract_guidance(source, tmp_path / "g.zarr", detector=OracleSpec(f"{plugin}:Slow"), granularity="object")
    costs = Artifact.open(tmp_path / "g.zarr").markers[0].costs
    assert costs.warm_seconds > 0.5
    assert costs.seconds < 0.5


def test_an_image_alone_and_an_oracle_that_is_not_needed(tmp_path: Path) -> None:
    source, absent = ArraySource([scene(1)]), OracleSpec.parse("sam?weights=absent.pth")
    extract_guidance(source, tmp_path / "g.zarr", segmenter=absent, granularity="object")
    assert report_guidance(tmp_path / "g.zarr").boxes >= 1
    with pytest.raises(MissingWeights, match=r"absent\.pth"):
        extract_guidance(source, tmp_path / "h.zarr", segmenter=absent, granularity="pixel")
    with pytest.raises(InvalidOption, match="batch_size=0"):
        extract_guidance(source, tmp_path / "h.zarr", batch_size=0)


def test_scores_on_the_fly_route_like_scores_of_an_artifact(tmp_path: Path) -> None:
    source = ArraySource([scene(i, 60 + i, 80) for i in range(12)])
    policy = make_policy("soft", temperature=0.5, seed=3)
    score_source(source, tmp_path / "q.zarr")
    quality = QualityTable.open(tmp_path / "q.zarr")
    extract_guidance(source, tmp_path / "fly.zarr", policy=policy, batch_size=5)
    extract_guidance(source, tmp_path / "table.zarr", policy=policy, quality=quality)
    fly, table = (GuidanceTable.open(tmp_path / f"{name}.zarr").rows for name in ("fly", "table"))
    routes = dict(zip(quality.keys, quality.routes(policy), strict=True))
    assert set(routes.values()) == {"object", "pixel", "hybrid"}
    for key, row in table.items():
        assert row.scale == routes[key] or (row.scale, routes[key]) == ("object", "hybrid")
        np.testing.assert_array_equal(row.boxes, fly[key].boxes)
        assert (row.scale, row.masks) == (fly[key].scale, fly[key].masks)


def test_scores_of_other_images_are_refused(folder: Path, tmp_path: Path) -> None:
    score_source(ArraySource([scene(5)]), tmp_path / "q.zarr")
    quality = QualityTable.open(tmp_path / "q.zarr")
    with pytest.raises(ArtifactError, match="semaug quality score"):
        extract_guidance(open_source(str(folder)), tmp_path / "g.zarr", quality=quality)


PEAK = """
import resource, sys
from semaug.artifacts.sources import open_source
from semaug.oracles.extract import extract_guidance
if __name__ == "__main__":
    items, out = sys.argv[1:]
    extract_guidance(open_source(f"scenes:train?items={items}"), out, granularity="object", shard_size=32)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    (tmp_path / "peak.py").write_text(PEAK)
    peaks = [
        int(subprocess.run([sys.executable, str(tmp_path / "peak.py"), str(n), str(tmp_path / f"{n}.zarr")],
                           capture_output=True, text=True, check=True).stdout)
        for n in (128, 1024)
    ]  # fmt: skip
    assert peaks[1] < peaks[0] * 1.15
