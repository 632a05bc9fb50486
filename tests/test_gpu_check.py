"""The GPU check without a GPU: its code runs on tiny images, and its report says what failed."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "steps"))
    return importlib.import_module("gpu_check")


def run(check: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", "--tiny", *map(str, words)])
    return check.main()


def findings(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "report.json").read_text("utf-8"))["findings"]


def test_two_methods_pass_every_check_of_one_process(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("--methods", "moco-v2,dino", "--only", "steps,resume,views,throughput")
    assert run(check, monkeypatch, "--out", tmp_path, *words) == 0
    found = findings(tmp_path)
    assert all(f["passed"] for f in found)
    assert {f["check"] for f in found} == {"steps", "resume", "views", "throughput"}
    steps = [(f["name"], f["values"]["precision"]) for f in found if f["check"] == "steps"]
    assert steps == [(m, p) for m in ("moco-v2", "dino") for p in ("32-true", "bf16-mixed")]
    assert all(f["values"]["relative_difference"] == 0 for f in found if f["check"] == "resume")
    speeds = [f["values"] for f in found if f["check"] == "throughput"]
    assert all(s["images_per_second"] > 0 and s["forward_ms"] > 0 and s["backward_ms"] > 0 for s in speeds)
    assert "code tried on a CPU" in (tmp_path / "report.md").read_text("utf-8")


def test_a_method_that_breaks_fails_the_check_and_not_the_others(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from semaug.ssl_methods.methods import SimSiam

    def broken(*_: Any) -> None:
        raise ValueError("no such kernel")

    monkeypatch.setattr(SimSiam, "scalars", broken)
    assert run(check, monkeypatch, "--out", tmp_path, "--methods", "simsiam,simclr", "--only", "steps") == 1
    found = findings(tmp_path)
    assert [(f["name"], f["passed"]) for f in found] == [("simsiam", False)] * 2 + [("simclr", True)] * 2
    assert found[0]["values"]["error"] == "no such kernel"
    assert "| NO |" in (tmp_path / "report.md").read_text("utf-8")


def test_weights_that_differ_are_told_apart(check: ModuleType, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    parts = importlib.import_module("gpu_parts")
    for name, value in (("a", 1.0), ("b", 1.1)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((4,), value), "v": torch.ones(3)}, tmp_path / name / "encoder.safetensors")
    expected = (4 * 0.1**2) ** 0.5 / (4 * 1.1**2 + 3) ** 0.5
    assert parts.weight_difference(tmp_path / "a", tmp_path / "b") == pytest.approx(expected, rel=1e-5)
    assert parts.weight_difference(tmp_path / "a", tmp_path / "a") == 0


@pytest.mark.slow
def test_every_method_passes_every_check(check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from semaug.ssl_methods import METHODS

    assert run(check, monkeypatch, "--out", tmp_path) == 0
    found = findings(tmp_path)
    assert {f["name"] for f in found if f["check"] == "steps"} == {*METHODS}
    (study,) = [f for f in found if f["check"] == "study"]
    assert study["values"]["published_percent"] == 90.74
    assert 0 < study["values"]["linear/top1_percent"] <= 100
