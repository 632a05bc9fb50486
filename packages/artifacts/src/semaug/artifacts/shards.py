"""Shard by shard, in this process, a local pool of spawned workers or on another engine; a worker loads its models once
and writes whole shards."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from numpy.typing import NDArray

from semaug.artifacts.pool import spawn_map
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.schemas import ShardCosts, Skipped
from semaug.artifacts.store import ArtifactWriter, Place, write_shard

Tick = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The columns of one shard, the inputs it left out, and the seconds of the run that went into loading models."""

    columns: dict[str, NDArray]
    skipped: list[Skipped] = field(default_factory=list)
    warm_seconds: float = 0.0


class ShardRunner(Protocol):
    """What a worker keeps: models and an open source. ``tick(n)`` reports n more images done."""

    def run(self, indices: range, tick: Tick) -> ShardResult: ...


class ShardWork(Protocol):
    """A picklable description of the work; ``open`` is called once in each worker and loads what is heavy."""

    def open(self) -> ShardRunner: ...


Task = tuple[int, range]
"""A shard's number and its items."""


class TaskWorker(Protocol):
    """What an engine sends to its processes: a picklable callable that does one task and ticks items done."""

    def __call__(self, task: Task, tick: Tick) -> None: ...


class Engine(Protocol):
    """Where shards are worked on; ``LocalPool`` and ``ray_engine.RayEngine`` are engines.

    An engine never decides what is written: a shard's bytes depend on its items alone, and only its marker in the
    ledger says that it is done.
    """

    def run(self, worker: TaskWorker, tasks: Sequence[Task], tick: Tick, what: str) -> None:
        """Call a copy of ``worker`` on every task; ``what`` names the artifact in errors.

        ``tick`` counts items done; below 0 where work was lost and is done again.
        """


Workers = int | Engine
"""How many processes of this machine (0 or 1: this one), or an engine."""


def process_shards(
    writer: ArtifactWriter,
    work: ShardWork,
    *,
    stage: str,
    workers: Workers = 1,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Write every pending shard of ``writer`` by ``work``.

    Raises what the work raises, and ``WorkerDied`` when worker processes vanish.
    """
    pending = writer.pending()
    counter = _Counter(writer.manifest.items, _items(writer, pending), stage, on_progress)
    tasks = [(shard, writer.manifest.shard_range(shard)) for shard in pending]
    engine = LocalPool(workers) if isinstance(workers, int) else workers
    engine.run(ShardWorker(writer.place, work), tasks, counter.add, str(writer.path))


@dataclass(frozen=True, slots=True)
class LocalPool:
    """Spawned processes of this machine; 0 or 1 stay in this one."""

    workers: int = 1

    def run(self, worker: TaskWorker, tasks: Sequence[Task], tick: Tick, what: str) -> None:
        """Call a copy of ``worker`` on every task; raises ``WorkerDied`` when a process vanishes."""
        if self.workers <= 1 or len(tasks) <= 1:
            for task in tasks:
                worker(task, tick)
            return
        for _, future in spawn_map(worker, tasks, workers=min(self.workers, len(tasks)), on_event=tick, what=what):
            future.result()


class _Counter:
    def __init__(self, total: int, pending: int, stage: str, listen: OnProgress) -> None:
        self._done, self._total, self._stage, self._listen = total - pending, total, stage, listen
        listen(Progress(stage, self._done, total))

    def add(self, count: int) -> None:
        self._done += count
        self._listen(Progress(self._stage, self._done, self._total))


def _items(writer: ArtifactWriter, shards: list[int]) -> int:
    return sum(len(writer.manifest.shard_range(s)) for s in shards)


class ShardWorker:
    """Runs and writes shards with models that are loaded at the first one; a picklable copy serves each process."""

    def __init__(self, place: Place, work: ShardWork) -> None:
        self._place, self._work = place, work
        self._runner: ShardRunner | None = None

    def __call__(self, task: Task, tick: Tick) -> None:
        shard, indices = task
        started = time.perf_counter()
        if self._runner is None:
            self._runner = self._work.open()
        opened = time.perf_counter()
        result = self._runner.run(indices, tick)
        costs = ShardCosts(
            seconds=time.perf_counter() - opened - result.warm_seconds,
            warm_seconds=opened - started + result.warm_seconds,
            peak_memory=peak_memory(),
        )
        write_shard(self._place, shard, result.columns, skipped=result.skipped, costs=costs)


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")  # on Linux `ru_maxrss` also counts the process that started this one
    if status.is_file():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
