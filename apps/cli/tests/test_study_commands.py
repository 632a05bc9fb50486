"""``semaug study`` as a user meets it: what can run, what a study is, a run, its report, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from semaug.cli.commands.study import SCALES, SHORT, group
from semaug.cli.console import explain
from semaug.studies.study import paper
from semaug.studies.study.catalogue import open_preset, study_names
from semaug.studies.study.data import DATA_ROOT


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT, raising=False)


def study(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; errors are explained as ``main`` does."""
    result = CliRunner().invoke(group, [str(w) for w in words])
    if isinstance(result.exception, Exception):
        return explain(result.exception), result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


def test_the_verbs_know_the_papers_and_scales() -> None:
    assert paper.SHORT == SHORT
    assert set(SCALES) == set(open_preset(study_names()[0]).scales)


def test_list_groups_by_paper_and_says_what_is_lacking(tmp_path: Path) -> None:
    code, text, _ = study("list")
    assert code == 0
    titles = [line for line in text.splitlines() if line in paper.PAPERS.values()]
    assert len(titles) >= 2
    code, text, _ = study("list", "--paper", "sasi", "--json")
    found = {row["study"]: row for row in json.loads(text)["studies"]}
    assert set(found) == {name for name in study_names() if open_preset(name).paper == "P1"}
    row = found["sasi-table-1"]
    assert row["runs_at"] == ["tiny", "smoke"]
    assert any("ImageNet-100: give --data main.train=SPEC" in line for line in row["missing"]["paper"])
    (tmp_path / "imagenet100").mkdir()
    _, text, _ = study("list", "--paper", "sasi", "--data-root", tmp_path, "--json")
    lacks = next(row for row in json.loads(text)["studies"] if row["study"] == "sasi-table-1")["missing"]["paper"]
    assert not any("ImageNet-100" in line for line in lacks)
    assert any("BLIP-2" in line for line in lacks)


def test_show_tells_text_variants_and_printed_numbers() -> None:
    code, text, _ = study("show", "sasi-table-12")
    assert code == 0
    assert "e  two views of the real image: plain training (control)" in text
    assert "Run: semaug study run sasi-table-12" in text
    about = json.loads(study("show", "sasi-table-12", "--json")[1])
    assert about["controls"] == ["e"]
    assert about["printed"]["all | d | linear/top1"] == "80.4"


def test_a_run_prints_its_verdict_and_is_reported_again(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(
        'extends = "sasi-table-4"\nwithout = ["variants", "artifacts", "measurements", "cells"]\nname = "mine"\n'
        "[scales.tiny]\nsteps = 2\ntrain_items = 40\ntest_items = 24\n"
        "[variants.plain]\ncontrol = true\n[variants.wide]\noptions = { scale = [0.5, 1.0] }\n"
    )
    out = tmp_path / "study"
    code, text, error = study("run", own, "--scale", "tiny", "--out", out, "--json")
    assert code == 0, error
    done = json.loads(text)
    assert done["verdict"].startswith("wide: ")
    assert done["failed"] == []
    for name in ("report.html", "results.json", "results.csv", "results.tex"):
        assert (out / name).is_file()
        (out / name).unlink()
    assert study("report", out, "--json")[1] == text
    assert (out / "report.html").is_file()
    (out / "runs/all/wide/0/error.txt").write_text("RuntimeError: no memory")
    code, text, error = study("report", out)
    assert code == 1
    assert "1 part failed, the first: all wide seed 0: RuntimeError: no memory" in error
    code, _, error = study(
        "run", own, "--scale", "tiny", "--out", out, "--data", "main.train=a", "--data", "main.test=b"
    )
    assert code == 1
    assert "holds another study" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "sasi-table12", "--out", "OUT"), "did you mean 'sasi-table-12'"),
        (("run", "sasi-table-12", "--scale", "paper", "--out", "OUT"), "lacks ImageNet-100: give --data"),
        (("run", "sasi-table-12", "--data", "man.train=x", "--out", "OUT"), "has no data 'man.train'"),
        (("run", "sasi-table-12", "--weights", "clipp=x", "--out", "OUT"), "no model is called 'clipp'"),
        (("run", "sasi-table-12", "--artifact", "sas=x", "--out", "OUT"), "has no artifact 'sas'"),
        (("run", "sasi-table-12", "--only", "z", "--out", "OUT"), "has no variant 'z'"),
        (("report", "."), "holds no study"),
    ],
)
def test_what_cannot_run_is_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    given = [str(tmp_path / "out") if word == "OUT" else str(tmp_path) if word == "." else word for word in words]
    code, _, error = study(*given)
    assert code == 1
    assert said in error
    assert not (tmp_path / "out").exists()


def test_a_pair_without_a_value_is_a_usage_error(tmp_path: Path) -> None:
    assert study("run", "sasi-table-12", "--data", "main.train", "--out", tmp_path)[0] == 2
