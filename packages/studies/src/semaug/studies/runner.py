"""Variants x seeds as a queue of jobs: each writes one folder, is skipped when done, and fails alone."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from semaug.artifacts.errors import SemaugError
from semaug.artifacts.files import write_atomic
from semaug.artifacts.pool import spawn_map
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.shards import Engine, Task, Tick, Workers

RESULT = "result.json"
TRIES = 2
"""How many workers of an engine a job may take down before it counts as the cause."""


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
    jobs: Sequence[Job], *, workers: Workers = 1, stage: str = "train", on_progress: OnProgress = ignore_progress
) -> list[Outcome]:
    """Run the jobs that are not done, ``workers`` at a time or on an engine; outcomes come in the order of ``jobs``.

    A failed job does not stop the others, nor does one that takes down ``TRIES`` workers of an engine. Raises
    ``WorkerDied`` when a local worker process vanishes.
    """
    outcomes = {job.name: done for job in jobs if (done := _finished(job)) is not None}
    waiting = [job for job in jobs if job.name not in outcomes]
    meter = _Meter(jobs, set(outcomes), stage, on_progress)
    for job, outcome in _running(waiting, workers, stage, meter):
        outcomes[job.name] = outcome
        meter.settle(job)
    return [outcomes[job.name] for job in jobs]


def _running(jobs: Sequence[Job], workers: Workers, stage: str, meter: _Meter) -> Iterator[tuple[Job, Outcome]]:
    """Every job with what became of it, as soon as that is known."""
    if not isinstance(workers, int):
        yield from _on_engine(jobs, workers, stage, meter)
    elif workers <= 1 or len(jobs) <= 1:
        yield from ((job, _run_one(job, meter)) for job in jobs)
    else:
        pool = spawn_map(_run_one, jobs, workers=min(workers, len(jobs)), on_event=meter, what=stage)
        yield from ((job, _outcome(job, future)) for job, future in pool)


def _on_engine(jobs: Sequence[Job], engine: Engine, stage: str, meter: _Meter) -> Iterator[tuple[Job, Outcome]]:
    worker = JobWorker(tuple(jobs), secrets.token_hex(8))
    engine.run(worker, [(number, range(job.steps)) for number, job in enumerate(jobs)], meter.tick, stage)
    yield from ((job, worker.outcome(job)) for job in jobs)


class JobWorker:
    """Does jobs in the processes of an engine. What became of one lies beside its folder, for whoever asks: a process
    that is killed tells nothing. ``call`` tells this call's tries from those of another."""

    def __init__(self, jobs: tuple[Job, ...], call: str) -> None:
        self._jobs, self._call = jobs, call

    def __call__(self, task: Task, tick: Tick) -> None:
        """Run one job, unless it took down as many workers as it may."""
        job = self._jobs[task[0]]
        tries = self._read(job).get("tries", 0)
        if tries >= TRIES:
            self._write(job, tries, f"it took down {tries} workers (killed, or out of memory)")
            return
        self._write(job, tries + 1, "its worker died")
        done = 0

        def report(event: tuple[str, Progress]) -> None:
            nonlocal done
            if event[1].unit == "steps" and event[1].done > done:
                tick(event[1].done - done)
                done = event[1].done

        outcome = _run_one(job, report)
        self._write(job, tries + 1, outcome.error)

    def outcome(self, job: Job) -> Outcome:
        """What became of a job: its result, or the reason that was left."""
        found = _finished(job) or Outcome(job.name, None, self._read(job).get("error") or "it has not run")
        self._place(job).unlink(missing_ok=True)
        return found

    def _read(self, job: Job) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = json.loads(self._place(job).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return kept if kept.get("call") == self._call else {}

    def _write(self, job: Job, tries: int, error: str) -> None:
        place = self._place(job)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, json.dumps({"call": self._call, "tries": tries, "error": error}).encode())

    @staticmethod
    def _place(job: Job) -> Path:
        return job.out.with_name(f"{job.out.name}.tries.json")


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
        self._total, self._stage, self._listen, self._ticked = sum(job.steps for job in jobs), stage, listen, 0
        self._emit("")

    def __call__(self, event: tuple[str, Progress]) -> None:
        name, progress = event
        if progress.unit != "steps":  # images that a job looks at on its way
            return
        self._steps[name] = max(self._steps[name], progress.done)
        self._emit(name)

    def tick(self, count: int) -> None:
        """Count steps of jobs on an engine, which does not say of which."""
        self._ticked += count
        self._emit("")

    def settle(self, job: Job) -> None:
        """Count a job that ended, whatever became of it, as done: nothing of it is left to wait for."""
        self._steps[job.name] = job.steps
        self._ticked = 0
        self._emit(job.name)

    def _emit(self, note: str) -> None:
        self._listen(Progress(self._stage, sum(self._steps.values()) + self._ticked, self._total, "steps", note))
