"""``semaug doctor``: what it prints, narrow and in colour, and how it ends."""

import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from semaug.cli.commands.doctor import command


def doctor(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from semaug.cli.main import main; main()", "doctor", "--no-devices", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("width", [40, 80])
def test_it_fits_the_terminal(width, tmp_path):
    (tmp_path / "yolov8n.pt").touch()
    done = doctor("--weights", str(tmp_path), COLUMNS=str(width))
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= width
    assert "\x1b" not in done.stdout
    for title in ("System", "Packages", "Oracles", "Data sets"):
        assert f"\n{title}\n" in f"\n{done.stdout}"


def test_colours_add_no_words(tmp_path):
    plain = doctor("--missing", COLUMNS="80").stdout
    coloured = doctor("--missing", COLUMNS="80", FORCE_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_json_holds_every_finding_and_weights_are_found(tmp_path):
    (tmp_path / "yolov8n.pt").touch()
    done = doctor("--json", "--weights", str(tmp_path))
    found = json.loads(done.stdout)
    assert found["ok"] is True
    yolo = next(f for f in found["sections"]["Oracles"] if f["name"] == "yolo")
    assert yolo["facts"]["models"] == [str(tmp_path / "yolov8n.pt")]


def test_something_broken_is_exit_code_1(monkeypatch):
    from semaug.studies.doctor import packages

    monkeypatch.setattr(packages, "CORE", (*packages.CORE, "semaug-lost"))
    done = CliRunner().invoke(command, ["--no-devices", "--missing"])
    assert done.exit_code == 1
    assert "pip install semaug-lost" in done.output
    assert "Broken: packages." in done.output


def test_a_folder_of_weights_that_is_not_there_is_a_usage_error(tmp_path):
    assert CliRunner().invoke(command, ["--weights", str(tmp_path / "nowhere")]).exit_code == 2
