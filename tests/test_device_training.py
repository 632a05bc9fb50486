"""Training on views that a batched pass makes, through the command line."""

from __future__ import annotations

import csv
import json

import pytest

from semaug.artifacts.testing import write_image_folder

TINY = ("--steps", "4", "--batch-size", "8", "--size", "16", "--backbone", "small-cnn", "--log-every", "1")


def losses(run):
    with open(run / "metrics.csv") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_views_of_the_device_train_as_those_of_the_cpu(semaug, tmp_path):
    photos = write_image_folder(tmp_path / "photos", 16)
    words = ("pretrain", "byol", photos, *TINY, "--preset", "byol", "--device", "cpu")
    for views in ("cpu", "device"):
        done = semaug(*words, "--views", views, "--out", tmp_path / views)
        assert done.code == 0, done.err
    assert losses(tmp_path / "device") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)
    cards = [json.loads((tmp_path / v / "encoder.json").read_text())["config"]["pairs"] for v in ("cpu", "device")]
    assert cards[1] == {**cards[0], "views": "device"}
    again = semaug(*words, "--views", "device", "--workers", "2", "--out", tmp_path / "workers", "--json")
    first = semaug(*words, "--views", "device", "--out", tmp_path / "device", "--json")
    assert again.json["weights"] == first.json["weights"]
    assert semaug(*words, "--views", "auto", "--out", tmp_path / "cpu").code == 0  # no GPU: the same run
