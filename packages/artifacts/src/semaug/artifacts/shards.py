"""Shard by shard over a local pool of spawned workers; each loads its models once and writes whole shards."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from semaug.artifacts.errors import WorkerDied
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.schemas import ShardCosts, Skipped
from semaug.artifacts.store import ArtifactWriter, write_shard

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


def process_shards(
    writer: ArtifactWriter,
    work: ShardWork,
    *,
    stage: str,
    workers: int = 1,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Write every pending shard of ``writer`` by ``work``; 0 or 1 workers run in this process.

    Raises what the work raises, and ``WorkerDied`` when a worker process vanishes.
    """
    pending = writer.pending()
    counter = _Counter(writer.manifest.items, _items(writer, pending), stage, on_progress)
    if workers <= 1 or len(pending) <= 1:
        _run_here(writer, work, pending, counter.add)
    else:
        _run_pool(writer, work, pending, min(workers, len(pending)), counter)


class _Counter:
    def __init__(self, total: int, pending: int, stage: str, listen: OnProgress) -> None:
        self._done, self._total, self._stage, self._listen = total - pending, total, stage, listen
        listen(Progress(stage, self._done, total))

    def add(self, count: int) -> None:
        self._done += count
        self._listen(Progress(self._stage, self._done, self._total))


def _items(writer: ArtifactWriter, shards: list[int]) -> int:
    return sum(len(writer.manifest.shard_range(s)) for s in shards)


def _run_here(writer: ArtifactWriter, work: ShardWork, pending: list[int], tick: Tick) -> None:
    worker = _Worker(writer.path, work)
    for shard in pending:
        worker.process(shard, writer.manifest.shard_range(shard), tick)


class _Worker:
    """Runs shards with models that are loaded at the first one."""

    def __init__(self, path: Path, work: ShardWork) -> None:
        self._path, self._work = path, work
        self._runner: ShardRunner | None = None

    def process(self, shard: int, indices: range, tick: Tick) -> None:
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
        write_shard(self._path, shard, result.columns, skipped=result.skipped, costs=costs)


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _run_pool(writer: ArtifactWriter, work: ShardWork, pending: list[int], workers: int, counter: _Counter) -> None:
    context = multiprocessing.get_context("spawn")
    ticks: Any = context.SimpleQueue()
    drain = threading.Thread(target=_drain, args=(ticks, counter), daemon=True)
    drain.start()
    with _threads_per_worker(workers):
        pool = ProcessPoolExecutor(workers, context, _start_worker, (writer.path, work, ticks))
        try:
            futures = [pool.submit(_process, s, writer.manifest.shard_range(s)) for s in pending]
            for future in as_completed(futures):
                future.result()
        except BrokenProcessPool as error:
            raise WorkerDied(
                f"a worker of {writer.path} died (killed, or out of memory); rerun with fewer --workers, it resumes"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            ticks.put(None)
            drain.join()


def _drain(ticks: Any, counter: _Counter) -> None:
    while (count := ticks.get()) is not None:
        counter.add(count)


@contextmanager
def _threads_per_worker(workers: int) -> Iterator[None]:
    """Share the cores: native libraries read these variables when a worker imports them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    share = str(max(1, (os.cpu_count() or 1) // workers))
    added = {n: share for n in names if n not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


_WORKER: _Worker | None = None
_TICKS: Any = None


def _start_worker(path: Path, work: ShardWork, ticks: Any) -> None:
    global _WORKER, _TICKS
    _WORKER, _TICKS = _Worker(path, work), ticks
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: Any) -> None:
    """A worker whose parent was killed must not go on writing beside the rerun."""
    parent.join()
    os._exit(1)


def _process(shard: int, indices: range) -> None:
    assert _WORKER is not None
    _WORKER.process(shard, indices, _TICKS.put)
