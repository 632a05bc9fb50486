"""kill -9 at random moments through the command line, then a rerun: the digest of an undisturbed run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 20
ENTRY = (sys.executable, "-c", "from semaug.cli.main import main; main()")
IMAGES = "scenes:train?items=48"
STEPS = {
    "pack": ("data", "pack", IMAGES, "--format", "raw", "--shard-size", "2"),
    "extract": ("guide", "extract", IMAGES, "--shard-size", "2"),
    "materialize": ("views", "materialize", IMAGES, "--guidance", "GUIDANCE", "--shard-size", "2"),
    "pretrain": (
        "pretrain", "simclr", IMAGES, "--pairs", "guided", "--guidance", "GUIDANCE", "--steps", "60",
        "--batch-size", "16", "--size", "32", "--backbone", "small-cnn", "--checkpoint-every", "3", "--threads", "1",
    ),
}  # fmt: skip


def start(*words: object) -> subprocess.Popen[str]:
    command = [*ENTRY, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def carry_out(*words: object) -> None:
    with start(*words) as process:
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0, said


def digest(path: Path) -> str:
    done = subprocess.run([*ENTRY, "data", "verify", path, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["ok"], found["problems"]
    return found["digest"]


def watched(words: tuple[object, ...], out: Path) -> tuple[float, float]:
    """Run undisturbed; seconds until the output's folder was there, and until the end."""
    began, appeared = time.perf_counter(), 0.0
    with start(*words, "--out", out) as process:
        while process.poll() is None:
            if not appeared and out.exists():
                appeared = time.perf_counter() - began
            time.sleep(0.002)
    assert process.returncode == 0
    return appeared, time.perf_counter() - began


def kill_once(words: tuple[object, ...], out: Path, delay: float) -> bool:
    """Kill the command ``delay`` seconds after its start; whether it was still at work."""
    with start(*words, "--out", out) as process:
        time.sleep(delay)
        process.kill()
    return process.returncode < 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", STEPS)
def test_twenty_kills_leave_the_undisturbed_digest(tmp_path, name, workers):
    seed = random.SystemRandom().randrange(10**6)
    print(f"moments drawn with seed {seed}")
    moments, guidance = random.Random(seed), tmp_path / "guidance.zarr"
    if "GUIDANCE" in STEPS[name]:
        carry_out("guide", "extract", IMAGES, "--granularity", "object", "--out", guidance)
    words = (*(guidance if word == "GUIDANCE" else word for word in STEPS[name]), "--workers", workers)
    appeared, whole = watched(words, tmp_path / "whole")
    expected, cut, out = digest(tmp_path / "whole"), 0, tmp_path / "killed0"
    for kill in range(KILLS):
        # No earlier than shortly before the first write: a process that is killed while importing proves nothing.
        if kill_once(words, out, moments.uniform(0.95 * appeared, whole)):
            cut += 1
            if kill % 4:  # most outputs are killed several times before they are finished
                continue
        carry_out(*words, "--out", out)
        assert digest(out) == expected
        assert not list(out.rglob("*.partial"))
        out = tmp_path / f"killed{kill + 1}"
    carry_out(*words, "--out", out)
    assert digest(out) == expected
    assert cut >= KILLS // 3, f"only {cut} of {KILLS} kills hit a command at work"
