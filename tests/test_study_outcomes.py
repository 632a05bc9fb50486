"""What the tool says of a study's folder: gains with intervals, what failed, and the seconds it is given."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

from semaug.studies.runner import RESULT
from semaug.studies.study.jobs import ERROR
from semaug.studies.study.plan import write_record
from semaug.studies.study.running import plan_study

TOOLS = Path(__file__).resolve().parents[1] / "tools"
FOUND: Mapping[str, list[float | None]] = {"e": [0.50, 0.52], "a": [0.55, 0.58], "b": [0.40, None]}


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("study_outcomes")


def forged(out: Path, found: Mapping[str, list[float | None]]) -> Path:
    """A study's folder with made-up results, one a seed; None is a run that failed."""
    study = plan_study("sasi-table-12", "smoke", out, seeds=2, only=list(found))
    rows = []
    for variant, values in found.items():
        for seed, value in enumerate(values):
            folder = out / "runs" / "all" / variant / str(seed)
            folder.mkdir(parents=True)
            result = {"job": "-", "result": {"linear/top1": {"value": value, "n": 40}}}
            name, text = (ERROR, "out of memory") if value is None else (RESULT, json.dumps(result))
            (folder / name).write_text(text)
            place = str(folder.relative_to(out))
            rows.append({"setting": "all", "variant": variant, "seed": seed, "name": "-", "steps": 20, "out": place})
    write_record(study, {"jobs": rows, "artifacts": [], "longer": []})
    return out


def test_a_row_says_the_gains_their_intervals_and_what_failed(tool: ModuleType, tmp_path: Path) -> None:
    row = tool.outcome_row(forged(tmp_path, FOUND), {"sasi-table-12": 15.6}, {"sasi-table-12": 102.4})
    # the differences are 5 and 6 points: mean 5.5, and 12.7062 (Student's t, one degree) times 0.5 to either side
    assert row == (
        "| `sasi-table-12` | 16 | 102 | 5 | a +5.5 (-0.9 to +11.9), b -10.0 over `e`; 0 of 2 told from zero, "
        "1 to 2 seeds; 1 failed: b |"
    )


def test_equal_differences_tell_nothing(tool: ModuleType, tmp_path: Path) -> None:
    row = tool.outcome_row(forged(tmp_path, {"e": [0.1, 0.3], "a": [0.2, 0.4]}), {}, {})
    assert row.endswith("a +10.0 (+10.0 to +10.0) over `e`; 0 of 1 told from zero, 2 seeds |")


def test_one_seed_is_said_and_an_unknown_time_is_a_dash(tool: ModuleType, tmp_path: Path) -> None:
    row = tool.outcome_row(forged(tmp_path, {"e": [0.5], "a": [0.5]}), {}, {"another": 3.0})
    assert row == "| `sasi-table-12` | - | - | 2 | a 0.0 over `e`; one seed |"


def test_the_last_time_of_a_study_counts(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "seconds.txt").write_text("a 3\n\nb 4.5\na 7\n")
    assert tool.read_seconds(tmp_path / "seconds.txt") == {"a": 7.0, "b": 4.5}
    assert tool.read_seconds(None) == {}


@pytest.mark.parametrize(("value", "text"), [(0.0004, "0.0"), (-0.0004, "0.0"), (-0.012, "-1.2"), (0.05, "+5.0")])
def test_points_have_a_sign_but_zero(tool: ModuleType, value: float, text: str) -> None:
    assert tool.points(value) == text
