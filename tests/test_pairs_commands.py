"""``semaug pairs`` from end to end: in from CSV, judged over HTTP, built, checked, out again."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.sources import ScenesSource
from semaug.pairs_dataset.pair_table import PairTable


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two classes of six pictures, and a list of six proposals."""
    monkeypatch.chdir(tmp_path)
    scenes = ScenesSource("train", items=12)
    lines = ["class,image_a,image_b,score:context"]
    for i in range(12):
        path = tmp_path / "photos" / ("cat" if i < 6 else "dog") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(scenes.read(i))).save(path)
        if i % 2:
            name = path.parent.name
            lines.append(f"{name},{name}/{i - 1:02d}.png,{name}/{i:02d}.png,{i / 12!r}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_import_build_check_and_export(semaug, folder):
    done = semaug(
        "pairs", "import", "list.csv", "--images", "photos", "--form", "proposals", "--out", "p.zarr", "--json"
    )
    assert (done.code, done.json["pairs"], done.json["images_missing"]) == (0, 6, 0)
    built = semaug("pairs", "build", "p.zarr", "--per-class", 2, "--out", "pairs.zarr")
    assert (built.code, "4 semantic pairs of 8 images in 2 classes" in built.out) == (0, True)
    assert "nobody judged these pairs" in built.err
    checked = semaug("pairs", "check", "pairs.zarr", "--images", "photos", "--per-class", 2, "--json")
    assert (checked.code, checked.json["ok"], checked.json["counts"]) == (0, True, {"cat": 2, "dog": 2})
    for layout in ("jsonl", "csv"):
        assert semaug("pairs", "export", "pairs.zarr", "--format", layout, "--out", f"out.{layout}").code == 0
        assert PairTable.open(f"out.{layout}").rows == PairTable.open("pairs.zarr").rows
    twin = semaug("pairs", "build", "pairs.zarr", "--twin", "augmented", "--out", "ap.zarr", "--json")
    assert (twin.json["form"], twin.json["pairs"], twin.json["images"]) == ("augmented", 4, 4)
    assert semaug("data", "verify", "pairs.zarr").code == 0
    assert semaug("data", "info", "pairs.zarr", "--json").json["what"] == "pairs artifact"


def test_check_fails_in_words(semaug, folder):
    (folder / "test").mkdir()
    (folder / "test" / "x.png").write_bytes((folder / "photos" / "cat" / "00.png").read_bytes())
    done = semaug(
        "pairs", "check", "list.csv", "--images", "photos", "--against", "test", "--class-list", "printed", "--list", 1
    )
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == "6 semantic pairs of 12 images, 3 in each of 2 classes"
    assert lines[1:5] == [
        "count: 2",
        "leak: 1",
        "  class cat has 3 pairs, 157 are wanted",
        "  and 2 more (--list, --json)",
    ]
    assert "note: the list names 175 classes, its source counts 187; none is made up" in lines
    assert lines[-1] == "not sound"


def test_what_check_finds_build_leaves_out(semaug, folder):
    (folder / "test").mkdir()
    (folder / "test" / "x.png").write_bytes((folder / "photos" / "cat" / "00.png").read_bytes())
    with open("list.csv", "a") as file:
        file.write("cat,cat/02.png,dog/06.png,\n")
    sound = ("--images", "photos", "--against", "test", "--per-class", 0)
    assert semaug("pairs", "check", "list.csv", *sound, "--bad", "bad.txt").code == 1
    assert len((folder / "bad.txt").read_text().splitlines()) == 2, "the image that leaks, the pair of two classes"
    built = semaug("pairs", "build", "list.csv", "--without", "bad.txt", "--per-class", 0, "--out", "p.zarr", "--json")
    assert (built.json["pairs"], built.json["left_out"]) == (5, 2)
    assert semaug("pairs", "check", "p.zarr", *sound).code == 0


def test_refusals_are_one_line(semaug, folder):
    other = ("--images", "scenes:train?items=9", "--out", "x.zarr")
    assert semaug("pairs", "import", "list.csv", *other).refuses(
        "none of the 12 images", "'cat/00.png'", "'train/000000'"
    )
    (folder / "empty.csv").write_text("class,image_a,image_b\n")
    assert semaug("pairs", "build", "empty.csv", "--out", "x.zarr").refuses("empty.csv")
    assert semaug("pairs", "check", "list.csv", "--images", "photos", "--class-list", "nowhere").refuses(
        "class list nowhere"
    )
    assert semaug("pairs", "status", "list.csv").refuses("list.csv", "no journal")
    assert semaug("pairs", "build", "list.csv", "--out", "x.zarr", "--pool", "photos").code == 2


def test_curate_over_http_then_build(semaug, folder):
    """One server process: it prints its address, keeps two verdicts, ends well on Ctrl-C, and its journal is built."""
    words = [sys.executable, "-c", "from semaug.cli.main import main; main()", "pairs", "curate", "list.csv"]
    words += ["--images", "photos", "--journal", "v.sqlite", "--per-class", "1", "--json"]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    port, token = re.search(r"http://127\.0\.0\.1:(\d+)/([\w-]{43})/", process.stderr.readline()).groups()
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
    own = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{port}"}

    def ask(name, **more):
        body = json.dumps({"curator": "c1", "tab": "t", **more})
        connection.request("POST", f"/{token}/api/{name}", body, own)
        answer = connection.getresponse()
        plain = json.loads(answer.read())
        assert answer.status == 200, plain
        return plain

    pair = ask("next")["pair"]
    assert pair["class_name"] == "cat"
    after = ask("verdict", request="1", pair_id=pair["pair_id"], verdict="accept", tags=["pattern"])
    assert after["pair"]["class_name"] == "dog", "a class with enough pairs is done"
    ask("verdict", request="2", pair_id=after["pair"]["pair_id"], verdict="reject")
    connection.close()
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out)["total"]["accepted"] == 1
    told = semaug("pairs", "status", "v.sqlite", "--per-class", 1)
    assert "1 of 2 pairs accepted, 2 of 6 judged" in told.out
    built = semaug("pairs", "build", "v.sqlite", "--per-class", 1, "--out", "pairs.zarr", "--json")
    assert (built.json["pairs"], built.json["rejected"], built.json["open"]) == (1, 1, 4)
    assert built.json["short_classes"] == {"dog": 0}
    row = PairTable.open("pairs.zarr").rows[0]
    assert (row.curator, row.tags, row.verdict, row.scores["context"]) == ("c1", ("pattern",), "accept", 1 / 12)
