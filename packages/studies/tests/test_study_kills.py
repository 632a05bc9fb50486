"""A study killed at random moments, with all its processes, and run again: the results of an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from semaug.studies.study.plan import RECORD

KILLS = 4
"""Of each study."""
ENTRY = (sys.executable, "-c", "from semaug.cli.main import main; main()")
TIMED = {
    "training", "making artifacts", "cost", "memory, training", "memory, making", "seconds", "at equal total cost",
}  # fmt: skip
"""Columns that tell times, costs and memory."""
STUDIES = {
    "compare": ("compare", ("standard", "random_box-saliency", "guided-saliency"), "longer_most = 1.5"),
    "training": ("sasi-table-12", ("e", "a"), ""),
    "measurement": ("sasi-figure-9", (), ""),
    "semantic-pairs": ("semantic-pairs-table-2", ("SP", "other"), ""),
    "diffaug": ("diffaug-table-2", ("PCA", "DiffAug"), "train_items = 24"),
}
"""Kind -> a preset, the variants of it, and what its scale has less of."""


def start(*words: object) -> subprocess.Popen[str]:
    """A command in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*ENTRY, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=environment,
    )  # fmt: skip


def carry_out(*words: object) -> None:
    """Run a command to its end."""
    process = start(*words)
    _, said = process.communicate()
    assert process.returncode == 0, said


def written(out: Path) -> int:
    """How many files a study has written so far."""
    return sum(len(files) for _, _, files in os.walk(out))


def kill_at(words: tuple[object, ...], out: Path, files: int, delay: float) -> bool:
    """Kill the command's process group some seconds after it has so many files; whether it was still at work."""
    process = start(*words, "--out", out)
    while process.poll() is None and written(out) < files:
        time.sleep(0.01)
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def results(out: Path) -> Any:
    """``results.json`` without times, costs, memory and the place of its folder."""
    text = (out / "results.json").read_text("utf-8").replace(str(out), "OUT")
    found = json.loads(text)
    for section in found["sections"]:
        for block in section["blocks"]:
            if block["kind"] == "table":
                names = [column["name"] for column in block["columns"]]
                kept = [i for i, name in enumerate(names) if name not in TIMED]
                block["rows"] = [[row[i] for i in kept] for row in block["rows"]]
    return found


def settled(whole: Path, out: Path) -> None:
    """Let a study begin where the other one had settled how long controls train, which is by measured times: it is
    measured once, and kept in the record."""
    record: Mapping[str, Any] = json.loads((whole / RECORD).read_text())
    out.mkdir()
    (out / RECORD).write_text(json.dumps({**record, "jobs": [], "artifacts": []}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDIES)
def test_kills_at_random_leave_the_results_of_an_undisturbed_run(kind: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("SEMAUG_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"{KILLS} kills of a study of kind {kind}, drawn with seed {seed}")
    moments, (base, only, less) = random.Random(seed), STUDIES[kind]
    preset = tmp_path / "mine.toml"
    preset.write_text(f'extends = "{base}"\nname = "mine"\n[scales.tiny]\n{less}\n')
    words = ("study", "run", preset, "--scale", "tiny", *(word for name in only for word in ("--only", name)))
    whole, out = tmp_path / "whole", tmp_path / "killed"
    carry_out(*words, "--out", whole)
    settled(whole, out)
    most, cut = written(whole), 0
    for files in sorted(moments.sample(range(2, most), KILLS)):
        cut += kill_at(words, out, files, moments.uniform(0, 0.2))
    carry_out(*words, "--out", out)
    assert results(out) == results(whole)
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("encoder.safetensors")} == {
        p.relative_to(whole): p.read_bytes() for p in whole.rglob("encoder.safetensors")
    }
    assert not list(out.rglob("*.partial"))
    assert cut >= KILLS // 2, f"only {cut} of {KILLS} kills hit the study at work (seed {seed})"
