"""Training that cannot go well, through the command line: one line that names both values and the remedy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from semaug.artifacts.testing import write_image_folder

TINY = ("--steps", "2", "--batch-size", "4", "--size", "16", "--backbone", "small-cnn")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("photos"), 40, side=24)


CASES = {
    "a queue that the batch does not divide": (
        ("moco-v2", "--queue", "6"),
        ("queue of 6 keys", "batch of 4", "take a queue of 4"),
    ),
    "a batch over the queue": (("moco-v2", "--queue", "2"), ("batch of 4", "queue of 2 keys", "lower --batch-size")),
    "a queue over half the data": (
        ("moco-v2plus", "--queue", "32"),
        ("queue of 32 keys", "data set of 40 items", "at most 20"),
    ),
    "the paper's queue on few images": (("moco-v2",), ("queue of 65536 keys", "data set of 40 items", "at most 20")),
    "a row alone under batch norm": (
        ("byol", "--accumulate", "4"),
        ("batch of 1", "1 row for batch norm, which needs 2", "--batch-size 2"),
    ),
    "parts that do not fit": (("simclr", "--accumulate", "3"), ("batch of 4", "3 equal parts", "a multiple of 3")),
    "a batch over the data": (("simclr", "--batch-size", "64"), ("batch of 64", "the 40 items", "at most 40")),
    "processes over the batch": (
        ("simclr", "--devices", "3"),
        ("batch of 4", "3 processes", "a multiple of the processes"),
    ),
    "too many views": (("byol", "--local-views", "2"), ("byol takes 2 views", "got 4", "pair source")),
    "backgrounds that the device does not alter": (
        ("simclr", "--views", "device", "--pairs", "center", "--mask-mode", "bg_blur"),
        ("mask_mode 'bg_blur'", "--views cpu"),
    ),
    "views of the device for pairs that change": (
        ("simclr", "--views", "device", "--pairs", "self"),
        ("pairs 'self'", "views 'device'", "--views cpu"),
    ),
    "no patches to hide": (("mae",), ("'small-cnn'", "hides patches", "take vit-s16")),
    "a warm-up over the run": (("simclr", "--warmup", "9"), ("9 steps", "2 steps", "lower --warmup")),
    "a temperature of nothing": (("moco-v3", "--temperature", "0"), ("temperature",)),
    "a momentum over one": (("byol", "--momentum", "1.5"), ("momentum 1.5", "0.99 to 1")),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_train_is_refused_before_the_first_step(semaug, photos, tmp_path, name):
    (method, *own), words = CASES[name]
    done = semaug("pretrain", method, photos, "--out", tmp_path / "run", *TINY, *own)
    assert done.refuses(*words), done.err
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_misspelt_method_or_recipe_is_a_usage_error_with_the_nearest(semaug, photos, tmp_path):
    done = semaug("pretrain", "barlow-twin", photos, "--out", tmp_path / "run")
    assert done.code == 2
    assert "no method is called 'barlow-twin'; did you mean 'barlow-twins'?" in done.err
    done = semaug("pretrain", "byol", photos, "--out", tmp_path / "run", "--recipe", "sole")
    assert done.code == 2
    assert "'solo'" in done.err


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory):
    """A finished run of two methods, by name; tests take copies."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("simclr", "byol"):
        words = ["pretrain", method, str(photos), "--out", str(folder / method), *TINY]
        code = "from semaug.cli.main import main; main()"
        subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    return folder


@pytest.fixture
def unfinished(runs, tmp_path):
    """A run of SimCLR whose encoder has not been written yet."""
    run = shutil.copytree(runs / "simclr", tmp_path / "run")
    (run / "encoder.json").unlink()
    return run


def test_a_run_of_another_method_is_refused_by_name(semaug, photos, runs):
    done = semaug("pretrain", "byol", photos, "--out", runs / "simclr", *TINY)
    assert done.refuses("a run of method 'simclr'", "trains 'byol'", "another --out", "--overwrite"), done.err


def test_a_checkpoint_of_another_method_is_refused_by_name(semaug, photos, runs, unfinished):
    shutil.copy(runs / "byol" / "last.ckpt", unfinished / "last.ckpt")
    done = semaug("pretrain", "simclr", photos, "--out", unfinished, *TINY)
    assert done.refuses("a checkpoint of method 'byol'", "trains 'simclr'", "--overwrite"), done.err
    shutil.copy(runs / "simclr" / "last.ckpt", unfinished / "last.ckpt")
    assert semaug("pretrain", "simclr", photos, "--out", unfinished, *TINY).code == 0


class Outsider:
    """What a pickle from outside may hold."""


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"global_step": 1, "state_dict": {}, "extra": Outsider()}, ("holds a pickled", "Outsider", "not loaded")),
        ({"model": {}}, ("no checkpoint of a semaug run", "--overwrite")),
        ({"global_step": 1, "state_dict": {"method.odd": torch.zeros(3)}}, ("of shape", "this simclr", "--overwrite")),
    ],
)
def test_a_checkpoint_from_outside_is_refused(semaug, photos, unfinished, made, words):
    torch.save(made, unfinished / "last.ckpt")
    done = semaug("pretrain", "simclr", photos, "--out", unfinished, *TINY)
    assert done.refuses(*words), done.err


def test_an_encoder_that_does_not_match_its_card_is_refused(semaug, photos, runs, tmp_path):
    mixed = shutil.copytree(runs / "simclr", tmp_path / "mixed")
    shutil.copy(runs / "byol" / "encoder.safetensors", mixed / "encoder.safetensors")
    for words in (
        ("eval", "knn", mixed, "--train", photos, "--test", photos),
        ("pretrain", "simclr", photos, "--init", mixed, "--out", tmp_path / "run", *TINY),
    ):
        done = semaug(*words)
        assert done.refuses("digest", "its card says", "same run"), done.err
