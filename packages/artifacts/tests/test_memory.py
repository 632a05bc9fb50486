"""Freed memory stays with the process, where the C library allows it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from semaug.artifacts.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
else:
    assert sys.argv[1] == "default" or not keep_freed_memory()
np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(10_000_000)  # 80 MB, taken and freed
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, **environment: str) -> int:
    """Pages that the kernel had to hand out anew while 80 MB were taken and freed twenty times."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    command = [sys.executable, "-c", FAULTS, mode]
    return int(subprocess.run(command, env=clean | environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_freed_blocks_are_used_again():
    assert faults("keep") < 0.1 * faults("default")


def test_a_users_own_setting_wins():
    faults("refused", MALLOC_TRIM_THRESHOLD_="1000000")
