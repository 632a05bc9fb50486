"""``semaug doctor``: what it prints, narrow and in colour, and how it ends."""

import json
import re

import pytest
from click.testing import CliRunner, Result

from semaug.cli.commands.doctor import command
from semaug.studies.doctor import packages, studies


@pytest.fixture(autouse=True)
def two_studies(monkeypatch):
    """Listing all studies takes a second, and is tested where they are."""
    states = [studies.StudyState(n, "SDI", "sdi", {"tiny": (), "paper": ("ImageNet-1k: get it",)}) for n in "ab"]
    monkeypatch.setattr(studies, "known_studies", lambda: states)


def doctor(*words: object, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(command, [*map(str, words)])


@pytest.mark.parametrize("width", [40, 80])
def test_it_fits_the_terminal(width, tmp_path):
    (tmp_path / "yolov8n.pt").write_bytes(bytes(2000))
    done = doctor("--weights", tmp_path, COLUMNS=str(width))
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= width
    assert "\x1b" not in done.stdout
    for title in ("System", "Packages", "Oracles", "Studies", "Data sets"):
        assert f"\n{title}\n" in f"\n{done.stdout}"


def test_colours_add_no_words():
    plain = doctor("--missing", COLUMNS="80").stdout
    coloured = doctor("--missing", COLUMNS="80", FORCE_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b[" in coloured
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert re.sub(r"\d", "", bare) == re.sub(r"\d", "", plain)  # what is free changes between two looks


def test_json_holds_every_finding_and_weights_are_found(tmp_path):
    (tmp_path / "yolov8n.pt").write_bytes(bytes(2000))
    found = json.loads(doctor("--json", "--weights", tmp_path).stdout)
    assert found["ok"] is True
    yolo = next(f for f in found["sections"]["Oracles"] if f["name"] == "yolo")
    assert yolo["facts"]["models"] == [str(tmp_path / "yolov8n.pt")]


def test_something_broken_is_exit_code_1(monkeypatch):
    monkeypatch.setattr(packages, "CORE", (*packages.CORE, "semaug-lost"))
    done = doctor("--missing")
    assert done.exit_code == 1
    assert "pip install semaug-lost" in done.output
    assert "Broken: packages." in done.output


def test_a_folder_of_weights_that_is_not_there_is_a_usage_error(tmp_path):
    assert doctor("--weights", tmp_path / "nowhere").exit_code == 2
