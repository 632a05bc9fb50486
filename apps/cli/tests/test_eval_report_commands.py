"""``semaug eval figures`` and ``eval all`` as a user meets them: files, states, exit codes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semaug.cli import console
from semaug.cli import main as entry
from semaug.ssl_methods import build_encoder, save_encoder
from semaug.studies import run_report

IMAGES = ("--train", "scenes:train?items=60", "--test", "scenes:test?items=40")


def semaug(
    arguments: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``semaug ARGUMENTS``."""
    monkeypatch.setattr(console, "_CURRENT", console.RunSettings())
    monkeypatch.setattr(sys, "argv", ["semaug", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        entry.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_encoder(tmp_path / "run", build_encoder("small-cnn", input_size=32), method="none", seed=0, steps=0)
    return tmp_path / "run"


def test_figures_are_written_below_the_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "values.npy", np.asarray([0.5, 0.7, 0.9]))
    picked = ("--similarities", tmp_path / "values.npy", "--only", "similarity", "--only", "guidance", "--json")
    code, out, err = semaug(["eval", "figures", run, *IMAGES, *picked], monkeypatch, capsys)
    said = json.loads(out)
    assert code == 0
    assert list(said["missing"]) == ["guidance"]
    assert "No picture guidance: no guidance was given" in err
    assert said["similarity/below_0.6"]["value"] == pytest.approx(1 / 3)
    folder = run / "eval" / "figures"
    assert Path(said["page"]) == folder / "index.html"
    assert [Path(f).parent for f in said["files"]] == [folder / "similarity"]
    assert b"viewBox" in Path(said["files"][0]).read_bytes()


def test_all_reports_states_and_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[object] = ["eval", "all", run, *IMAGES, "--only", "map", "--only", "failures"]
    code, out, err = semaug([*words, "--json"], monkeypatch, capsys)
    states = {name: found["state"] for name, found in json.loads(out)["protocols"].items()}
    assert code == 0
    assert states == {"map": "done", "failures": "left out"}
    assert "Where the guidance fails: left out: no guidance was given" in err
    assert (run / "eval" / "report.html").exists()
    code, out, _ = semaug(words, monkeypatch, capsys)
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == ["Map of the features", "Where the guidance fails"]
    assert "reused" in out


def test_all_ends_in_1_where_a_protocol_broke(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(subject: Any) -> Any:
        raise RuntimeError("broken")

    known = run_report.PROTOCOLS
    monkeypatch.setattr(run_report, "PROTOCOLS", {**known, "map": replace(known["map"], run=explode)})
    code, _, err = semaug(["eval", "all", run, *IMAGES, "--only", "map"], monkeypatch, capsys)
    assert code == 1
    assert "Map of the features: failed: RuntimeError: broken" in err
    assert "RuntimeError: broken" in (run / "eval" / "report.html").read_text()


def test_an_unknown_protocol_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = semaug(["eval", "all", run, *IMAGES, "--with", "fine-tune"], monkeypatch, capsys)
    assert code == 1
    assert err.startswith("Error: no protocol is called 'fine-tune'; known are linear, ")
    assert len(err.splitlines()) == 1
