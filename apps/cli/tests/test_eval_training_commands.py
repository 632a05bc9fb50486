"""``semaug eval finetune``, ``transfer`` and ``distil`` on a run: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from semaug.artifacts.decode import encode_png
from semaug.cli.commands.evaluate import group
from semaug.cli.commands.evaluation import training
from semaug.cli.console import explain

TRAIN, TEST = "scenes:train?items=60", "scenes:test?items=30"


def evaluate(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; errors are explained as ``main`` does."""
    result = CliRunner().invoke(group, [str(w) for w in words])
    if isinstance(result.exception, Exception):
        return explain(result.exception), result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from semaug.ssl_methods import build_encoder, save_encoder

    folder = tmp_path_factory.mktemp("run")
    save_encoder(folder, build_encoder("small-cnn", input_size=32), method="simclr", seed=0, steps=0)
    return folder


def test_the_recipes_offered_are_those_there_are() -> None:
    from semaug.eval.probes.finetune import RECIPES

    assert tuple(RECIPES) == training.RECIPES


def test_finetune_writes_what_it_prints(run: Path, tmp_path: Path) -> None:
    words = ("--train", TRAIN, "--test", TEST, "--epochs", 1, "--batch-size", 16, "--lr", 0.01, "--lr", 0.05)
    code, text, error = evaluate("finetune", run, *words, "--crop-scale", 0.5, 1, "--out", tmp_path, "--json")
    assert code == 0, error
    kept = json.loads((tmp_path / "finetune.json").read_text())
    printed = json.loads(text)
    assert {name: row for name, row in printed.items() if name != "results"} == kept["measures"]
    assert kept["measures"]["finetune/learning_rate"]["value"] in (0.01, 0.05)
    assert kept["ran_on"]["settings"]["rates"] == [0.01, 0.05]
    assert set(kept["ran_on"]["sources"]) == {"train", "test"}
    code, _, error = evaluate("finetune", run, "--train", TRAIN, "--test", TEST, "--layer-decay", 2)
    assert (code, "layer decay 2.0" in error) == (1, True)


def test_transfer_scores_what_is_there_and_says_why_not(run: Path, tmp_path: Path) -> None:
    tiny = tmp_path / "data" / "imagenette2"
    for split, count in (("train", 6), ("val", 2)):
        for name in ("n01440764", "n02102040"):
            (tiny / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (40, 36, 3), np.uint8)
                (tiny / split / name / f"{i}.JPEG").write_bytes(encode_png(pixels))
    words = ("--root", tmp_path / "data", "--data", "imagenette", "--data", "pets", "--pair", "mine", TRAIN, TEST)
    code, text, error = evaluate("transfer", run, *words, "--out", tmp_path, "--json")
    assert code == 3, error
    rows = json.loads(text)
    assert rows["transfer/imagenette/linear_top1"]["n"] == 4
    assert rows["transfer/mine/linear_top1"]["value"] > 0
    assert rows["transfer/pets/linear_top1"]["value"] is None
    assert "expected there: oxford-iiit-pet with images" in rows["transfer/pets/linear_top1"]["reason"]
    assert "pets" in (tmp_path / "skipped.csv").read_text()
    kept = json.loads((tmp_path / "transfer.json").read_text())
    assert set(kept["ran_on"]["sources"]) == {"imagenette train", "imagenette test", "mine train", "mine test"}
    code, _, error = evaluate("transfer", run, "--data", "mnist")
    assert (code, "no data set is called 'mnist'" in error) == (1, True)


def test_distil_makes_a_run_that_others_can_evaluate(run: Path, tmp_path: Path) -> None:
    words = ("--images", TRAIN, "--train", TRAIN, "--test", TEST, "--student", "small-cnn", "--epochs", 1)
    code, text, error = evaluate("distil", run, *words, "--out", tmp_path, "--student-out", tmp_path / "s", "--json")
    assert code == 0, error
    rows = json.loads(text)
    assert rows["distil/student_top1"]["n"] == 30
    assert json.loads((tmp_path / "distil.json").read_text())["ran_on"]["sources"].keys() == {"train", "test", "images"}
    code, text, error = evaluate("linear", tmp_path / "s", "--train", TRAIN, "--test", TEST, "--json")
    assert code == 0, error
    assert json.loads(text)["linear/top1"]["value"] == pytest.approx(rows["distil/student_top1"]["value"])
    code, _, error = evaluate("distil", run, *words, "--student-out", tmp_path / "s", "--lr", 0.1)
    assert (code, "--overwrite" in error) == (1, True)
