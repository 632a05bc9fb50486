"""``semaug eval detect`` and ``segment`` on a run: what they print, write, go on with and refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from semaug.artifacts.decode import encode_png
from semaug.cli.commands.evaluate import group
from semaug.cli.console import explain
from semaug.ssl_methods import build_encoder, save_encoder

DATA = Path(os.environ.get("SEMAUG_TEST_DATA", Path(__file__).parents[4] / "shared")) / "data" / "coco128"
SMALL = ("--sides", "64", "--samples", "8", "--proposals", "10", "--batch-size", "2", "--norm", "frozen")


def evaluate(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; errors are explained as ``main`` does."""
    result = CliRunner().invoke(group, [str(w) for w in words])
    if isinstance(result.exception, Exception):
        return explain(result.exception), result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


def save(folder: Path, backbone: str, size: int) -> Path:
    save_encoder(folder, build_encoder(backbone, input_size=size, seed=0), method="none", seed=0, steps=0)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("run"), "resnet18", 96)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four images, each with a bright triangle; the first two train, the others test."""
    root = tmp_path_factory.mktemp("images")
    (root / "labels").mkdir()
    for number in range(4):
        picture = np.full((64, 80, 3), 90, np.uint8)
        for row in range(30):
            picture[10 + row, 20 : 21 + row] = 250
        (root / f"{number}.png").write_bytes(encode_png(picture))
        (root / "labels" / f"{number}.txt").write_text("0 0.25 0.15625 0.625 0.625 0.25 0.625\n")
    return f"yolo:{root}/labels?images={root}"


@pytest.mark.parametrize("verb", ["detect", "segment"])
def test_a_verb_writes_what_it_prints_and_what_it_ran_on(run: Path, images: str, verb: str) -> None:
    words = (verb, run, "--train", f"{images}&first=2", "--test", f"{images}&after=2", "--steps", 1, *SMALL, "--json")
    code, text, error = evaluate(*words)
    assert code == 0, error
    printed, kept = json.loads(text), json.loads((run / "eval" / f"{verb}.json").read_text())
    assert {name: row for name, row in printed.items() if name != "results"} == kept["measures"]
    first = {"detect": "detect/box/AP", "segment": "segment/mask/AP"}[verb]
    assert next(iter(kept["measures"])) == first
    assert kept["measures"][first]["n"] == 2
    assert f"{first}/class=0" in kept["measures"]
    where = kept["ran_on"]
    assert (set(where["sources"]), len(where["sources"]["train"]["annotations"])) == ({"train", "test"}, 32)
    assert (where["settings"]["schedule"]["lr"], where["settings"]["detector"]["masks"]) == (0.0025, verb == "segment")
    assert sum("not comparable with the papers" in w for w in kept["warnings"]) == 3
    written = (run / "eval" / verb / "seed-0" / "last.ckpt").stat().st_mtime_ns
    assert json.loads(evaluate(*words)[1]) == printed  # trained before: judged again, and not trained again
    assert (run / "eval" / verb / "seed-0" / "last.ckpt").stat().st_mtime_ns == written
    code, _, error = evaluate(*words, "--lr", 0.5)
    assert code == 1
    assert "this run has 0.5" in error


def test_what_cannot_be_is_refused_in_one_line(run: Path, images: str, tmp_path: Path) -> None:
    both = ("--train", images, "--test", images)
    other = save(tmp_path / "other", "small-cnn", 32)
    for words, message in (
        (("detect", other, *both), "SmallCNN and detectors are built on a ResNet"),
        (("detect", run, "--train", "photos", "--test", images), "does not say what it is"),
        (("detect", run, *both, "--sides", "8"), "give 32 pixels or more"),
        (("segment", run, "--train", images, "--test", f"voc:{tmp_path}"), "segmentation needs"),
        (("detect", run, *both, "--lr", "-1"), "a rate above 0"),
    ):
        code, _, error = evaluate(*words)
        assert (code, message in error, "\n" in error) == (1, True, False), error
    assert evaluate("detect", run, *both, "--sides", "96,wide")[0] == 2


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}; set SEMAUG_TEST_DATA")
@pytest.mark.parametrize(("verb", "labels"), [("detect", "boxes"), ("segment", "polygons")])
def test_photographs_of_coco_end_to_end(run: Path, tmp_path: Path, verb: str, labels: str) -> None:
    spec = f"yolo:{DATA}/{labels}?images={DATA}/images&missing=skip"
    words = (verb, run, "--train", f"{spec}&first=60", "--test", f"{spec}&after=90", "--steps", 4, "--batch-size", 2)
    code, text, error = evaluate(
        *words, "--sides", "96,128", "--samples", 32, "--proposals", 50, "--out", tmp_path, "--json"
    )
    assert code == 0, error
    rows = json.loads(text)
    values = [row["value"] for name, row in rows.items() if name != "results" and row["value"] is not None]
    assert values
    assert all(0 <= value <= 1 for value in values)
    losses = (tmp_path / verb / "seed-0" / "losses.csv").read_text().splitlines()
    assert len(losses) == 3  # the names, the first step and the last
