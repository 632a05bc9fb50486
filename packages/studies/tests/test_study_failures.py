"""What goes wrong in a study: in training, an artifact, an evaluation, or before anything began; and what is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from semaug.artifacts.errors import InvalidOption, SemaugError
from semaug.studies.projecting import labelled_table
from semaug.studies.study import evaluations
from semaug.studies.study.results import read_results
from semaug.studies.study.running import plan_study, run_study

OWN = """
extends = "_common"
name = "own"
item = "own"
title = "own"
text = "own"
paper = "own"
method = "simclr"
[data.main]
wants = "images"
[scales.tiny]
steps = 2
train_items = 40
test_items = 24
[artifacts.boxes]
kind = "guidance"
options = { detector = "nowhere.py:Detector", granularity = "object" }
[variants.plain]
control = true
[variants.wide]
options = { scale = [0.5, 1.0] }
[variants.untrainable]
hyperparameters = { temperature = -1.0 }
[variants.unguided]
pairs = "guided"
guidance = "@boxes"
[variants.unscored]
options = { scale = [0.4, 1.0] }
"""


def test_what_fails_in_one_variant_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, out = tmp_path / "own.toml", tmp_path / "study"
    own.write_text(OWN)
    score = evaluations.score

    def refuse(name: str, scoring: Any) -> Any:
        if "unscored" in str(scoring.subject.run):
            raise RuntimeError("no memory to score in")
        return score(name, scoring)

    monkeypatch.setattr(evaluations, "score", refuse)
    done = run_study(plan_study(str(own), "tiny", out))
    told = dict(line.split(": ", 1) for line in done.failed)
    assert set(told) == {
        "artifact boxes of main",
        *(f"all {n} seed 0" for n in ("untrainable", "unguided", "unscored")),
    }
    assert "temperature" in told["all untrainable seed 0"]
    assert "code is not run because a file says so" in told["artifact boxes of main"]
    assert "code is not run because a file says so" in told["all unguided seed 0"]
    assert told["all unscored seed 0"] == "RuntimeError: no memory to score in"
    results, _ = read_results(out)
    assert {gain.variant for gain in results.gains} == {"wide"}
    page = done.report.read_text()
    for text in (*told.values(), "What failed"):
        assert text.replace("'", "&#39;") in page or text in page
    monkeypatch.setattr(evaluations, "score", score)
    stamp = (out / "runs/all/unscored/0/encoder.safetensors").stat().st_mtime_ns
    again = run_study(plan_study(str(own), "tiny", out))
    assert not any("unscored" in line for line in again.failed)  # tried again, and it was trained already
    assert (out / "runs/all/unscored/0/encoder.safetensors").stat().st_mtime_ns == stamp


def test_a_study_that_fails_before_it_makes_anything_leaves_no_folder(tmp_path: Path) -> None:
    out, nowhere = tmp_path / "study", {"main.train": str(tmp_path / "nowhere"), "main.test": str(tmp_path / "nowhere")}
    with pytest.raises(SemaugError, match="nowhere"):
        run_study(plan_study("compare", "tiny", out, data=nowhere, only=["standard"]))
    assert not out.exists()
    out.mkdir()  # somebody's own folder stays
    with pytest.raises(SemaugError, match="nowhere"):
        run_study(plan_study("compare", "tiny", out, data=nowhere, only=["standard"]))
    assert out.exists()


def test_images_are_not_compared_as_a_table() -> None:
    with pytest.raises(InvalidOption, match=r"scenes:train\?items=8 holds images.*diffaug-table-4"):
        labelled_table("scenes:train?items=8")


def test_naming_the_studies_takes_no_torch() -> None:
    lines = "import sys\nfrom semaug.studies.study.availability import list_studies\n"
    lines += "assert len(list_studies()) > 40\nprint(sorted({'torch', 'sklearn', 'diffusers'} & set(sys.modules)))"
    environment = {name: value for name, value in os.environ.items() if name != "SEMAUG_DATA"}
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, env=environment)
    assert done.stdout == "[]\n", done.stderr + done.stdout
