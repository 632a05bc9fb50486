"""``semaug guide`` as a user meets it: output, exit codes, one-line errors."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.sources import open_source
from semaug.cli import main as entry
from semaug.cli.main import COMMANDS
from semaug.quality_policy.table import score_source


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of ``semaug ARGUMENTS``."""
    monkeypatch.setattr(sys, "argv", ["semaug", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return int(ended.value.code or 0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        image = np.full((60, 80, 3), 60, np.uint8)
        image[10 + 5 * i : 40 + 5 * i, 20:50] = 200
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def test_extract_show_export_and_import(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "guide" in COMMANDS
    guidance = str(tmp_path / "g.zarr")
    extract = ["guide", "extract", str(photos), "--out", guidance, "--granularity", "hybrid", "--json"]
    assert run(extract, monkeypatch) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["boxes"], result["masks"], result["fallback_share"]) == (4, 4, 4, 0.0)
    assert result["routing"] == {"object": 0, "pixel": 0, "hybrid": 4}
    assert result["costs_per_1000"]["seconds"] > 0
    sheet = str(tmp_path / "sheet.png")
    assert run(["guide", "show", guidance, str(photos), "--out", sheet, "--items", "3"], monkeypatch) == 0
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
    capsys.readouterr()
    boxes = str(tmp_path / "boxes.json")
    assert run(["guide", "export", guidance, "--out", boxes, "--json"], monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == 4
    back = ["guide", "import", boxes, str(photos), "--out", str(tmp_path / "back.zarr"), "--json"]
    assert run(back, monkeypatch) == 0
    again = json.loads(capsys.readouterr().out)
    assert {k: again[k] for k in ("images", "routing", "boxes", "masks")} == {
        k: result[k] for k in ("images", "routing", "boxes", "masks")
    }


def test_quality_routes_and_another_policy_is_refused_by_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (20, 20), (90, 90, 90)).save(photos / "small.png")
    quality, guidance = str(tmp_path / "q.zarr"), str(tmp_path / "g.zarr")
    score_source(open_source(str(photos)), quality)
    extract = ["guide", "extract", str(photos), "--out", guidance, "--quality", quality, "--policy"]
    assert run([*extract, "threshold", "--json"], monkeypatch) == 0
    result = json.loads(capsys.readouterr().out)
    assert sum(result["routing"].values()) == 5
    assert result["routing"]["object"] >= 1
    assert result["fallback"] == 1
    assert run([*extract, "soft"], monkeypatch) == 1
    assert "routing.policy = 'threshold', this run has 'soft'" in capsys.readouterr().err


def test_skipped_images_end_with_code_3(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "torn.jpg").write_bytes(b"")
    out = tmp_path / "g.zarr"
    assert run(["guide", "extract", str(photos), "--out", str(out), "--granularity", "object"], monkeypatch) == 3
    assert "torn.jpg" in capsys.readouterr().err
    assert "torn.jpg" in (out / "skipped.csv").read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--detector", "yolo", "--detector-option", "weights=yolov8n.pt"], "https://github.com/ultralytics"),
        (["--segmenter", "sam", "--segmenter-option", "weights=vit_b.pth"], "https://github.com/facebookresearch"),
        (["--segmenter", "sam-hf", "--segmenter-option", "weights=nowhere"], "https://huggingface.co"),
        (["--detector", "salience"], "did you mean 'saliency'"),
        (["--detector-option", "sides=3"], "no option 'sides'"),
    ],
)
def test_what_cannot_be_opened_is_one_line_and_no_connection(
    options: list[str],
    reason: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    command = ["guide", "extract", str(photos), "--out", str(tmp_path / "g.zarr"), "--granularity", "hybrid"]
    assert run([*command, *options], monkeypatch) == 1
    message = capsys.readouterr().err.strip()
    assert message.startswith("Error: ")
    assert reason in message
    assert "\n" not in message


def test_a_wrong_choice_is_a_usage_error(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["guide", "extract", str(photos), "--out", str(tmp_path / "g"), "--granularity", "x"], monkeypatch) == 2
    assert run(["guide", "extract", str(photos)], monkeypatch) == 2
