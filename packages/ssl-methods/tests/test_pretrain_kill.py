from __future__ import annotations

import multiprocessing
import random
import signal
import time

import pytest

from semaug.artifacts.verify import verify
from semaug.ssl_methods.testing import small_run

PAUSE = 0.02


def kill_during(folder, delay, workers, after):
    """Start the run in a process of its own and kill it ``delay`` seconds after the file ``after`` is there."""
    multiprocessing.set_forkserver_preload(["semaug.ssl_methods.pretrain", "semaug.ssl_methods.testing"])
    settings = {"pause": PAUSE, "workers": workers}
    process = multiprocessing.get_context("forkserver").Process(target=small_run, args=(folder,), kwargs=settings)
    process.start()
    while not (folder / after).exists() and process.is_alive():
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL and not (folder / "encoder.json").exists()


def survive(folder, kills, seed, workers=0):
    """Kill one run at random moments, rerunning it each time; returns how many kills hit it in training."""
    moments = random.Random(seed)
    hits = 0
    for kill in range(kills):
        # Every other kill waits for the first checkpoint: workers take longer to start than the run to end.
        after = "last.ckpt" if kill % 2 == seed % 2 else "run.json"
        hits += kill_during(folder, moments.uniform(0, 12 * PAUSE), workers, after)
    return hits


def test_three_kills_leave_the_undisturbed_digest(tmp_path):
    hits = survive(tmp_path / "killed", 3, seed=0)
    small_run(tmp_path / "killed")
    small_run(tmp_path / "whole")
    assert hits >= 1
    assert verify(tmp_path / "killed").digest == verify(tmp_path / "whole").digest


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_kills_leave_the_undisturbed_digest(tmp_path, workers):
    small_run(tmp_path / "whole")
    hits = 0
    for k in range(20):
        hits += survive(tmp_path / f"killed{k}", 1, seed=k, workers=workers)
        small_run(tmp_path / f"killed{k}")
        assert verify(tmp_path / f"killed{k}").digest == verify(tmp_path / "whole").digest
    assert hits >= 15
