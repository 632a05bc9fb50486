"""The estimate of the time left, by a clock of its own."""

from __future__ import annotations

import pytest

from semaug.cli.console import _rich_bar


def test_time_left_counts_what_jobs_do_without_a_step_to_count() -> None:
    """Four jobs of 100 steps, each 10 s of training and 50 s of scoring; two are done."""
    bar, now = _rich_bar(), [0.0]
    bar.get_time = lambda: now[0]
    task = bar.add_task("train", total=400, unit="steps")
    bar.update(task, completed=0)
    for step in range(1, 201):
        now[0] += 0.1
        bar.update(task, completed=step)
        if step % 100 == 0:
            now[0] += 50
    now[0] += 0.1
    bar.update(task, completed=201)
    left = bar.tasks[0].time_remaining
    assert left is not None
    assert left == pytest.approx(199 * (120.1 / 201), abs=2)
