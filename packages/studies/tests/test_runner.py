"""The queue of jobs: order, reuse, failures that stay alone, progress."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.progress import Progress
from semaug.artifacts.shards import LocalPool
from semaug.studies.runner import RESULT, TRIES, JobWorker, run_jobs


@dataclass(frozen=True)
class Square:
    name: str
    out: Path
    number: int
    steps: int = 2

    def describe(self):
        return {k: str(v) for k, v in asdict(self).items()}

    def run(self, on_progress):
        if self.number < 0:
            raise InvalidOption(f"number is {self.number},\nexpected 0 or more")
        self.out.mkdir(parents=True, exist_ok=True)
        calls = self.out / "calls"
        calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
        on_progress(Progress("look", 500, 500))  # images on the way are no steps
        on_progress(Progress("square", 2, 2, "steps"))
        return {"square": self.number**2}


def jobs(folder, *numbers):
    return [Square(f"job{i}", folder / f"job{i}", n) for i, n in enumerate(numbers)]


@pytest.mark.parametrize("workers", [1, 2, LocalPool(1)])
def test_results_come_in_order_and_a_failure_stays_alone(tmp_path, workers):
    events: list[Progress] = []
    outcomes = run_jobs(jobs(tmp_path, 3, -1, 5), workers=workers, on_progress=events.append)
    assert [o.result for o in outcomes] == [{"square": 9}, None, {"square": 25}]
    assert outcomes[1].error == "InvalidOption: number is -1, expected 0 or more"
    assert (events[-1].done, events[-1].total) == (6, 6)  # what failed is not waited for
    assert not list(tmp_path.glob("*.json"))  # an engine's notes beside the folders are gone


class Dies:
    """An engine whose process dies at the first job, and takes it up again, as often as it is asked to."""

    def run(self, worker, tasks, tick, what):
        for task in tasks:
            job, write = worker._jobs[task[0]], JobWorker._write
            for _ in range(3):
                if job.number == 4 and worker._read(job).get("tries", 0) < TRIES:
                    write(worker, job, worker._read(job).get("tries", 0) + 1, "its worker died")  # and no more of it
                else:
                    worker(task, tick)
                    break


def test_a_job_that_takes_down_its_workers_is_given_up_and_the_next_call_tries_again(tmp_path):
    outcomes = run_jobs(jobs(tmp_path, 3, 4, 5), workers=Dies())
    assert [o.result for o in outcomes] == [{"square": 9}, None, {"square": 25}]
    assert outcomes[1].error == f"it took down {TRIES} workers (killed, or out of memory)"
    assert not (tmp_path / "job1" / "calls").exists()
    assert run_jobs(jobs(tmp_path, 3, 4, 5))[1].result == {"square": 16}
    assert (tmp_path / "job0" / "calls").read_text() == "x"


def test_finished_jobs_are_not_run_again_and_changed_ones_are(tmp_path):
    run_jobs(jobs(tmp_path, 3, 4))
    outcomes = run_jobs(jobs(tmp_path, 3, 7))
    assert [o.result["square"] for o in outcomes] == [9, 49]
    assert (tmp_path / "job0" / "calls").read_text() == "x"
    assert (tmp_path / "job1" / "calls").read_text() == "xx"


def test_a_torn_result_is_made_again(tmp_path):
    run_jobs(jobs(tmp_path, 3))
    (tmp_path / "job0" / RESULT).write_text("{")
    assert run_jobs(jobs(tmp_path, 3))[0].result == {"square": 9}
    assert json.loads((tmp_path / "job0" / RESULT).read_text())["result"] == {"square": 9}


def test_progress_adds_up_over_jobs_and_counts_finished_ones(tmp_path):
    run_jobs(jobs(tmp_path, 3))
    events: list[Progress] = []
    run_jobs(jobs(tmp_path, 3, 4), on_progress=events.append)
    assert (events[0].done, events[0].total) == (2, 4)
    assert events[-1].done == 4
