"""Variants x seeds as a queue of jobs: each writes one folder, is skipped when done, and fails alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from semaug.artifacts.errors import SemaugError
from semaug.artifacts.files import write_atomic
from semaug.artifacts.pool import spawn_map
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress

RESULT = "result.json"


class Job(Protocol):
    """One picklable piece of work with a folder of its own."""

    @property
    def name(self) -> str: ...

    @property
    def out(self) -> Path: ...

    @property
    def steps(self) -> int:
        """How much work it is, in the unit that its progress events count."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that decides the result; a finished job of the same description is not run again."""
        ...

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """Do it; the answer is written to ``result.json``."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job: a result, or the one line that says why there is none."""

    name: str
    result: dict[str, Any] | None
    error: str = ""


def run_jobs(
    jobs: Sequence[Job], *, workers: int = 1, stage: str = "train", on_progress: OnProgress = ignore_progress
) -> list[Outcome]:
    """Run the jobs that are not done, ``workers`` at a time; outcomes come in the order of ``jobs``.

    A failed job does not stop the others. Raises ``WorkerDied`` when a worker process vanishes.
    """
    outcomes = {job.name: done for job in jobs if (done := _finished(job)) is not None}
    waiting = [job for job in jobs if job.name not in outcomes]
    meter = _Meter(jobs, set(outcomes), stage, on_progress)
    if workers <= 1 or len(waiting) <= 1:
        for job in waiting:
            outcomes[job.name] = _run_one(job, meter)
    else:
        pool = spawn_map(_run_one, waiting, workers=min(workers, len(waiting)), on_event=meter, what=stage)
        for job, future in pool:
            outcomes[job.name] = _outcome(job, future)
    return [outcomes[job.name] for job in jobs]


def _outcome(job: Job, future: Future[Outcome]) -> Outcome:
    error = future.exception()
    return future.result() if error is None else Outcome(job.name, None, _one_line(error))


def _run_one(job: Job, tick: Any) -> Outcome:
    try:
        result = job.run(lambda event: tick((job.name, event)))
    except SemaugError as error:
        if error.exit_code != SemaugError.exit_code:  # asked to stop, which is no outcome
            raise
        return Outcome(job.name, None, _one_line(error))
    record = {"job": _digest(job), "result": result}
    write_atomic(job.out / RESULT, json.dumps(record, indent=1).encode())
    return Outcome(job.name, json.loads(json.dumps(result)))


def _finished(job: Job) -> Outcome | None:
    try:
        record: Mapping[str, Any] = json.loads((job.out / RESULT).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return Outcome(job.name, record["result"]) if record.get("job") == _digest(job) else None


def _digest(job: Job) -> str:
    text = json.dumps(job.describe(), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Meter:
    """Adds the jobs' steps up; an event is (job name, Progress)."""

    def __init__(self, jobs: Sequence[Job], done: set[str], stage: str, listen: OnProgress) -> None:
        self._steps = {job.name: job.steps if job.name in done else 0 for job in jobs}
        self._total, self._stage, self._listen = sum(job.steps for job in jobs), stage, listen
        self._emit("")

    def __call__(self, event: tuple[str, Progress]) -> None:
        name, progress = event
        if progress.unit != "steps":  # images that a job looks at on its way
            return
        self._steps[name] = max(self._steps[name], progress.done)
        self._emit(name)

    def _emit(self, note: str) -> None:
        self._listen(Progress(self._stage, sum(self._steps.values()), self._total, "steps", note))
