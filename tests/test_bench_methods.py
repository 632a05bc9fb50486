"""The bench of training steps: what it times, and that one code base's worker answers."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("bench_methods")


def ask(*requests: dict[str, object]) -> list[dict[str, float]]:
    """The answers of a worker of ours."""
    command = [sys.executable, str(ROOT / "tools" / "steps" / "worker.py"), "semaug", "1"]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_method_has_a_row_and_peers_only_what_exists(bench: ModuleType) -> None:
    from semaug.ssl_methods import METHODS

    rows = {row.name.split(" step")[0]: row for row in (bench.step_row(m, bench.Setting()) for m in METHODS)}
    assert {*rows} == {*METHODS}
    assert {name for name, row in rows.items() if not row.peers} == {"adco", "dlme", "stablerep", "supcon"}
    assert {*bench.LIGHTLY, *bench.STABLE} <= {*METHODS}


def test_worker_times_the_parts_of_a_step_and_survives_an_error(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", draws.integers(0, 256, (16, 20, 20, 3), dtype=np.uint8))
    wrong, _, run, _, train = ask(
        {"prepare": {"method": "moco-v9"}},
        {"prepare": {"method": "simclr", "batch": 4, "size": 16}},
        {"run": 2},
        {"load": {"images": str(tmp_path / "images.npy"), "workers": 0}},
        {"train": 3},
    )
    assert wrong == {"error": "KeyError: 'moco-v9'"}
    for answer in (run, train):
        parts = sum(answer[part] for part in ("data", "transfer", "forward", "backward", "update"))
        assert answer["loss"] > 0
        assert 0 < parts <= answer["seconds"]
    assert train["data"] > run["data"]


def test_tables_show_ratios_and_the_split(bench: ModuleType) -> None:
    from benchmark import Benchmark, measure

    slow = {"lightly": lambda: 0.4, "stable-pretraining": lambda: 0.1}
    row = measure(Benchmark("simclr step", "", ours=lambda: 0.2, peers=slow, items=64), repeats=3)
    parts = {"ours": {"data": 0.0, "transfer": 0.0, "forward": 0.1, "backward": 0.08, "update": 0.02}}
    line = bench.table([bench.Measured(row, {}, parts)], 32).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    expected = ["simclr step", "10.00, 320", "2.00 [2.00, 2.00]", "0.50 [0.50, 0.50]", "0.0, 0.0, 100.0, 80.0, 20.0"]
    assert cells == expected
