"""A real folder of images from pack to report through the command line, twice, then with other options."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import ScenesSource, open_source

PER_CLASS, CLASSES = 6, 3


def write_scenes(root: Path, split: str) -> Path:
    """Class folders of PNG files with the first classes of the generated scenes."""
    source, left = ScenesSource(split, 200), dict.fromkeys(range(CLASSES), PER_CLASS)
    for i in range(len(source)):
        label = source.label(i)
        if left.get(label, 0):
            left[label] -= 1
            folder = root / source.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source.read(i)).save(folder / f"{i:04d}.png")
    assert not any(left.values())
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("end-to-end")
    for split in ("train", "test"):
        write_scenes(root / split, split)
    return root


def steps(place: Path) -> dict[str, tuple[object, ...]]:
    """Every step of the way, by the name of what it writes."""
    folder, pack, guidance = place / "train", place / "pack.zarr", place / "guidance.zarr"
    return {
        "index.zarr": ("data", "index", folder),
        "pack.zarr": ("data", "pack", folder, "--shard-size", "8"),
        "quality.zarr": ("quality", "score", folder),
        "guidance.zarr": ("guide", "extract", folder, "--quality", place / "quality.zarr", "--shard-size", "8"),
        "boxes.json": ("guide", "export", guidance, "--format", "coco"),
        "imported.zarr": ("guide", "import", place / "boxes.json", folder),
        "guides.png": ("guide", "show", guidance, folder, "--items", "4"),
        "pairs.png": ("views", "show", pack, "--guidance", guidance, "--size", "32", "--items", "3"),
        "sdi": ("views", "materialize", folder, "--guidance", guidance, "--quality", place / "quality.zarr"),
        "run": (
            "pretrain", "simclr", pack, "--pairs", "guided", "--guidance", guidance, "--steps", "4",
            "--batch-size", "8", "--size", "32", "--backbone", "small-cnn", "--log-every", "1",
        ),
        **{f"run/{verb}": ("eval", verb, place / "run", "--train", pack, "--test", place / "test", *only)
           for verb, only in (("knn", ()), ("linear", ()), ("all", ("--only", "linear", "--only", "map")))},
    }  # fmt: skip


ARTIFACTS = ("index.zarr", "pack.zarr", "quality.zarr", "guidance.zarr", "imported.zarr", "sdi", "run")


@pytest.fixture
def carried_out(semaug, place):
    """What each step printed; all are run once a module."""
    record = place / "printed.json"
    if not record.exists():
        printed = {}
        for name, words in steps(place).items():
            out = () if name.startswith("run/") else ("--out", place / name)
            done = semaug(*words, *out, "--json")
            assert done.code == 0, (name, done.err)
            printed[name] = done.json
        record.write_text(json.dumps(printed))
    return json.loads(record.read_text())


def digests(semaug, place: Path) -> dict[str, str]:
    found = {}
    for name in ARTIFACTS:
        done = semaug("data", "verify", place / name, "--json")
        assert done.code == 0, done.err
        assert (done.json["ok"], done.json["problems"]) == (True, [])
        found[name] = done.json["digest"]
    return found


def test_every_step_prints_json_that_says_what_it_did(carried_out, place):
    count = PER_CLASS * CLASSES
    said = carried_out
    assert said["pack.zarr"]["items"] == said["index.zarr"]["items"] == said["quality.zarr"]["n"] == count
    assert said["pack.zarr"]["fingerprint"] == said["index.zarr"]["fingerprint"]
    assert sum(said["quality.zarr"]["routing"].values()) == count
    assert said["guidance.zarr"]["routing"] == said["quality.zarr"]["routing"]
    assert said["sdi"]["written"] == count
    assert said["run"]["steps"] == 4
    for verb in ("linear", "all"):
        assert said[f"run/{verb}"]["linear/top1"]["n"] == count
        assert 0 <= said[f"run/{verb}"]["linear/top1"]["value"] <= 1
    assert said["run/all"]["linear/top1"] == said["run/linear"]["linear/top1"]
    assert 0 <= said["run/knn"]["knn/backbone/selected_top1"]["value"] <= 1


def test_everything_written_is_there_and_looks_like_images(carried_out, place):
    for name in ("guides.png", "pairs.png"):
        with Image.open(place / name) as sheet:
            assert np.ptp(np.asarray(sheet.convert("L"))) > 50
    page = (place / "run" / "eval" / "report.html").read_text()
    assert "Linear" in page
    assert len((place / "run" / "metrics.csv").read_text().splitlines()) == 5
    crops = open_source(place / "sdi")
    assert len(crops) == PER_CLASS * CLASSES
    for i in range(len(crops)):
        assert f"/{crops.class_names[crops.label(i)]}/" in crops.key(i)


def test_guidance_survives_export_and_import(carried_out, place):
    paths = [place / name for name in ("guidance.zarr", "imported.zarr")]
    keys, again = (Artifact.open(path).keys for path in paths)
    assert keys == again
    before, after = map(GuidanceTable.open, paths)
    assert carried_out["boxes.json"]["objects"] > 0
    assert {c["name"] for c in json.loads((place / "boxes.json").read_text())["categories"]} == {"object"}
    for key in keys:
        one, two = before.get(key), after.get(key)
        assert one.fallback == two.fallback
        if one.scale == "object":
            order = np.lexsort(one.boxes.T), np.lexsort(two.boxes.T)
            np.testing.assert_allclose(one.boxes[order[0]], two.boxes[order[1]], atol=0.01)


def test_a_rerun_is_quick_and_changes_nothing(semaug, carried_out, place):
    before = digests(semaug, place)
    written = {f: f.stat().st_mtime_ns for a in ARTIFACTS for f in (place / a).rglob("*") if "shards" in f.parts}
    began = time.perf_counter()
    for name, words in steps(place).items():
        if name in ARTIFACTS:
            assert semaug(*words, "--out", place / name).code == 0
    assert time.perf_counter() - began < 6
    assert digests(semaug, place) == before
    assert written == {f: f.stat().st_mtime_ns for f in written}


CHANGES = {
    "pack.zarr": ("--size", "24"),
    "guidance.zarr": ("--max-boxes", "1"),
    "sdi": ("--margin", "0.3"),
    "run": ("--temperature", "0.5"),
}
NAMED = {"pack.zarr": "size", "guidance.zarr": "max_boxes", "sdi": "margin", "run": "temperature"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_option_is_refused_by_name_until_overwrite(semaug, carried_out, place, tmp_path, name):
    words = steps(place)[name]
    first = semaug("data", "verify", place / name, "--json").json["digest"]
    done = semaug(*words, *CHANGES[name], "--out", place / name)
    assert done.refuses(NAMED[name], "--overwrite", str(place / name)), done.err
    assert semaug("data", "verify", place / name, "--json").json["digest"] == first

    out = tmp_path / name
    assert semaug(*words, *CHANGES[name], "--out", out).code == 0
    changed = semaug("data", "verify", out, "--json").json["digest"]
    assert semaug(*words, "--out", out).code == 1
    assert semaug(*words, "--out", out, "--overwrite").code == 0
    assert semaug("data", "verify", out, "--json").json["digest"] == first != changed


def test_a_configuration_file_stands_for_flags_and_flags_win(semaug, carried_out, place, tmp_path):
    config = tmp_path / "semaug.toml"
    config.write_text('[data.pack]\nsize = 24\nformat = "raw"\nshard-size = 8\n')
    for flags, side in (((), 24), (("--size", "16"), 16)):
        out = tmp_path / f"{side}.zarr"
        assert semaug("--config", config, "data", "pack", place / "train", "--out", out, *flags).code == 0
        assert min(open_source(out).read(0).shape[:2]) == side
