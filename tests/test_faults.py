"""Random faults over the commands that write: a few of them here, two hundred in the slow test."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from semaug.artifacts.local_place import held

if TYPE_CHECKING:
    from tests.conftest import Done

COLUMNS = [{"name": n, "unit": u} for n, u in (("variant", ""), ("top1", "%"), ("seconds", ""), ("training", "s"))]
TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture
def portraits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("fault_portraits")


def run(*words: object) -> str:
    """What ``faults.py`` prints; all must be well."""
    command = [sys.executable, str(TOOLS / "faults.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_few_faults_leave_the_undisturbed_result(tmp_path: Path) -> None:
    kinds = "kill -9,SIGTERM,torn last file,torn last shard,vanishing input,two writers"
    said = run("--faults", 4, "--seed", 3, "--verbs", "data pack", "--kinds", kinds, "--folder", tmp_path)
    assert "4 faults of seed 3" in said
    assert "all 4 well" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_hundred_faults_leave_the_undisturbed_result(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    run("--faults", 200, "--seed", seed, "--minutes", 40, "--folder", tmp_path)


def test_a_case_is_drawn_from_its_seed_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    monkeypatch.syspath_prepend(str(TOOLS))
    faults = importlib.import_module("faults")
    os.environ.clear()
    os.environ.update(before)  # it sets the threads of what it starts
    verbs, kinds = list(faults.VERBS), list(faults.FAULTS)
    cases = [faults.drawn(number, 5, verbs, kinds) for number in range(300)]
    assert cases[7:9] == [faults.drawn(number, 5, verbs, kinds) for number in (7, 8)]
    assert {case.verb for case in cases} == set(verbs)
    assert {case.kind for case in cases} == set(kinds)
    assert all(case.extra for case in cases if case.kind == "kill -9 of a worker")
    assert not any(case.kind == "vanishing input" and not faults.VERBS[case.verb].vanishing for case in cases)


def test_a_study_has_one_runner_at_a_time(semaug: Callable[..., Done], tmp_path: Path) -> None:
    with held(tmp_path / "study"):
        done = semaug("study", "run", "sasi-table-12", "--scale", "tiny", "--out", tmp_path / "study")
    assert done.refuses("is being written by another process")
    assert [path.name for path in (tmp_path / "study").iterdir()] == [".lock"]


def written(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_times_are_no_difference_and_everything_else_is(tmp_path: Path, portraits: ModuleType) -> None:
    for folder, seconds in (("a", 1), ("b", 2)):
        marker = {"shard": 0, "digest": "x", "costs": {"seconds": seconds}}
        written(tmp_path / folder, "g.zarr/ledger/000000.json", json.dumps(marker))
        written(tmp_path / folder, "g.zarr/.lock", str(seconds))
        written(tmp_path / folder, "run/metrics.csv", f"step,loss,images_per_second\n1,0.5,{seconds}\n")
        written(tmp_path / folder, f"run/events.out.tfevents.{seconds}", str(seconds))
        written(tmp_path / folder, "run/encoder.safetensors", "weights")
        table = {"columns": COLUMNS, "rows": [["plain", 0.5, seconds, seconds]]}
        written(tmp_path / folder, "study/results.json", json.dumps({"sections": [{"blocks": [table]}]}))
    first, second = (portraits.portrait(tmp_path / folder) for folder in "ab")
    assert portraits.differences(first, second) == []
    changed = {"columns": COLUMNS, "rows": [["plain", 0.6, 2, 2]]}
    written(tmp_path / "b", "g.zarr/ledger/000000.json", '{"shard": 0, "digest": "y"}')
    written(tmp_path / "b", "run/metrics.csv", "step,loss,images_per_second\n1,0.5,3\n1,0.5,3\n")
    written(tmp_path / "b", "run/encoder.safetensors", "weightz")
    written(tmp_path / "b", "run/.encoder.json.7.partial", "")
    written(tmp_path / "b", "study/results.json", json.dumps({"sections": [{"blocks": [changed]}]}))
    found = portraits.differences(first, portraits.portrait(tmp_path / "b"))
    assert len(found) == 5
    assert "run/.encoder.json.7.partial should not be there" in found
    assert portraits.differences(first, {})[0].endswith("is lacking")
