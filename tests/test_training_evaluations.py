"""Evaluations that train, through the command line: killed and run again, and what they measure on CIFAR-10."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from semaug.ssl_methods import build_encoder, save_encoder

ROOT = Path(__file__).resolve().parents[1]
CIFAR = Path(os.environ.get("SEMAUG_TEST_DATA", ROOT.parent / "shared")) / "data" / "cifar10.tar.xz"
MAIN = "from semaug.cli.main import main; main()"
IMAGES = ("--train", "scenes:train?items=100", "--test", "scenes:test?items=30")


def start(*words: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    call = [sys.executable, "-c", MAIN, *map(str, words)]
    return subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_killed_fine_tuning_ends_with_the_undisturbed_result(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_encoder(run, build_encoder("small-cnn", input_size=32), method="none", seed=0, steps=0)
    words = ("eval", "finetune", run, *IMAGES, "--epochs", 3, "--lr", 0.01, "--lr", 0.05)
    with start(*words, "--out", tmp_path / "whole") as whole:
        pass
    assert whole.returncode == 0
    checkpoints, kills = tmp_path / "killed" / "checkpoints", 0
    for wanted in (1, 2):  # files kept: one after each rate
        with start(*words, "--out", tmp_path / "killed") as process:
            while process.poll() is None and len(list(checkpoints.rglob("*.ckpt"))) < wanted:
                time.sleep(0.01)
            if process.poll() is None:
                process.kill()
                kills += 1
    with start(*words, "--out", tmp_path / "killed") as last:
        pass
    assert last.returncode == 0
    assert kills == 2
    results = [json.loads((tmp_path / name / "finetune.json").read_text())["measures"] for name in ("whole", "killed")]
    assert results[0] == results[1]
    assert not list(checkpoints.rglob("*.ckpt"))


def cifar_lists(folder: Path, train: int, test: int) -> tuple[Path, Path]:
    """Lists of the first images of each class that the archive holds, which is read as far as they lie."""
    wanted, rows = {"train": train, "test": test}, {"train": [], "test": []}
    counts: dict[tuple[str, str], int] = {}
    with tarfile.open(CIFAR) as archive:
        for member in archive:
            split, *rest = member.name.removeprefix("./").split("/")
            if split not in wanted or len(rest) != 2 or counts.get((split, rest[0]), 0) >= wanted[split]:
                continue
            counts[split, rest[0]] = counts.get((split, rest[0]), 0) + 1
            archive.extract(member, folder, filter="data")
            rows[split].append((member.name, rest[0]))
    lists = []
    for split, found in rows.items():
        assert len(found) == 10 * wanted[split]
        lists.append(folder / f"{split}.csv")
        with open(lists[-1], "w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *found])
    return lists[0], lists[1]


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.exists(), reason=f"no {CIFAR}; set SEMAUG_TEST_DATA")
def test_what_training_is_worth_on_cifar10(semaug, tmp_path: Path) -> None:
    train, test = cifar_lists(tmp_path, 100, 50)
    run, images = tmp_path / "run", ("--train", train, "--test", test)
    steps = ("--steps", 200, "--batch-size", 128, "--threads", 1)
    assert semaug("pretrain", "simclr", train, "--backbone", "small-cnn", "--size", 32, *steps, "--out", run).code == 0
    linear = semaug("eval", "linear", run, *images, "--json").json["linear/top1"]["value"]
    tuned = semaug("eval", "finetune", run, *images, "--epochs", 15, "--lr", 0.03, "--json").json
    assert tuned["finetune/top1"]["value"] > linear
    assert tuned["finetune/train_loss_last"]["value"] < 0.8 * tuned["finetune/train_loss_first"]["value"]
    words = ("--images", train, *images, "--student", "mobilenetv2", "--epochs", 8, "--batch-size", 64)
    distilled = semaug("eval", "distil", run, *words, "--json").json
    assert distilled["distil/teacher_top1"]["value"] == pytest.approx(linear)
    assert distilled["distil/student_top1"]["value"] > distilled["distil/untrained_top1"]["value"]
    assert distilled["distil/student_cka"]["value"] > distilled["distil/untrained_cka"]["value"] + 0.1
