"""``semaug pairs propose`` as a user meets it: output, exit codes, one-line errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semaug.cli import main as entry
from semaug.pairs_dataset.pair_table import PairTable


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of ``semaug ARGUMENTS``."""
    monkeypatch.setattr(sys, "argv", ["semaug", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return int(ended.value.code or 0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(8):
            image = draws.integers(0, 60, (40, 50, 3)) + draws.integers(0, 190, 3)
            Image.fromarray(image.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_propose_says_what_ranked_the_pairs_and_counts_every_class(photos, tmp_path, monkeypatch, capsys) -> None:
    out = str(tmp_path / "p.zarr")
    command = ["pairs", "propose", str(photos), "--out", out, "--per-class", "2", "--json"]
    assert run(command, monkeypatch) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["features"] == "colour and texture statistics"
    assert result["classes"] == {name: {"images": 8, "pairs": 2} for name in ("cat", "dog")}
    assert (result["pairs"], result["objects_found"], result["short"]) == (4, 0, 0)
    digest = PairTable.open(out).digest
    assert run(command, monkeypatch) == 0
    assert PairTable.open(out).digest == digest
    capsys.readouterr()
    assert run([*command[:-2], "7", "--json"], monkeypatch) == 1
    assert "per_class" in capsys.readouterr().err


def test_short_classes_and_skipped_images_are_told(photos, tmp_path, monkeypatch, capsys) -> None:
    (photos / "cat" / "broken.png").write_bytes(b"nothing")
    code = run(["pairs", "propose", str(photos), "--out", str(tmp_path / "p.zarr")], monkeypatch)
    told = capsys.readouterr().err
    assert code == 3
    assert "2 classes have fewer than 157 pairs" in told
    assert "1 input was skipped" in told


def test_a_model_without_weights_is_refused_in_one_line(photos, tmp_path, monkeypatch, capsys) -> None:
    command = ["pairs", "propose", str(photos), "--out", str(tmp_path / "p.zarr"), "--encoder", "timm:resnet18"]
    assert run(command, monkeypatch) == 1
    told = capsys.readouterr().err.strip()
    assert "give --weights FILE" in told
    assert "\n" not in told
