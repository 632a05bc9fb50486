from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from semaug.artifacts.verify import verify
from semaug.ssl_methods.testing import small_run

SCRIPT = """
import sys
from semaug.ssl_methods.pretrain import Hardware
from semaug.ssl_methods.testing import small_run
small_run(sys.argv[1], hardware=Hardware(devices=2))
"""


def first_loss(folder):
    with open(folder / "metrics.csv") as file:
        return float(next(csv.DictReader(file))["loss"])


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    for _ in range(2):  # the second finds the run finished
        done = subprocess.run(
            [*launch, str(tmp_path / "two")], capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    small_run(tmp_path / "one")
    found = verify(tmp_path / "two")
    assert found.problems == ()
    assert found.items == 24
    # The same batches and the same candidates; batch norm sees half a batch on each process.
    assert first_loss(tmp_path / "two") == pytest.approx(first_loss(tmp_path / "one"), rel=0.15)
