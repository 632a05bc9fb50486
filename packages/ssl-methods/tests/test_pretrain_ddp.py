from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from semaug.artifacts.verify import verify
from semaug.ssl_methods.testing import small_run

SCRIPT = """
import sys
from semaug.ssl_methods.pretrain import Hardware
from semaug.ssl_methods.testing import small_run
small_run(sys.argv[1], pause=float(sys.argv[2]), hardware=Hardware(devices=int(sys.argv[3])))
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def launch(tmp_path):
    """Start the run in ``folder`` under torchrun, by which two processes share it; its processes are one group."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    started = []

    def start(folder, pause=0.0, devices=1):
        command = [*TORCHRUN, str(script), str(folder), str(pause), str(devices)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        started.append(subprocess.Popen(command, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish(process):
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said[-2000:]


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


def first_loss(folder):
    with open(folder / "metrics.csv") as file:
        return float(next(csv.DictReader(file))["loss"])


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path, launch):
    for devices in (2, 1):  # the second finds the run finished, and takes torchrun's word for the processes
        finish(launch(tmp_path / "two", devices=devices))
    small_run(tmp_path / "one")
    found = verify(tmp_path / "two")
    assert found.problems == ()
    assert found.items == 24
    # The same batches and the same candidates; batch norm sees half a batch on each process.
    assert first_loss(tmp_path / "two") == pytest.approx(first_loss(tmp_path / "one"), rel=0.15)


@pytest.mark.slow
def test_two_processes_killed_together_go_on_to_the_undisturbed_weights(tmp_path, launch):
    finish(launch(tmp_path / "whole"))
    for delay in (0.05, 0.3):
        process = launch(tmp_path / "killed", pause=0.1)
        wait_for(tmp_path / "killed" / "last.ckpt", process)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "encoder.json").exists()
    finish(launch(tmp_path / "killed"))
    assert verify(tmp_path / "killed").digest == verify(tmp_path / "whole").digest


@pytest.mark.slow
def test_processes_agree_on_the_step_to_stop_at(tmp_path, launch):
    process = launch(tmp_path / "run", pause=0.2)
    wait_for(tmp_path / "run" / "last.ckpt", process)
    os.kill(process.pid, signal.SIGTERM)  # torchrun hands it on to both
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "SIGTERM stopped the run at step" in said
    step = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"]
    assert step % 2 == 0  # a row of the curves, where they ask one another
    assert f"at step {step} of 24" in said
    finish(launch(tmp_path / "run"))
    finish(launch(tmp_path / "whole"))
    assert verify(tmp_path / "run").digest == verify(tmp_path / "whole").digest


@pytest.mark.slow
def test_devices_start_processes_of_their_own(tmp_path, launch):
    script = tmp_path / "alone.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "own"), "0", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    finish(launch(tmp_path / "torchrun"))
    assert verify(tmp_path / "own").digest == verify(tmp_path / "torchrun").digest
